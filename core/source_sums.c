/* SPDX-License-Identifier: BSD-3-Clause */
/* source_sums.c - checksums of a source: which bytes count for them, what is fixed in each frame,
 * in which order they are computed. */
#include "source_traffic.h"
#include "error.h"

#include <errno.h>
#include <string.h>

#define ETHER_BYTES 14u

static uint32_t big16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

/* Where the payload of an IP header ends. */
static uint32_t ip_end(const uint8_t *bytes, uint32_t len, uint32_t ip, unsigned version)
{
	uint32_t end = len;

	if (version == 4 && ip + 4 <= len)
		end = ip + big16(bytes + ip + 2);
	else if (version == 6 && ip + 6 <= len)
		end = ip + 40 + big16(bytes + ip + 4);
	return end < len ? end : len;
}

/* The end of what a sum without a length counts: that of the IP packet whose addresses are in its
 * pseudo header, or of the outermost one, which is the end of all that are in it. */
static uint32_t payload_end(const struct tw_source_sum *sum, const uint8_t *bytes, uint32_t len)
{
	uint32_t addresses = 0, at = ETHER_BYTES - 2, type;

	for (unsigned i = 0; i < sum->spans; i++)
		addresses += sum->span[i].bytes;
	if (sum->spans && addresses == 8 && sum->span[0].at >= 12)
		return ip_end(bytes, len, sum->span[0].at - 12, 4);
	if (sum->spans && addresses == 32 && sum->span[0].at >= 8)
		return ip_end(bytes, len, sum->span[0].at - 8, 6);
	do {
		type = at + 2 <= len ? big16(bytes + at) : 0;
		at += type == 0x8100 || type == 0x88a8 ? 4 : 2;
	} while (type == 0x8100 || type == 0x88a8);
	return ip_end(bytes, len, at, type == 0x0800 ? 4 : type == 0x86dd ? 6 : 0);
}

static uint32_t sum_end(const struct tw_source_sum *sum, const uint8_t *bytes, uint32_t len)
{
	return sum->length ? sum->from + sum->length : payload_end(sum, bytes, len);
}

static uint32_t add_words(uint32_t sum, const uint8_t *bytes, uint32_t n)
{
	uint64_t wide = sum;

	for (uint32_t i = 0; i < n; i++)
		wide += (uint64_t)bytes[i] << (i % 2 ? 8 : 0);
	while (wide >> 16)
		wide = (wide & 0xffff) + (wide >> 16);
	return (uint32_t)wide;
}

/* How often a byte counts for a sum whose data end there; *odd: at an odd distance. */
static unsigned counts(const struct tw_source_sum *sum, uint32_t end, uint32_t at, bool *odd)
{
	unsigned times = 0;

	if (at >= sum->from && at < end) {
		*odd = (at - sum->from) % 2;
		times++;
	}
	for (unsigned i = 0; i < sum->spans; i++)
		if (at >= sum->span[i].at && at < sum->span[i].at + sum->span[i].bytes) {
			*odd = (at - sum->span[i].at) % 2;
			times++;
		}
	return times;
}

/* Whether bytes count for a sum: 1, all once, *odd: from an odd distance on; 0, none; else -1. */
static int covers(const struct tw_source_sum *sum, uint32_t end, uint32_t at, uint32_t n, bool *odd)
{
	unsigned found = 0;
	bool first = false, here = false;

	for (uint32_t i = 0; i < n; i++) {
		unsigned times = counts(sum, end, at + i, &here);

		if (times == 0)
			continue;
		if (i == 0)
			first = here;
		if (times > 1 || here != (first ^ (i % 2)) || found != i)
			return -1;
		found++;
	}
	*odd = first;
	return found == n ? 1 : found == 0 ? 0 : -1;
}

