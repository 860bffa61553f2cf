/* SPDX-License-Identifier: BSD-3-Clause */
/* probe_stream.c - sequence numbers and latencies of one stream: loss, duplicates, reordering (RFC
 * 4737), delay variation (RFC 5481). */
#include "probe_stream.h"
#include "histogram.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include <rte_byteorder.h>
#include <rte_cycles.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>

#define WORDS (TW_PROBE_WINDOW / 64u)
#define FIRST 4u          /* sources number streams from 0 on */
#define BASE (1ull << 32) /* sequence numbers from here on: those before the first one fit too */

struct tw_stream_state {
	struct tw_probe_stream c; /* highest is made from next when it is read */
	uint64_t next;            /* number behind the highest one, from BASE on */
	uint64_t first_tsc;       /* stamp of the first packet */
	uint64_t last, last_ns;   /* number and latency of the unique packet received last */
	uint64_t seen[WORDS];     /* bit per number of the window */
	/* of numbers that were jumped over: how many unique packets had come before the jump */
	uint32_t jumped[TW_PROBE_WINDOW];
	struct tw_histogram latency;
};

/* ---- sequence numbers ---- */

static inline bool seen_test_set(struct tw_stream_state *t, uint64_t number)
{
	uint64_t *word = &t->seen[number / 64 % WORDS], bit = 1ull << number % 64;
	bool was = *word & bit;

	*word |= bit;
	return was;
}

/* The next n numbers come in order. */
static inline void seen_next(struct tw_stream_state *t, unsigned n)
{
	while (n) {
		unsigned bit = t->next % 64, bits = RTE_MIN(n, 64 - bit);
		uint64_t *word = &t->seen[t->next / 64 % WORDS];
		uint64_t run = bits < 64 ? (1ull << bits) - 1 : ~0ull;

		*word = (bit ? *word : 0) | run << bit;
		t->next += bits;
		n -= bits;
	}
}

/* The window moves on to a number that is not the next one. */
static void jump(struct tw_stream_state *t, uint64_t number)
{
	uint64_t word = (t->next + 63) / 64, last = number / 64, hole = t->next;

	if (number - hole > TW_PROBE_WINDOW)
		hole = number - TW_PROBE_WINDOW;
	for (; hole < number; hole++)
		t->jumped[hole % TW_PROBE_WINDOW] = (uint32_t)t->c.unique;
	if (last >= word + WORDS)
		word = last - WORDS + 1;
	for (; word <= last; word++)
		t->seen[word % WORDS] = 0;
}

/* A number that is not the next one; false: it is not the first packet with it, or too old to say.
 */
static bool place(struct tw_stream_state *t, uint64_t number)
{
	uint64_t extent;

	if (number >= t->next) {
		jump(t, number);
		seen_test_set(t, number);
		t->next = number + 1;
		return true;
	}
	/* Words are emptied as a whole when the window comes to them. */
	if (t->next - number > TW_PROBE_WINDOW - 64) {
		t->c.old++;
		return false;
	}
	if (seen_test_set(t, number)) {
		t->c.duplicated++;
		return false;
	}
	t->c.reordered++;
	extent = (uint32_t)t->c.unique - t->jumped[number % TW_PROBE_WINDOW];
	t->c.extent = RTE_MAX(t->c.extent, extent);
	return true;
}

/* ---- packets ---- */

/* Everything from 0 again. */
static void start_anew(struct tw_stream *s)
{
	struct tw_stream_state *was = s->active;

	if (!atomic_load_explicit(&s->spare_clean, memory_order_acquire)) {
		memset(was, 0, sizeof(*was)); /* twice since the control thread looked */
		return;
	}
	s->active = s->spare;
	s->spare = was;
	atomic_store_explicit(&s->spare_clean, false, memory_order_release);
}

static inline void take_order(struct tw_stream *s)
{
	uint32_t ordered = atomic_load_explicit(&s->ordered, memory_order_acquire);

	if (likely(ordered == atomic_load_explicit(&s->done, memory_order_relaxed)))
		return;
	start_anew(s);
	atomic_store_explicit(&s->done, ordered, memory_order_release);
}

/* The first packet, or one of another start of the source. False: of an earlier one. Stamps tell
 * which was first: a source numbers its starts in one byte, and may be a new one. */
static bool begin(struct tw_stream *s, const struct tw_stamp *stamp)
{
	struct tw_stream_state *t = s->active;
	uint64_t stale = t->c.stale;

	if (t->c.received) {
		if ((int64_t)(stamp->tsc - t->first_tsc) <= 0) {
			t->c.stale++;
			return false;
		}
		stale += t->c.received;
		start_anew(s);
		t = s->active;
	}
	t->c.stale = stale;
	t->c.epoch = stamp->epoch;
	t->first_tsc = stamp->tsc;
	/* A probe that is put on a stream that runs does not take what was before for a gap. */
	t->next = BASE + (stamp->seq < TW_PROBE_WINDOW ? 0 : stamp->seq);
	return true;
}

