/* SPDX-License-Identifier: BSD-3-Clause */
/* pool_block.c - blocks: taken, given away, freed, taken back. Every change of an owner word is one
 * compare-and-swap; hints follow afterwards and may be wrong. */
#include "msg/pool_own.h"
#include "error.h"

#include <errno.h>
#include <string.h>

#define GENERATION_MASK 0xffffffu
#define MEND_EVERY 64 /* requests that found nothing */

static uint32_t next_generation(uint32_t generation)
{
	generation = (generation + 1) & GENERATION_MASK;
	return generation ?: 1;
}

static int class_of(const struct tw_pool *pool, uint32_t index)
{
	int c = TW_POOL_CLASSES - 1;

	while (c > 0 && index >= pool->l.first[c] + pool->l.count[c])
		c--;
	return c;
}

static void count(struct tw_pool *pool, enum pool_figure which)
{
	atomic_fetch_add_explicit(&pool->words[pool->l.figures + which], 1, memory_order_relaxed);
}

static int refuse(struct tw_pool *pool, int err)
{
	count(pool, POOL_REFUSED);
	return -err;
}

/* The owner word's place; NULL: no such block. */
static inline _Atomic uint64_t *word_of(struct tw_pool *pool, tw_handle handle)
{
	uint32_t index = TW_HANDLE_INDEX(handle);

	/* Generation 0 is no handle's, whatever the words say. */
	return index < pool->l.blocks && TW_HANDLE_GENERATION(handle) ? &pool->words[index] : NULL;
}

static inline bool swap(_Atomic uint64_t *word, uint64_t *old, uint64_t new)
{
	return atomic_compare_exchange_strong_explicit(word, old, new, memory_order_acq_rel,
	                                               memory_order_acquire);
}

static void hint(struct tw_pool *pool, uint32_t index, uint32_t member)
{
	int c = class_of(pool, index);
	uint32_t bit = index - pool->l.first[c];

	atomic_fetch_or_explicit(&pool->words[pool->l.hints[c] + bit / 64], 1ull << bit % 64,
	                         memory_order_release);
	if (member < TW_MEMBERS_MAX)
		pool->cursor[member][c] = bit / 64;
}

/* Takes the hint back, then the block when it is free indeed. */
static tw_handle claim(struct tw_pool *pool, int c, uint32_t at, uint32_t bit, uint32_t member)
{
	uint64_t mask = 1ull << bit, old;
	uint32_t index = at * 64 + bit, generation;
	_Atomic uint64_t *hints = &pool->words[pool->l.hints[c] + at];

	if (!(atomic_fetch_and_explicit(hints, ~mask, memory_order_acquire) & mask))
		return 0; /* somebody else was faster */
	if (index >= pool->l.count[c])
		return 0;
	index += pool->l.first[c];
	old = atomic_load_explicit(&pool->words[index], memory_order_acquire);
	if (TW_STATE_OF(old) != TW_BLOCK_FREE)
		return 0;
	generation = TW_GENERATION_OF(old) ?: 1;
	if (!swap(&pool->words[index], &old, TW_OWNER_WORD(generation, TW_BLOCK_HELD, member)))
		return 0;
	return TW_HANDLE(generation, index);
}

static tw_handle new_of_class(struct tw_pool *pool, int c, uint32_t member)
{
	uint32_t n = pool->l.hint_words[c], at = pool->cursor[member][c];

	for (uint32_t i = 0; i < n; i++, at = at + 1 < n ? at + 1 : 0) {
		_Atomic uint64_t *hints = &pool->words[pool->l.hints[c] + at];
		uint64_t bits = atomic_load_explicit(hints, memory_order_relaxed);

		for (; bits; bits &= bits - 1) {
			tw_handle handle = claim(pool, c, at, (uint32_t)__builtin_ctzll(bits),
			                         member);

			if (handle) {
				pool->cursor[member][c] = at;
				return handle;
			}
		}
	}
	return 0;
}

tw_handle tw_pool_new(struct tw_pool *pool, uint32_t size, uint32_t member)
{
	tw_handle handle;
	uint64_t empty;

	if (member >= TW_MEMBERS_MAX || size > tw_pool_class_bytes[TW_POOL_CLASSES - 1]) {
		tw_fail(EMSGSIZE, "%s: no block has %u bytes, at most %u", pool->name, size,
		        tw_pool_class_bytes[TW_POOL_CLASSES - 1]);
		return 0;
	}
	for (int round = 0; round < 2; round++) {
		for (int c = 0; c < TW_POOL_CLASSES; c++) {
			if (tw_pool_class_bytes[c] < size)
				continue;
			handle = new_of_class(pool, c, member);
			if (handle)
				return handle;
		}
		empty = atomic_load_explicit(&pool->words[pool->l.figures + POOL_EMPTY],
		                             memory_order_relaxed);
		/* Hints are lost with processes that die, and to processes that write to them. */
		if (round || empty % MEND_EVERY)
			break;
		tw_pool_mend(pool);
	}
	count(pool, POOL_EMPTY);
	tw_fail(ENOBUFS, "%s: no free block of %u bytes; more memory_mb?", pool->name, size);
	return 0;
}