int tw_sum_check(const struct tw_source_sum *sum, unsigned nr, uint32_t shortest)
{
	if (sum->at > shortest || sum->at + 2 > shortest)
		return tw_fail(EINVAL, "sum %u: byte %u lies beyond the shortest frame, of %u", nr,
		               sum->at + 1, shortest);
	if (sum->length > shortest || sum->from >= shortest || sum->from + sum->length > shortest)
		return tw_fail(EINVAL,
		               "sum %u: from byte %u, %u of them, lies beyond the shortest frame, "
		               "of %u",
		               nr, sum->from, sum->length, shortest);
	if (sum->spans > TW_SOURCE_SPANS_MAX)
		return tw_fail(EINVAL, "sum %u: a pseudo header of %u spans; %d are the limit", nr,
		               sum->spans, TW_SOURCE_SPANS_MAX);
	for (unsigned i = 0; i < sum->spans; i++) {
		const struct tw_source_span *span = &sum->span[i];

		if (span->at > shortest || span->bytes > shortest ||
		    span->at + span->bytes > shortest)
			return tw_fail(EINVAL,
			               "sum %u: bytes %u to %u of the pseudo header lie beyond the "
			               "shortest frame, of %u",
			               nr, span->at, span->at + span->bytes - 1, shortest);
	}
	return 0;
}

/* What a field, or another checksum, does to a sum, in all frames alike. */
static int relate(const struct tw_source_sum *sum, unsigned nr, const char *what, unsigned what_nr,
                  uint32_t at, uint32_t n, const uint32_t ends[2], bool *odd)
{
	int in = covers(sum, ends[0], at, n, odd);

	if (in >= 0 && in == covers(sum, ends[1], at, n, odd))
		return in;
	return tw_fail(EINVAL,
	               "%s %u: of its bytes, %u to %u, sum %u counts some and not others, or not "
	               "in all frames",
	               what, what_nr, at, at + n - 1, nr);
}

static int fields_relate(struct tw_program *program, const struct tw_source_traffic *t, unsigned s,
                         const uint32_t ends[2])
{
	for (unsigned f = 0; f < t->n_fields; f++) {
		const struct tw_source_field *field = &t->fields[f];
		bool odd = false, said = field->sums >> s & 1;
		int in = relate(&t->sums[s], s + 1, "field", f + 1, field->at, field->bytes, ends,
		                &odd);

		if (in < 0)
			return in;
		if (in != said)
			return tw_fail(
				EINVAL,
				"field %u: it %s for sum %u, whose bytes it is %s; the checksum "
				"would be wrong",
				f + 1, said ? "is said to count" : "is not said to count", s + 1,
				in ? "among" : "not among");
		program->field[f].odd |= odd << s;
	}
	return 0;
}

/* Puts sums in an order in which one comes before those that it counts for. */
static int sums_order(struct tw_program *program, const struct tw_source_traffic *t,
                      uint32_t ends[][2])
{
	struct tw_made_sum made[TW_SOURCE_SUMS_MAX] = { 0 };
	unsigned done = 0, all = (1u << t->n_sums) - 1;

	for (unsigned k = 0; k < t->n_sums; k++) {
		made[k] = (struct tw_made_sum){ .udp = t->sums[k].udp, .slot = k };
		for (unsigned m = 0; m < t->n_sums; m++) {
			bool odd = false;
			int in = k == m ? 0
			                : relate(&t->sums[m], m + 1, "sum", k + 1, t->sums[k].at, 2,
			                         ends[m], &odd);

			if (in < 0)
				return in;
			made[k].over |= in << m;
			made[k].odd |= odd << m;
		}
	}
	while (done != all) {
		unsigned before = done, waiting = all & ~done;

		for (unsigned k = 0; k < t->n_sums; k++) {
			bool inner = false;

			for (unsigned m = 0; m < t->n_sums; m++)
				inner |= (waiting >> m & 1) && (made[m].over >> k & 1);
			if ((waiting >> k & 1) && !inner) {
				program->sum[program->n_sums++] = made[k];
				done |= 1u << k;
			}
		}
		if (done == before)
			return tw_fail(EINVAL, "sums count each other's checksums");
	}
	return 0;
}