static inline void vary(struct tw_probe_stream *c, uint64_t before, uint64_t ns)
{
	uint64_t ipdv = ns > before ? ns - before : before - ns;

	c->ipdv_pairs++;
	c->ipdv_sum += ipdv;
	c->ipdv_max = RTE_MAX(c->ipdv_max, ipdv);
}

struct arrival {
	struct tw_stamp stamp;
	uint64_t ns; /* latency */
	bool ahead;  /* of its time: counted as 0 */
};

static void arrive(struct tw_stream *s, const struct arrival *a)
{
	struct tw_stream_state *t = s->active;
	uint64_t number;

	if (a->stamp.epoch != t->c.epoch || t->c.received == 0) {
		if (!begin(s, &a->stamp))
			return;
		t = s->active;
	}
	t->c.received++;
	t->c.ahead += a->ahead;
	number = t->next + (int32_t)(a->stamp.seq - (uint32_t)t->next);
	if (!place(t, number))
		return;
	t->c.unique++;
	tw_histogram_record(&t->latency, a->ns);
	if (number == t->last + 1)
		vary(&t->c, t->last_ns, a->ns);
	t->last = number;
	t->last_ns = a->ns;
}

/* ---- bursts ---- */

/* When a packet was received: by the device's clock if it noted that. */
static uint64_t received_at(const struct tw_timing *timing, struct tw_looked *looked,
                            const struct rte_mbuf *mbuf, uint64_t now)
{
	const struct tw_device_clock *c;
	int64_t ticks;

	if (likely(!timing->device) || !(mbuf->ol_flags & timing->flag))
		return now;
	c = &timing->clock[atomic_load_explicit(&timing->clock_used, memory_order_acquire)];
	ticks = (int64_t)(*RTE_MBUF_DYNFIELD(mbuf, timing->field, uint64_t *) - c->ticks0);
	tw_histogram_bump(&looked->by_device, 1);
	return c->tsc0 + (uint64_t)(int64_t)((double)ticks * c->ratio);
}

static inline uint64_t ns_of(const struct tw_timing *timing, uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * timing->ns_mult) >> TW_NS_SHIFT);
}

/* False: no stamp, or a time in it that cannot be. */
static bool read_arrival(const struct tw_timing *timing, struct tw_looked *looked,
                         const struct rte_mbuf *mbuf, uint64_t now, struct arrival *a)
{
	struct tw_stamp pieces;
	const void *at;
	uint64_t ticks;

	if (mbuf->pkt_len < sizeof(pieces))
		return false;
	at = rte_pktmbuf_read(mbuf, mbuf->pkt_len - sizeof(pieces), sizeof(pieces), &pieces);
	if (!at)
		return false;
	memcpy(&a->stamp, at, sizeof(a->stamp));
	if (a->stamp.magic != TW_STAMP_MAGIC || a->stamp.stream >= TW_STREAMS_MAX)
		return false;
	ticks = received_at(timing, looked, mbuf, now) - a->stamp.tsc;
	if (ticks + timing->ahead > timing->oldest + timing->ahead)
		return false;
	a->ahead = ticks > timing->oldest;
	a->ns = a->ahead ? 0 : ns_of(timing, ticks);
	return true;
}

/* The first word of a stamp. */
static inline uint64_t head_of(unsigned stream, unsigned epoch, uint32_t seq)
{
	struct tw_stamp stamp = { TW_STAMP_MAGIC, stream, epoch, seq, 0 };
	uint64_t head;

	memcpy(&head, &stamp, sizeof(head));
	return head;
}
#define HEAD_NEXT (1ull << 32) /* to the one with the next number */
_Static_assert(offsetof(struct tw_stamp, seq) == 4 && RTE_BYTE_ORDER == RTE_LITTLE_ENDIAN,
               "head_of() + HEAD_NEXT");

/* The same as arrive() for as many packets as are each the next one: that is what a burst mostly
 * is, and words in memory that each packet adds to would cost more than all else. Returns their
 * number. */
static unsigned arrive_in_order(struct tw_stream *s, unsigned stream,
                                const struct tw_timing *timing, struct rte_mbuf **mbufs, unsigned n,
                                uint64_t now)
{
	struct tw_stream_state *t = s->active;
	struct tw_probe_stream c = t->c;
	uint64_t head = head_of(stream, c.epoch, t->next), word[2], ns, last_ns = t->last_ns;
	unsigned done, alike = 0;

	for (done = 0; done < n; done++) {
		const struct rte_mbuf *mbuf = mbufs[done];

		if (unlikely(mbuf->data_len < sizeof(word) || mbuf->nb_segs != 1))
			break;
		memcpy(word, rte_pktmbuf_mtod_offset(mbuf, char *, mbuf->data_len - sizeof(word)),
		       sizeof(word));
		if (unlikely(word[0] != head || now - word[1] > timing->oldest))
			break;
		ns = ns_of(timing, now - word[1]);
		if (ns != last_ns && alike) {
			tw_histogram_record_many(&t->latency, last_ns, alike);
			alike = 0;
		}
		if (likely(done || t->last + 1 == t->next))
			vary(&c, last_ns, ns);
		alike++;
		last_ns = ns;
		head += HEAD_NEXT;
	}
	if (!done)
		return 0;
	tw_histogram_record_many(&t->latency, last_ns, alike);
	c.received += done;
	c.unique += done;
	t->c = c;
	seen_next(t, done);
	t->last = t->next - 1;
	t->last_ns = last_ns;
	return done;
}

