/* SPDX-License-Identifier: BSD-3-Clause */
/* watch.c - watches from the control thread: filters, the rings of lcores, reading, taking off. */
#include "watch.h"
#include "error.h"
#include "lcore.h"
#include "rcu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <pcap/pcap.h>

#define FRAME_MAX 65535

_Static_assert(sizeof(struct tw_watch_record) % 8 == 0, "records follow each other");

TW_ALIGNED(64) _Atomic(struct tw_watch_set *) tw_watches;

/* What lcores may still look at; freed when each of them has finished the turn it was in. */
static struct tw_watch_set *retired_sets;
static struct tw_watch *retired_watches;

/* ---- filters ---- */

/* NULL with *ok: an empty text. */
static struct bpf_insn *filter_compile(const char *text, bool *ok)
{
	pcap_t *pcap = pcap_open_dead(DLT_EN10MB, FRAME_MAX);
	struct bpf_program program;
	struct bpf_insn *copy = NULL;

	*ok = true;
	if (!text || !text[strspn(text, " \t\n")]) {
		pcap_close(pcap);
		return NULL;
	}
	if (!pcap || pcap_compile(pcap, &program, text, 1, PCAP_NETMASK_UNKNOWN) < 0) {
		tw_fail(EINVAL, "filter \"%s\": %s; man pcap-filter has the language", text,
		        pcap ? pcap_geterr(pcap) : "no memory");
		*ok = false;
	} else {
		copy = malloc(program.bf_len * sizeof(*copy));
		*ok = copy != NULL;
		if (copy)
			memcpy(copy, program.bf_insns, program.bf_len * sizeof(*copy));
		else
			tw_fail(ENOMEM, "no memory for a filter");
		pcap_freecode(&program);
	}
	if (pcap)
		pcap_close(pcap);
	return copy;
}

int tw_filter_match(const char *filter, const uint8_t *frame, uint32_t caplen, uint32_t len)
{
	bool ok;
	struct bpf_insn *code = filter_compile(filter, &ok);
	int match;

	if (!ok)
		return -EINVAL;
	match = !code || bpf_filter(code, frame, len, caplen) != 0;
	free(code);
	return match;
}

/* ---- lanes ---- */

static void lane_free(struct tw_watch_lane *lane)
{
	if (!lane)
		return;
	free(lane->ring);
	free(lane->scratch);
	free(lane);
}

static struct tw_watch_lane *lane_new(const struct tw_watch_spec *spec)
{
	struct tw_watch_lane *lane = aligned_alloc(64, (sizeof(*lane) + 63) & ~63ul);

	if (!lane)
		return NULL;
	memset(lane, 0, sizeof(*lane));
	lane->mask = spec->ring_bytes - 1;
	lane->ring = malloc(spec->ring_bytes);
	lane->scratch = spec->follow ? malloc(TW_SCRATCH_BYTES) : NULL;
	if (lane->ring && (lane->scratch || !spec->follow))
		return lane;
	lane_free(lane);
	return NULL;
}

void tw_watch_refresh(struct tw_watch *watch)
{
	for (int i = 0; i < TW_LCORES_MAX; i++)
		if (tw_lcore_table[i] && !watch->lane[i])
			atomic_store_explicit(&watch->lane[i], lane_new(&watch->spec),
			                      memory_order_release);
}

/* ---- grace ---- */

static bool passed(uint64_t token)
{
	return rte_rcu_qsbr_check(tw_qsbr(), token, false) == 1;
}

static void watch_destroy(struct tw_watch *watch)
{
	for (int i = 0; i < TW_LCORES_MAX; i++)
		lane_free(watch->lane[i]);
	free(watch->filter);
	free(watch);
}

/* all: no lcore runs. */
static void reclaim(bool all)
{
	for (struct tw_watch_set **at = &retired_sets; *at;) {
		struct tw_watch_set *set = *at;

		if (all || passed(set->token)) {
			*at = set->next_retired;
			free(set);
		} else {
			at = &set->next_retired;
		}
	}
	for (struct tw_watch **at = &retired_watches; *at;) {
		struct tw_watch *watch = *at;

		if (all || passed(watch->token)) {
			*at = watch->next_retired;
			watch_destroy(watch);
		} else {
			at = &watch->next_retired;
		}
	}
}