static void *place(struct tw_pool *pool, uint32_t index, uint32_t *size)
{
	int c = class_of(pool, index);

	if (size)
		*size = tw_pool_class_bytes[c];
	return pool->data + pool->l.base[c] +
	       (uint64_t)(index - pool->l.first[c]) * tw_pool_class_bytes[c];
}

/* Of this generation and owner; its word in *old. */
static inline int owned(_Atomic uint64_t *word, tw_handle handle, uint32_t member, uint64_t *old)
{
	if (!word)
		return ESTALE;
	*old = atomic_load_explicit(word, memory_order_acquire);
	if (TW_GENERATION_OF(*old) != TW_HANDLE_GENERATION(handle) ||
	    TW_STATE_OF(*old) == TW_BLOCK_FREE)
		return ESTALE;
	return TW_OWNER_OF(*old) == member ? 0 : EPERM;
}

static inline bool in_hand(uint64_t word)
{
	return TW_STATE_OF(word) == TW_BLOCK_HELD || TW_STATE_OF(word) == TW_BLOCK_BUSY;
}

void *tw_pool_at(struct tw_pool *pool, tw_handle handle, uint32_t member, uint32_t *size)
{
	uint64_t old;

	if (owned(word_of(pool, handle), handle, member, &old) || !in_hand(old)) {
		refuse(pool, ESTALE);
		if (size)
			*size = 0;
		return NULL;
	}
	return place(pool, TW_HANDLE_INDEX(handle), size);
}

void *tw_pool_block(struct tw_pool *pool, tw_handle handle, uint32_t *size)
{
	if (word_of(pool, handle))
		return place(pool, TW_HANDLE_INDEX(handle), size);
	if (size)
		*size = 0;
	return NULL;
}

void *tw_pool_peek(struct tw_pool *pool, tw_handle handle, uint32_t *size)
{
	_Atomic uint64_t *word = word_of(pool, handle);
	uint64_t now = word ? atomic_load_explicit(word, memory_order_acquire) : 0;

	if (!word || TW_STATE_OF(now) == TW_BLOCK_FREE ||
	    TW_GENERATION_OF(now) != TW_HANDLE_GENERATION(handle)) {
		if (size)
			*size = 0;
		return NULL;
	}
	return place(pool, TW_HANDLE_INDEX(handle), size);
}

int tw_pool_free(struct tw_pool *pool, tw_handle handle, uint32_t member)
{
	_Atomic uint64_t *word = word_of(pool, handle);
	uint64_t old;
	int err = owned(word, handle, member, &old);

	/* What is on its way here was not taken yet: it is not ours to free. A block that was
	 * marked lost is let go here. */
	if (!err && TW_STATE_OF(old) == TW_BLOCK_SENT)
		err = ESTALE;
	while (!err &&
	       !swap(word, &old,
	             TW_OWNER_WORD(next_generation(TW_GENERATION_OF(old)), TW_BLOCK_FREE, 0)))
		err = TW_GENERATION_OF(old) == TW_HANDLE_GENERATION(handle) &&
		                      TW_STATE_OF(old) == TW_BLOCK_LOST &&
		                      TW_OWNER_OF(old) == member
		              ? 0
		              : ESTALE;
	if (err)
		return refuse(pool, err);
	hint(pool, TW_HANDLE_INDEX(handle), member);
	return 0;
}

/* From one of the two states that it may be in, to another state and owner. */
static int change(struct tw_pool *pool, tw_handle handle, uint32_t member, uint64_t from,
                  uint64_t also, uint64_t state, uint32_t to)
{
	_Atomic uint64_t *word = word_of(pool, handle);
	uint64_t old;
	int err = owned(word, handle, member, &old);

	if (!err && TW_STATE_OF(old) != from && TW_STATE_OF(old) != also)
		err = ESTALE;
	if (!err && !swap(word, &old, TW_OWNER_WORD(TW_GENERATION_OF(old), state, to)))
		err = ESTALE;
	return err ? refuse(pool, ESTALE) : 0;
}

int tw_pool_give(struct tw_pool *pool, tw_handle handle, uint32_t from, uint32_t to)
{
	return change(pool, handle, from, TW_BLOCK_HELD, TW_BLOCK_BUSY, TW_BLOCK_SENT, to);
}

