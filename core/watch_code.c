/* SPDX-License-Identifier: BSD-3-Clause */
/* watch_code.c - filters as classic BPF, for the compiler that puts them into programs of hooks. */
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <string.h>

#include <pcap/pcap.h>

#define FRAME_MAX 65535

_Static_assert(sizeof(struct tw_filter_insn) == sizeof(struct bpf_insn), "struct bpf_insn");

int tw_filter_code(const char *filter, bool ip, struct tw_filter_insn *code, uint32_t room)
{
	struct bpf_program program;
	pcap_t *pcap;
	int rc;

	if (!filter[strspn(filter, " \t\n")])
		return 0;
	pcap = pcap_open_dead(ip ? DLT_RAW : DLT_EN10MB, FRAME_MAX);
	if (!pcap)
		return tw_fail(ENOMEM, "no memory for a filter");
	if (pcap_compile(pcap, &program, filter, 1, PCAP_NETMASK_UNKNOWN) < 0) {
		rc = tw_fail(EINVAL, "filter \"%s\": %s; man pcap-filter has the language", filter,
		             pcap_geterr(pcap));
		goto out;
	}
	rc = (int)program.bf_len;
	if (program.bf_len > room)
		rc = tw_fail(E2BIG,
		             "filter \"%s\": it is %u instructions, and a hook takes %u; use a "
		             "shorter one",
		             filter, program.bf_len, room);
	else
		memcpy(code, program.bf_insns, program.bf_len * sizeof(*code));
	pcap_freecode(&program);
out:
	pcap_close(pcap);
	return rc;
}

bool tw_filter_run(const struct tw_filter_insn *code, const uint8_t *frame, uint32_t caplen,
                   uint32_t len)
{
	return bpf_filter((const struct bpf_insn *)code, frame, len, caplen) != 0;
}
