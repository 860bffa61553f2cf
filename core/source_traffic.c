/* SPDX-License-Identifier: BSD-3-Clause */
/* source_traffic.c - what a source is to make, checked and made ready for the loops of
 * source_make.c: frames with the sums of all that does not vary, tables of zipf indexes. */
#include "source_traffic.h"
#include "error.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ETHER_BYTES 14u
#define ORDER_MAX (1u << 24)

/* ---- indexes ---- */

/* The alias method (Vose, A Linear Algorithm for Generating Random Numbers with a Given
 * Distribution, 1991): what columns lack of 1/n is filled up from those that have more. */
static struct tw_alias *alias_new(uint32_t n, double skew)
{
	struct tw_alias *alias = malloc(n * sizeof(*alias));
	double *share = malloc(n * sizeof(*share)), sum = 0;
	uint32_t *todo = malloc(n * sizeof(*todo)), small = 0, large = n;

	if (!alias || !share || !todo) {
		free(alias);
		alias = NULL;
		goto out;
	}
	for (uint32_t i = 0; i < n; i++)
		sum += share[i] = pow((double)i + 1, -skew);
	/* From the left those below average, from the right the others. */
	for (uint32_t i = 0; i < n; i++) {
		share[i] *= n / sum;
		todo[share[i] < 1 ? small++ : --large] = i;
	}
	while (small > 0 && large < n) {
		uint32_t less = todo[--small], more = todo[large];

		alias[less] = (struct tw_alias){ (uint32_t)(share[less] * 0x1p32), more };
		share[more] -= 1 - share[less];
		if (share[more] < 1) {
			large++;
			todo[small++] = more;
		}
	}
	while (large < n)
		todo[small++] = todo[large++];
	while (small > 0) {
		uint32_t whole = todo[--small];

		alias[whole] = (struct tw_alias){ UINT32_MAX, whole };
	}
out:
	free(share);
	free(todo);
	return alias;
}

static int index_make(struct tw_made_index *made, const struct tw_source_index *index, unsigned nr,
                      uint64_t *bytes_left)
{
	if (index->n < 1 || index->n > 1ull << 32)
		return tw_fail(EINVAL, "index %u: n is %" PRIu64 "; it can be 1 to 2^32", nr,
		               index->n);
	if (index->kind == TW_SOURCE_COUNT && index->every < 1)
		return tw_fail(EINVAL, "index %u: every is 0; it is at least 1", nr);
	*made = (struct tw_made_index){ .kind = index->kind,
		                        .n = index->n,
		                        .every = index->every ? index->every : 1,
		                        .seed = index->seed };
	if (index->kind != TW_SOURCE_ZIPF)
		return index->kind <= TW_SOURCE_ZIPF
		               ? 0
		               : tw_fail(EINVAL, "index %u: there is no kind %u", nr, index->kind);
	if (index->n > TW_SOURCE_ZIPF_MAX)
		return tw_fail(EINVAL, "index %u: n is %" PRIu64 "; of zipf it can be up to %d", nr,
		               index->n, TW_SOURCE_ZIPF_MAX);
	if (!(index->skew >= 0 && index->skew <= 100))
		return tw_fail(EINVAL, "index %u: skew is %g; it can be 0 to 100", nr, index->skew);
	if (index->n * sizeof(struct tw_alias) > *bytes_left)
		return tw_fail(ENOMEM,
		               "index %u: zipf with n = %" PRIu64 " needs %zu MB, and %" PRIu64
		               " MB are left of what the source may take; raise memory_mb",
		               nr, index->n, index->n * sizeof(struct tw_alias) >> 20,
		               *bytes_left >> 20);
	*bytes_left -= index->n * sizeof(struct tw_alias);
	made->alias = alias_new((uint32_t)index->n, index->skew);
	return made->alias ? 0 : tw_fail(ENOMEM, "index %u: no memory for its table", nr);
}

/* ---- fields ---- */