int tw_pool_ungive(struct tw_pool *pool, tw_handle handle, uint32_t from, uint32_t to)
{
	return change(pool, handle, to, TW_BLOCK_SENT, TW_BLOCK_SENT, TW_BLOCK_HELD, from);
}

int tw_pool_take(struct tw_pool *pool, tw_handle handle, uint32_t member)
{
	return change(pool, handle, member, TW_BLOCK_SENT, TW_BLOCK_SENT, TW_BLOCK_HELD, member);
}

int tw_pool_begin(struct tw_pool *pool, tw_handle handle, uint32_t member)
{
	return change(pool, handle, member, TW_BLOCK_HELD, TW_BLOCK_BUSY, TW_BLOCK_BUSY, member);
}

uint64_t tw_pool_word(struct tw_pool *pool, uint32_t index)
{
	return index < pool->l.blocks
	               ? atomic_load_explicit(&pool->words[index], memory_order_acquire)
	               : 0;
}

tw_handle tw_pool_seize(struct tw_pool *pool, tw_handle handle, uint32_t member, bool lives)
{
	_Atomic uint64_t *word = word_of(pool, handle);
	uint64_t old = word ? atomic_load_explicit(word, memory_order_acquire) : 0;
	uint32_t generation = next_generation(TW_HANDLE_GENERATION(handle));

	while (word && TW_STATE_OF(old) != TW_BLOCK_FREE &&
	       TW_GENERATION_OF(old) == TW_HANDLE_GENERATION(handle)) {
		if (lives && TW_OWNER_OF(old) != member && TW_STATE_OF(old) != TW_BLOCK_SENT) {
			if (TW_STATE_OF(old) == TW_BLOCK_LOST ||
			    swap(word, &old,
			         TW_OWNER_WORD(TW_GENERATION_OF(old), TW_BLOCK_LOST,
			                       TW_OWNER_OF(old))))
				return 0;
		} else if (swap(word, &old, TW_OWNER_WORD(generation, TW_BLOCK_HELD, member))) {
			return TW_HANDLE(generation, TW_HANDLE_INDEX(handle));
		}
	}
	return 0;
}

void tw_pool_each(struct tw_pool *pool, uint32_t member,
                  void (*fn)(void *ctx, tw_handle handle, uint32_t state), void *ctx)
{
	for (uint32_t i = 0; i < pool->l.blocks; i++) {
		uint64_t word = atomic_load_explicit(&pool->words[i], memory_order_acquire);

		if (TW_STATE_OF(word) != TW_BLOCK_FREE && TW_OWNER_OF(word) == member)
			fn(ctx, TW_HANDLE(TW_GENERATION_OF(word), i), TW_STATE_OF(word));
	}
}

/* What no member of a fabric leaves there: somebody wrote over it. */
static bool is_nonsense(uint64_t word)
{
	return TW_STATE_OF(word) > TW_BLOCK_LOST || TW_OWNER_OF(word) >= TW_MEMBERS_MAX ||
	       (TW_STATE_OF(word) != TW_BLOCK_FREE && !TW_GENERATION_OF(word));
}

/* Free now, or as it was; who still works with a block that somebody wrote over finds its handle
 * stale. */
static bool mended(struct tw_pool *pool, uint32_t index)
{
	uint64_t word = tw_pool_word(pool, index);

	if (is_nonsense(word))
		return swap(&pool->words[index], &word,
		            TW_OWNER_WORD(next_generation(TW_GENERATION_OF(word)), TW_BLOCK_FREE,
		                          0));
	return TW_STATE_OF(word) == TW_BLOCK_FREE;
}

void tw_pool_mend(struct tw_pool *pool)
{
	for (int c = 0; c < TW_POOL_CLASSES; c++)
		for (uint32_t i = 0; i < pool->l.count[c]; i++) {
			uint32_t index = pool->l.first[c] + i;

			if (mended(pool, index))
				hint(pool, index, TW_MEMBERS_MAX);
		}
}

void tw_pool_get_stats(struct tw_pool *pool, struct tw_pool_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	for (int c = 0; c < TW_POOL_CLASSES; c++) {
		stats->blocks[c] = pool->l.count[c];
		for (uint32_t i = 0; i < pool->l.count[c]; i++)
			stats->used[c] += TW_STATE_OF(tw_pool_word(pool, pool->l.first[c] + i)) !=
			                  TW_BLOCK_FREE;
	}
	stats->empty = atomic_load(&pool->words[pool->l.figures + POOL_EMPTY]);
	stats->refused = atomic_load(&pool->words[pool->l.figures + POOL_REFUSED]);
	stats->bytes = pool->l.bytes;
	stats->huge = pool->huge;
}