/* Packets of one stream from mbufs[0] on, which is *a. Returns their number; *ours: the one behind
 * them is *a now. */
static unsigned look_at_one(struct tw_stream *s, const struct tw_timing *timing,
                            struct tw_looked *looked, struct rte_mbuf **mbufs, unsigned n,
                            uint64_t now, struct arrival *a, bool *ours)
{
	unsigned stream = a->stamp.stream, i = 0, done;

	rte_seqcount_write_begin(&s->version);
	take_order(s);
	do {
		done = 0;
		if (s->active->c.received && !timing->device)
			done = arrive_in_order(s, stream, timing, mbufs + i, n - i, now);
		if (!done) {
			arrive(s, a);
			done = 1;
		}
		i += done;
		*ours = i < n && read_arrival(timing, looked, mbufs[i], now, a);
	} while (*ours && a->stamp.stream == stream);
	rte_seqcount_write_end(&s->version);
	return i;
}

void tw_streams_look(struct tw_stream *streams, const struct tw_timing *timing,
                     struct tw_looked *looked, bool shared, struct rte_mbuf **mbufs, unsigned n)
{
	uint64_t now = rte_rdtsc();
	struct arrival a;
	bool ours = read_arrival(timing, looked, mbufs[0], now, &a);
	unsigned i = 0;

	while (i < n) {
		struct tw_stream *s;

		if (!ours) {
			tw_histogram_bump(&looked->foreign, 1);
			ours = ++i < n && read_arrival(timing, looked, mbufs[i], now, &a);
			continue;
		}
		s = &streams[a.stamp.stream];
		if (shared)
			rte_spinlock_lock(&s->lock);
		i += look_at_one(s, timing, looked, mbufs + i, n - i, now, &a, &ours);
		if (shared)
			rte_spinlock_unlock(&s->lock);
	}
}

/* ---- control thread ---- */

static size_t size_of(unsigned n)
{
	return 2 * n * sizeof(struct tw_stream_state);
}

void *tw_streams_new(struct tw_stream *streams, unsigned n)
{
	struct tw_stream_state *states = mmap(NULL, size_of(n), PROT_READ | PROT_WRITE,
	                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (states == MAP_FAILED)
		return NULL;
	/* Not while packets wait for it, where there are few streams. */
	madvise(states, size_of(RTE_MIN(n, FIRST)), MADV_POPULATE_WRITE);
	for (unsigned i = 0; i < n; i++) {
		rte_seqcount_init(&streams[i].version);
		rte_spinlock_init(&streams[i].lock);
		streams[i].active = &states[2 * i];
		streams[i].spare = &states[2 * i + 1];
		streams[i].spare_clean = true;
	}
	return states;
}

void tw_streams_free(void *memory, unsigned n)
{
	munmap(memory, size_of(n));
}

/* Empties the spare state, which is the control thread's as long as it is not clean. */
static void clean(struct tw_stream *s)
{
	if (atomic_load_explicit(&s->spare_clean, memory_order_acquire))
		return;
	memset(s->spare, 0, sizeof(*s->spare));
	atomic_store_explicit(&s->spare_clean, true, memory_order_release);
}

/* Nothing came since the last reset. */
static bool is_new(const struct tw_stream *s)
{
	return atomic_load_explicit(&s->done, memory_order_acquire) !=
	               atomic_load_explicit(&s->ordered, memory_order_relaxed) ||
	       !(s->active->c.received || s->active->c.stale);
}

void tw_stream_reset(struct tw_stream *s)
{
	clean(s);
	if (!is_new(s))
		atomic_fetch_add_explicit(&s->ordered, 1, memory_order_release);
}

void tw_stream_counters(struct tw_stream *s, struct tw_probe_stream *c)
{
	uint64_t next = BASE;
	uint32_t version;

	clean(s);
	do {
		version = rte_seqcount_read_begin(&s->version);
		*c = (struct tw_probe_stream){ 0 };
		if (is_new(s))
			continue;
		*c = s->active->c;
		next = s->active->next;
	} while (rte_seqcount_read_retry(&s->version, version));
	c->highest = c->received ? next - 1 - BASE : 0;
}

void tw_stream_latency(const struct tw_stream *s, struct tw_histogram *to)
{
	if (!is_new(s))
		tw_histogram_merge(to, &s->active->latency);
}