/* Publishes the watches of the old set, without one, with another. */
static int set_change(struct tw_watch *less, struct tw_watch *more)
{
	struct tw_watch_set *old = atomic_load(&tw_watches), *set = calloc(1, sizeof(*set));

	if (!set)
		return tw_fail(ENOMEM, "no memory for a watch");
	for (unsigned i = 0; old && i < old->count; i++)
		if (old->watch[i] != less)
			set->watch[set->count++] = old->watch[i];
	if (more && set->count == TW_WATCHES_MAX) {
		free(set);
		return tw_fail(ENOSPC,
		               "%d traces and captures run, that is the limit; end one first",
		               TW_WATCHES_MAX);
	}
	if (more)
		set->watch[set->count++] = more;
	if (!set->count) {
		free(set);
		set = NULL;
	}
	atomic_store_explicit(&tw_watches, set, memory_order_release);
	if (old) {
		old->token = rte_rcu_qsbr_start(tw_qsbr());
		old->next_retired = retired_sets;
		retired_sets = old;
	}
	return 0;
}

/* ---- a watch ---- */

struct tw_watch *tw_watch_new(const struct tw_watch_spec *spec, const char *filter)
{
	struct tw_watch *watch;
	bool ok;

	reclaim(false);
	if (!spec->chains || !spec->edges || !spec->sample || spec->ring_bytes < 4096 ||
	    (spec->ring_bytes & (spec->ring_bytes - 1))) {
		tw_fail(EINVAL, "a watch needs a chain, an edge, a sample of at least 1 and a ring "
		                "whose size is a power of two from 4096");
		return NULL;
	}
	watch = calloc(1, sizeof(*watch));
	if (!watch) {
		tw_fail(ENOMEM, "no memory for a watch");
		return NULL;
	}
	watch->spec = *spec;
	watch->filter = filter_compile(filter, &ok);
	if (!ok) {
		free(watch);
		return NULL;
	}
	tw_watch_refresh(watch);
	return watch;
}

int tw_watch_start(struct tw_watch *watch)
{
	int err = watch->started ? 0 : set_change(NULL, watch);

	watch->started = watch->started || err == 0;
	return err;
}

void tw_watch_stop(struct tw_watch *watch)
{
	if (watch->started && set_change(watch, NULL) == 0)
		watch->started = false;
	reclaim(false);
}

void tw_watch_free(struct tw_watch *watch)
{
	if (!watch || watch->retired)
		return;
	tw_watch_stop(watch);
	watch->retired = true;
	watch->token = rte_rcu_qsbr_start(tw_qsbr());
	watch->next_retired = retired_watches;
	retired_watches = watch;
	reclaim(false);
}

void tw_watches_close(void)
{
	struct tw_watch_set *set = atomic_exchange(&tw_watches, NULL);

	for (unsigned i = 0; set && i < set->count; i++)
		set->watch[i]->started = false;
	free(set);
	reclaim(true);
}

/* ---- reading ---- */

static const struct tw_watch_record *lane_peek(struct tw_watch_lane *lane)
{
	uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);

	while (tail != atomic_load_explicit(&lane->head, memory_order_acquire)) {
		const struct tw_watch_record *record =
			(const void *)(lane->ring + (tail & lane->mask));

		if (record->caplen != UINT32_MAX)
			return record;
		/* the rest of the ring, too short for the record that came next */
		tail += record->size;
		atomic_store_explicit(&lane->tail, tail, memory_order_release);
	}
	return NULL;
}

static void release(struct tw_watch *watch)
{
	struct tw_watch_lane *lane = watch->reading;
	const struct tw_watch_record *record = lane ? lane_peek(lane) : NULL;

	watch->reading = NULL;
	if (record)
		atomic_fetch_add_explicit(&lane->tail, record->size, memory_order_release);
}

const struct tw_watch_record *tw_watch_next(struct tw_watch *watch, uint64_t until)
{
	const struct tw_watch_record *first = NULL;

	release(watch);
	for (int i = 0; i < TW_LCORES_MAX; i++) {
		const struct tw_watch_record *record = watch->lane[i] ? lane_peek(watch->lane[i])
		                                                      : NULL;

		if (!record || record->time >= until || (first && record->time >= first->time))
			continue;
		first = record;
		watch->reading = watch->lane[i];
	}
	return first;
}

void tw_watch_counts(const struct tw_watch *watch, int slot, struct tw_watch_counts *counts)
{
	uint64_t *sum = (uint64_t *)counts;

	memset(counts, 0, sizeof(*counts));
	for (int i = 0; i < TW_LCORES_MAX; i++) {
		const struct tw_watch_lane *lane = watch->lane[i];

		if (!lane || (slot >= 0 && slot != i))
			continue;
		for (unsigned k = 0; k < sizeof(*counts) / sizeof(*sum); k++)
			sum[k] += ((const uint64_t *)&lane->counts)[k];
	}
}