/* Of the stamp: 0, or 1 or 256 by its distance. */
static int stamp_factor(const struct tw_source_sum *sum, unsigned s, uint32_t frame, uint32_t len,
                        uint32_t end)
{
	bool odd = false;
	int in = covers(sum, end, len - TW_SOURCE_STAMP_BYTES, TW_SOURCE_STAMP_BYTES, &odd);

	if (in < 0)
		return tw_fail(
			EINVAL,
			"frame %u: sum %u ends at byte %u, in the middle of the stamp, which "
			"begins at byte %u",
			frame + 1, s + 1, end, len - TW_SOURCE_STAMP_BYTES);
	return in ? odd ? 256 : 1 : 0;
}

static void write_fixed(const struct tw_made_sum *made, uint32_t at, struct tw_frame *frame)
{
	uint16_t sum = (uint16_t)~frame->base[made->slot];

	if (sum == 0 && made->udp)
		sum = 0xffff;
	memcpy(frame->bytes + at, &sum, sizeof(sum));
}

int tw_sums_frame(const struct tw_program *program, const struct tw_source_traffic *t, uint32_t nr,
                  const uint8_t *bytes, struct tw_frame *frame)
{
	for (unsigned k = 0; k < program->n_sums; k++) {
		unsigned s = program->sum[k].slot;
		const struct tw_source_sum *sum = &t->sums[s];
		uint32_t end = sum_end(sum, bytes, frame->len), length = end - sum->from;
		uint8_t pseudo[4] = { 0, sum->protocol, (uint8_t)(length >> 8), (uint8_t)length };
		int factor = t->stamp ? stamp_factor(sum, s, nr, frame->len, end) : 0;
		uint32_t base;

		if (factor < 0)
			return factor;
		base = add_words(0, frame->bytes + sum->from, length);
		if (sum->spans)
			base = add_words(base, pseudo, sizeof(pseudo));
		for (unsigned i = 0; i < sum->spans; i++)
			base = add_words(base, frame->bytes + sum->span[i].at, sum->span[i].bytes);
		frame->base[s] = base;
		frame->stamp[s] = (uint16_t)factor;
		if (program->sum[k].fixed)
			write_fixed(&program->sum[k], sum->at, frame);
	}
	return 0;
}

/* Where the data of a sum end: in the frame where they end first, and where last. */
static int ends_of(const struct tw_source_traffic *t, unsigned s, uint32_t ends[2])
{
	const struct tw_source_sum *sum = &t->sums[s];
	const uint8_t *bytes = t->bytes;

	ends[0] = UINT32_MAX;
	ends[1] = 0;
	for (uint32_t i = 0; i < t->n_frames; bytes += t->lengths[i++]) {
		uint32_t end = sum_end(sum, bytes, t->lengths[i]);

		if (end <= sum->from)
			return tw_fail(
				EINVAL,
				"sum %u: from byte %u, and in frame %u the IP packet ends at "
				"byte %u",
				s + 1, sum->from, i + 1, end);
		ends[0] = RTE_MIN(ends[0], end);
		ends[1] = RTE_MAX(ends[1], end);
	}
	return 0;
}

/* Those for which no field counts, no stamp and no other one that is not fixed. */
static void find_fixed(struct tw_program *program, const struct tw_source_traffic *t,
                       uint32_t shortest, uint32_t ends[][2])
{
	for (unsigned k = 0; k < program->n_sums; k++) {
		struct tw_made_sum *made = &program->sum[k];
		bool varies = t->stamp && ends[made->slot][1] > shortest - TW_SOURCE_STAMP_BYTES;

		for (unsigned f = 0; f < t->n_fields; f++)
			varies |= t->fields[f].sums >> made->slot & 1;
		for (unsigned i = 0; i < k; i++)
			varies |= !program->sum[i].fixed &&
			          (program->sum[i].over >> made->slot & 1);
		made->fixed = !varies;
	}
}

int tw_sums_make(struct tw_program *program, const struct tw_source_traffic *t, uint32_t shortest)
{
	uint32_t ends[TW_SOURCE_SUMS_MAX][2];
	int err = 0;

	for (unsigned s = 0; s < t->n_sums && err == 0; s++) {
		err = ends_of(t, s, ends[s]);
		if (err == 0)
			err = fields_relate(program, t, s, ends[s]);
	}
	if (err == 0)
		err = sums_order(program, t, ends);
	if (err == 0)
		find_fixed(program, t, shortest, ends);
	return err;
}