static int field_check(const struct tw_source_traffic *t, unsigned nr, uint32_t shortest)
{
	const struct tw_source_field *field = &t->fields[nr];

	if (field->bytes < 1 || field->bytes > 8)
		return tw_fail(EINVAL, "field %u has %u bytes; it can be 1 to 8", nr + 1,
		               field->bytes);
	if (field->at > shortest || field->at + field->bytes > shortest)
		return tw_fail(EINVAL,
		               "field %u: bytes %u to %u lie beyond the shortest frame, of %u",
		               nr + 1, field->at, field->at + field->bytes - 1, shortest);
	if (field->index >= t->n_indexes)
		return tw_fail(EINVAL, "field %u: index %u; there are %u", nr + 1, field->index + 1,
		               t->n_indexes);
	if (field->sums >> t->n_sums)
		return tw_fail(EINVAL, "field %u: it counts for a sum beyond the last, %u", nr + 1,
		               t->n_sums);
	if (field->right > 31)
		return tw_fail(EINVAL, "field %u: right is %" PRIu64 "; it can be 0 to 31", nr + 1,
		               field->right);
	if (field->kind > TW_SOURCE_SCATTER)
		return tw_fail(EINVAL, "field %u: there is no kind %u", nr + 1, field->kind);
	if (field->kind != TW_SOURCE_STEP && field->count == 0)
		return tw_fail(EINVAL, "field %u: the %s is empty", nr + 1,
		               field->kind == TW_SOURCE_LIST ? "list" : "range of scatter");
	return 0;
}

static struct tw_part part_of(const struct tw_program *program, uint32_t at, uint32_t bytes)
{
	struct tw_part part = { .shift = 8 * (at % 8), .goes_on = at % 8 + bytes > 8 };

	while (program->window[part.window] != at / 8 * 8)
		part.window++;
	return part;
}

static void window_add(struct tw_program *program, uint16_t at)
{
	unsigned w = program->n_windows;

	for (unsigned i = 0; i < program->n_windows; i++)
		if (program->window[i] == at)
			return;
	for (; w > 0 && program->window[w - 1] > at; w--)
		program->window[w] = program->window[w - 1];
	program->window[w] = at;
	program->n_windows++;
}

static void windows_add(struct tw_program *program, uint32_t at, uint32_t bytes)
{
	window_add(program, (uint16_t)(at / 8 * 8));
	window_add(program, (uint16_t)((at + bytes - 1) / 8 * 8));
}

static void windows_make(struct tw_program *program, const struct tw_source_traffic *t)
{
	for (unsigned f = 0; f < t->n_fields; f++)
		windows_add(program, t->fields[f].at, t->fields[f].bytes);
	for (unsigned k = 0; k < program->n_sums; k++)
		if (!program->sum[k].fixed)
			windows_add(program, t->sums[program->sum[k].slot].at, 2);
	for (unsigned f = 0; f < t->n_fields; f++)
		program->field[f].part = part_of(program, t->fields[f].at, t->fields[f].bytes);
	for (unsigned k = 0; k < program->n_sums; k++)
		if (!program->sum[k].fixed)
			program->sum[k].part = part_of(program, t->sums[program->sum[k].slot].at,
			                               2);
}

static int field_make(struct tw_made_field *made, const struct tw_source_field *field, unsigned nr)
{
	uint64_t all = ~0ull >> (64 - 8 * field->bytes);
	bool wide = field->bytes > 4 || (field->kind == TW_SOURCE_SCATTER && field->count >> 32);

	*made = (struct tw_made_field){
		.kind = field->kind,
		.index = field->index,
		.sums = field->sums,
		.wide = wide,
		.shift = (wide ? 64 : 32) - 8 * field->bytes,
		.mask = __builtin_bswap64(field->mask & all) >> (64 - 8 * field->bytes),
		.base = field->base,
		.step = field->step,
		.right = field->right,
		.count = field->count,
		.seed = (field->seed + nr + 1) * 0x9e3779b97f4a7c15,
	};
	if (field->kind != TW_SOURCE_LIST)
		return 0;
	made->list = malloc(field->count * sizeof(*made->list));
	if (!made->list)
		return tw_fail(ENOMEM, "field %u: no memory for a list of %" PRIu64, nr + 1,
		               field->count);
	memcpy(made->list, field->list, field->count * sizeof(*made->list));
	return 0;
}

/* ---- frames ---- */

/* The frame with all that varies zero. */
static void blank(const struct tw_program *program, const struct tw_source_traffic *t,
                  uint8_t *bytes, uint32_t len)
{
	for (unsigned f = 0; f < t->n_fields; f++)
		for (unsigned i = 0; i < t->fields[f].bytes; i++)
			bytes[t->fields[f].at + i] &= ~(uint8_t)(program->field[f].mask >> 8 * i);
	for (unsigned s = 0; s < t->n_sums; s++)
		memset(bytes + t->sums[s].at, 0, 2);
	if (t->stamp)
		memset(bytes + len - TW_SOURCE_STAMP_BYTES, 0, TW_SOURCE_STAMP_BYTES);
}

