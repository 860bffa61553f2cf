/* SPDX-License-Identifier: BSD-3-Clause */
/* ring.c - a ring of descriptors in memory that many processes write and one reads, none of which
 * can stop another or make it read elsewhere.
 *
 * A place is 16 bytes and changes as a whole: empty for position p (handle 0, and p), a descriptor,
 * empty for p + size. Who puts something in needs the place to be empty for just that position, so
 * nobody is late by a round; who dies has put it in or has not. The tail runs behind what is there:
 * who finds a place taken moves it on for the one who did not. */
#include "msg/ring.h"

#include <errno.h>
#include <string.h>

#define TRIES 64 /* more is somebody's mischief: full, then */

static union ring_place empty_for(uint64_t position)
{
	return (union ring_place){ .word = { 0, position } };
}

static bool place_swap(union ring_place *place, union ring_place old, union ring_place new)
{
	return __sync_bool_compare_and_swap(&place->whole, old.whole, new.whole);
}

void ring_clear(struct ring *ring)
{
	memset(ring, 0, sizeof(*ring));
	for (uint64_t i = 0; i < RING_SIZE; i++)
		ring->place[i] = empty_for(i);
}

int ring_put(struct ring *ring, const struct tw_desc *desc)
{
	union ring_place new = { .desc = *desc };

	if (!desc->handle)
		return -ESTALE;
	for (int i = 0; i < TRIES; i++) {
		uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
		uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
		union ring_place *place = &ring->place[tail % RING_SIZE];

		/* Who put the last one in has died before it moved the tail, and the reader has it.
		 */
		if ((int64_t)(tail - head) < 0) {
			atomic_compare_exchange_strong(&ring->tail, &tail, head);
			continue;
		}
		if (tail - head >= RING_SIZE)
			return -EAGAIN;
		if (place_swap(place, empty_for(tail), new)) {
			atomic_compare_exchange_strong(&ring->tail, &tail, tail + 1);
			return 0;
		}
		/* Taken by somebody who has not moved the tail yet, or never will. */
		if (__atomic_load_n(&place->word[0], __ATOMIC_ACQUIRE))
			atomic_compare_exchange_strong(&ring->tail, &tail, tail + 1);
	}
	return -EAGAIN;
}

bool ring_is_ready(const struct ring *ring, uint64_t head)
{
	return __atomic_load_n(&ring->place[head % RING_SIZE].word[0], __ATOMIC_ACQUIRE) != 0;
}

/* Nothing is there. What writers stumble over is put right: a place that is empty for another
 * position, a tail that is somewhere else, a head that is not ours. */
static void mend(struct ring *ring, uint64_t head)
{
	union ring_place *place = &ring->place[head % RING_SIZE];
	union ring_place now = { .word = { 0,
		                           __atomic_load_n(&place->word[1], __ATOMIC_ACQUIRE) } };
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);

	if (now.word[1] != head)
		place_swap(place, now, empty_for(head));
	if (tail != head && !ring_is_ready(ring, head))
		atomic_compare_exchange_strong(&ring->tail, &tail, head);
	if (atomic_load_explicit(&ring->head, memory_order_relaxed) != head)
		atomic_store_explicit(&ring->head, head, memory_order_release);
}

unsigned ring_take(struct ring *ring, uint64_t *head, struct tw_desc *desc, unsigned max)
{
	unsigned n = 0;

	for (; n < max && ring_is_ready(ring, *head); ++*head) {
		union ring_place *place = &ring->place[*head % RING_SIZE];
		union ring_place taken = *place;

		/* Nobody else changes a place that is taken, unless to no good. */
		if (!place_swap(place, taken, empty_for(*head + RING_SIZE)))
			break;
		desc[n++] = taken.desc;
	}
	if (n)
		atomic_store_explicit(&ring->head, *head, memory_order_release);
	else
		mend(ring, *head);
	return n;
}

bool ring_has(const struct ring *ring, tw_handle handle)
{
	for (uint32_t i = 0; i < RING_SIZE; i++)
		if (__atomic_load_n(&ring->place[i].word[0], __ATOMIC_ACQUIRE) == handle)
			return true;
	return false;
}

uint64_t ring_load(const struct ring *ring, uint64_t finished)
{
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	return (int64_t)(tail - finished) < 0 ? 0 : tail - finished;
}
