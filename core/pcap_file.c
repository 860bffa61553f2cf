/* SPDX-License-Identifier: BSD-3-Clause */
/* pcap_file.c - reads capture files (pcap, pcapng) packet by packet, with libpcap. */
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <pcap/pcap.h>

/* libpcap's own handle; this name keeps its types out of the boundary. */
static pcap_t *handle(struct tw_capture *capture)
{
	return (pcap_t *)capture;
}

/* A file, and nothing that might keep the control thread waiting. */
static FILE *file_open(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat stat;
	FILE *file;

	if (fd < 0) {
		tw_fail(errno, "capture file \"%s\": %s", path, strerror(errno));
		return NULL;
	}
	if (fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode)) {
		tw_fail(EINVAL, "capture file \"%s\": it is not a regular file", path);
		close(fd);
		return NULL;
	}
	if (stat.st_size == 0) {
		tw_fail(EINVAL, "capture file \"%s\": it is empty", path);
		close(fd);
		return NULL;
	}
	file = fdopen(fd, "r");
	if (!file) {
		tw_fail(ENOMEM, "capture file \"%s\": %s", path, strerror(errno));
		close(fd);
	}
	return file;
}

struct tw_capture *tw_capture_open(const char *path)
{
	char text[PCAP_ERRBUF_SIZE];
	FILE *file = file_open(path);
	const char *name;
	pcap_t *pcap;

	if (!file)
		return NULL;
	pcap = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, text);
	if (!pcap) {
		fclose(file);
		tw_fail(EINVAL, "capture file \"%s\": %s; it must be pcap or pcapng", path, text);
		return NULL;
	}
	if (pcap_datalink(pcap) != DLT_EN10MB) {
		name = pcap_datalink_val_to_name(pcap_datalink(pcap));
		tw_fail(EINVAL,
		        "capture file \"%s\": its packets are of link type %s (%d), not Ethernet; "
		        "capture on one Ethernet interface (\"any\" gives another type)",
		        path, name ? name : "unknown", pcap_datalink(pcap));
		pcap_close(pcap);
		return NULL;
	}
	return (struct tw_capture *)pcap;
}

int tw_capture_next(struct tw_capture *capture, struct tw_capture_packet *packet)
{
	struct pcap_pkthdr *head;
	const u_char *bytes;

	switch (pcap_next_ex(handle(capture), &head, &bytes)) {
	case 1:
		packet->bytes = bytes;
		packet->caplen = head->caplen;
		packet->len = head->len;
		/* The precision that was asked for: tv_usec counts ns. */
		packet->time = head->ts.tv_sec * 1000000000ull + head->ts.tv_usec;
		return 1;
	case PCAP_ERROR_BREAK:
		return 0;
	default:
		return tw_fail(EIO, "%s", pcap_geterr(handle(capture)));
	}
}

void tw_capture_close(struct tw_capture *capture)
{
	if (capture)
		pcap_close(handle(capture));
}