static int frame_make(const struct tw_program *program, const struct tw_source_traffic *t,
                      uint32_t nr, const uint8_t *bytes, struct tw_frame *frame, uint32_t room)
{
	uint32_t len = t->lengths[nr], copy = RTE_ALIGN_CEIL(len, 64);

	*frame = (struct tw_frame){ .len = len, .copy = copy <= room ? copy : len };
	memcpy(frame->bytes, bytes, len);
	memset(frame->bytes + len, 0, copy - len);
	blank(program, t, frame->bytes, len);
	return tw_sums_frame(program, t, nr, bytes, frame);
}

static int frames_make(struct tw_program *program, const struct tw_source_traffic *t,
                       uint64_t bytes_max, uint32_t room)
{
	uint32_t *place = malloc(t->n_frames * sizeof(*place));
	const uint8_t *bytes = t->bytes;
	uint64_t size = 0, total = 0;
	int err = 0;

	for (uint32_t i = 0; i < t->n_frames && place; i++) {
		place[i] = (uint32_t)(size / TW_FRAME_UNIT);
		size += sizeof(struct tw_frame) + RTE_ALIGN_CEIL(t->lengths[i], 64);
	}
	program->n_order = t->order ? t->n_order : t->n_frames;
	program->order = malloc(program->n_order * sizeof(*program->order));
	if (size + program->n_order * sizeof(*program->order) > bytes_max) {
		free(place);
		return tw_fail(ENOMEM,
		               "%u frames need %" PRIu64 " MB, and the source may take %" PRIu64
		               " MB more; raise memory_mb, or give it fewer",
		               t->n_frames, (size >> 20) + 1, bytes_max >> 20);
	}
	program->frames = aligned_alloc(64, RTE_ALIGN_CEIL(size, 64));
	if (!place || !program->order || !program->frames) {
		free(place);
		return tw_fail(ENOMEM, "no memory for %u frames", t->n_frames);
	}
	for (uint32_t i = 0; i < t->n_frames && !err; i++) {
		err = frame_make(program, t, i, bytes,
		                 (void *)(program->frames + (size_t)place[i] * TW_FRAME_UNIT),
		                 room);
		bytes += t->lengths[i];
	}
	for (uint32_t i = 0; i < program->n_order && !err; i++) {
		uint32_t frame = t->order ? t->order[i] : i;

		if (frame >= t->n_frames) {
			err = tw_fail(EINVAL, "order %u is frame %u; there are %u", i + 1,
			              frame + 1, t->n_frames);
			break;
		}
		program->order[i] = place[frame];
		total += t->lengths[frame];
	}
	program->mean = (double)total / program->n_order;
	program->alike = t->n_frames == 1;
	free(place);
	return err;
}

/* ---- all of it ---- */

static int lengths_check(const struct tw_source_traffic *t, uint32_t room, uint32_t *shortest)
{
	uint32_t least = t->stamp ? ETHER_BYTES + TW_SOURCE_STAMP_BYTES : ETHER_BYTES;

	if (t->n_frames == 0 || (t->order && t->n_order == 0))
		return tw_fail(EINVAL, "there is no frame to send");
	if (t->order && t->n_order > ORDER_MAX)
		return tw_fail(EINVAL, "an order of %u packets; %u are the limit", t->n_order,
		               ORDER_MAX);
	if (t->n_indexes > TW_SOURCE_INDEXES_MAX || t->n_fields > TW_SOURCE_FIELDS_MAX ||
	    t->n_sums > TW_SOURCE_SUMS_MAX)
		return tw_fail(E2BIG,
		               "%u indexes, %u fields and %u sums; the limits are %d, %d and %d",
		               t->n_indexes, t->n_fields, t->n_sums, TW_SOURCE_INDEXES_MAX,
		               TW_SOURCE_FIELDS_MAX, TW_SOURCE_SUMS_MAX);
	*shortest = UINT32_MAX;
	for (uint32_t i = 0; i < t->n_frames; i++) {
		*shortest = RTE_MIN(*shortest, t->lengths[i]);
		if (t->lengths[i] < least)
			return tw_fail(EINVAL, "frame %u has %u bytes; %s%u are the least", i + 1,
			               t->lengths[i], t->stamp ? "with a stamp " : "", least);
		/* What varies is written 8 bytes at a time. */
		if (t->lengths[i] > room / 8 * 8)
			return tw_fail(EMSGSIZE,
			               "frame %u has %u bytes, and a packet buffer holds %u; raise "
			               "tw.options { mbuf_size = %u }",
			               i + 1, t->lengths[i], room,
			               RTE_ALIGN_CEIL(t->lengths[i], 64));
	}
	return 0;
}

/* What varies must leave room for the stamp. */
static int stamp_check(const struct tw_source_traffic *t, uint32_t shortest)
{
	uint32_t stamp = shortest - TW_SOURCE_STAMP_BYTES;

	for (unsigned f = 0; f < t->n_fields && t->stamp; f++)
		if (t->fields[f].at + t->fields[f].bytes > stamp)
			return tw_fail(
				EINVAL,
				"field %u: bytes %u to %u lie in the stamp, the last %d of the "
				"shortest frame, of %u",
				f + 1, t->fields[f].at, t->fields[f].at + t->fields[f].bytes - 1,
				TW_SOURCE_STAMP_BYTES, shortest);
	for (unsigned s = 0; s < t->n_sums && t->stamp; s++)
		if (t->sums[s].at + 2 > stamp)
			return tw_fail(
				EINVAL,
				"sum %u: byte %u lies in the stamp, the last %d of the shortest "
				"frame, of %u",
				s + 1, t->sums[s].at, TW_SOURCE_STAMP_BYTES, shortest);
	return 0;
}

/* No bit may be written twice: sums would count it twice. claims: by byte of the shortest frame,
 * the bits that are taken. */
static int claim(uint8_t *claims, const char *what, unsigned nr, uint32_t at, uint32_t bytes,
                 uint64_t mask)
{
	for (uint32_t i = 0; i < bytes; i++) {
		uint8_t bits = (uint8_t)(mask >> 8 * i);

		if (claims[at + i] & bits)
			return tw_fail(EINVAL,
			               "%s %u: bits of byte %u of the frame are another field's or "
			               "sum's already",
			               what, nr, at + i);
		claims[at + i] |= bits;
	}
	return 0;
}

static int overlap_check(const struct tw_program *program, const struct tw_source_traffic *t,
                         uint32_t shortest)
{
	uint8_t *claims = calloc(1, shortest);
	int err = claims ? 0 : tw_fail(ENOMEM, "no memory for a source");

	for (unsigned f = 0; f < t->n_fields && err == 0; f++)
		err = claim(claims, "field", f + 1, t->fields[f].at, t->fields[f].bytes,
		            program->field[f].mask);
	for (unsigned k = 0; k < t->n_sums && err == 0; k++)
		err = claim(claims, "sum", k + 1, t->sums[k].at, 2, 0xffff);
	free(claims);
	return err;
}

/* Frames have those by now. */
static void sums_drop_fixed(struct tw_program *program)
{
	unsigned kept = 0;

	for (unsigned k = 0; k < program->n_sums; k++)
		if (!program->sum[k].fixed)
			program->sum[kept++] = program->sum[k];
	program->n_sums = kept;
}

static int program_make(struct tw_program *program, const struct tw_source_traffic *t,
                        uint64_t bytes_max, uint32_t room)
{
	uint32_t shortest = 0;
	int err = lengths_check(t, room, &shortest);

	program->stamp = t->stamp;
	for (unsigned k = 0; k < t->n_indexes && err == 0; k++) {
		program->n_indexes = k + 1;
		err = index_make(&program->index[k], &t->indexes[k], k + 1, &bytes_max);
	}
	for (unsigned f = 0; f < t->n_fields && err == 0; f++) {
		program->n_fields = f + 1;
		err = field_check(t, f, shortest);
		if (err == 0)
			err = field_make(&program->field[f], &t->fields[f], f);
	}
	for (unsigned k = 0; k < t->n_sums && err == 0; k++)
		err = tw_sum_check(&t->sums[k], k + 1, shortest);
	if (err == 0)
		err = stamp_check(t, shortest);
	if (err == 0)
		err = overlap_check(program, t, shortest);
	if (err == 0)
		err = tw_sums_make(program, t, shortest);
	if (err == 0) {
		windows_make(program, t);
		err = frames_make(program, t, bytes_max, room);
	}
	if (err == 0)
		sums_drop_fixed(program);
	return err;
}

struct tw_program *tw_program_new(const struct tw_source_traffic *traffic, uint64_t bytes_max,
                                  uint32_t room)
{
	struct tw_program *program = calloc(1, sizeof(*program));

	if (!program) {
		tw_fail(ENOMEM, "no memory for a source");
		return NULL;
	}
	if (program_make(program, traffic, bytes_max, room) == 0)
		return program;
	tw_program_free(program);
	return NULL;
}

void tw_program_free(struct tw_program *program)
{
	if (!program)
		return;
	for (unsigned k = 0; k < program->n_indexes; k++)
		free(program->index[k].alias);
	for (unsigned f = 0; f < program->n_fields; f++)
		free(program->field[f].list);
	free(program->order);
	free(program->frames);
	free(program);
}
