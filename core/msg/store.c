/* SPDX-License-Identifier: BSD-3-Clause */
/* store.c - dictionaries in shared memory: what is done with one entry, or with all. */
#include "msg/store.h"
#include "error.h"

#include <errno.h>
#include <string.h>

static void set_value(struct op *op, struct entry *e, const struct tw_store_value *value,
                      int64_t ttl_ns)
{
	e->kind = (uint8_t)value->kind;
	e->user = value->user;
	if (value->kind == TW_STORE_BYTES)
		e->len = value->len;
	else
		e->number = value->number;
	e->expires = store_expiry(op, ttl_ns);
	e->version = ++op->shard->version;
}

/* ---- what others call ---- */

static void copy_out(struct op *op, const struct entry *e, uint64_t len, uint8_t *to, uint64_t from,
                     uint64_t max)
{
	uint32_t room = store_piece_room(op), n = ONCE(e->first);
	uint64_t skip = op->key_len + from;
	uint64_t left = from >= len ? 0 : len - from < max ? len - from : max;
	for (uint64_t steps = 0; left && steps <= op->s->layout.pieces; steps++) {
		const uint8_t *piece = store_piece_at(op, n);
		if (!piece)
			return;
		n = store_next_piece(piece);
		__builtin_prefetch(n && n <= op->s->layout.pieces ? store_piece(op->s, op->shard, n)
		                                                  : piece);
		if (skip >= room) {
			skip -= room;
			continue;
		}
		uint64_t part = room - skip < left ? room - skip : left;
		memcpy(to, piece + 4 + skip, part);
		to += part, left -= part, skip = 0;
	}
	if (left)
		op->damaged = true;
}

static void describe(const struct op *op, const struct entry *e, struct tw_store_value *value)
{
	uint64_t expires = ONCE(e->expires);
	value->kind = ONCE(e->kind);
	value->user = ONCE(e->user);
	value->len = value->kind == TW_STORE_BYTES ? ONCE(e->len) : 0;
	value->number = value->kind == TW_STORE_BYTES ? 0 : e->number;
	value->version = ONCE(e->version);
	value->ttl_ns = expires ? (int64_t)(expires - op->now) : STORE_NEVER;
}

int tw_store_get(struct tw_store *s, const char *key, size_t key_len, bool stale,
                 struct tw_store_value *value, void *to, uint64_t from, uint64_t max)
{
	struct op op;
	struct entry *e;
	int rc = store_begin(&op, s, key, key_len, &e);
	if (rc)
		return rc;
	if (e && (stale || !store_has_expired(&op, e))) {
		describe(&op, e, value);
		if (value->kind > TW_STORE_BOOLEAN || value->len > s->layout.size)
			op.damaged = true;
		else if (max && value->kind == TW_STORE_BYTES)
			copy_out(&op, e, value->len, to, from, max);
		if (!op.damaged)
			store_touch(&op, e);
		rc = !op.damaged;
	}
	if (rc)
		op.shard->hits++;
	else
		op.shard->misses++;
	store_unlock_shard(&op);
	return rc;
}

/* Once more after damage was found: the shard is empty then. */
static int put(struct tw_store *s, const char *key, size_t key_len,
               const struct tw_store_piece *piece, uint32_t pieces,
               const struct tw_store_value *value, int64_t ttl_ns, uint32_t mode)
{
	for (int tries = 0; tries < 2; tries++) {
		struct op op;
		struct entry *e;
		int rc = store_begin(&op, s, key, key_len, &e);
		if (rc)
			return rc;
		bool there = e && !store_has_expired(&op, e);
		if (op.damaged)
			rc = -EIO;
		else if (there ? mode == TW_STORE_ADD : mode == TW_STORE_REPLACE)
			rc = there ? -EEXIST : -ENOENT;
		else if (store_pieces_for(&op, key_len + value->len) == UINT32_MAX) {
			op.shard->full++;
			rc = -EMSGSIZE;
		} else {
			if (e && !there)
				op.shard->expired++;
			if (e)
				store_remove(&op, e, op.at, op.before);
			e = op.damaged ? NULL : store_insert(&op, piece, pieces, value->len);
			if (e)
				set_value(&op, e, value, ttl_ns);
			rc = op.damaged || !e ? -EIO : 0;
		}
		store_unlock_shard(&op);
		if (rc == -EMSGSIZE)
			return tw_fail(EMSGSIZE,
			               "store %s: a value of %llu bytes does not fit; make it "
			               "larger (bytes), or of fewer shards",
			               s->name, (unsigned long long)value->len);
		if (rc != -EIO)
			return rc;
	}
	return tw_fail(EBUSY, "store %s: somebody damages it while it is used", s->name);
}

int tw_store_put(struct tw_store *s, const char *key, size_t key_len,
                 const struct tw_store_piece *piece, uint32_t pieces, int64_t ttl_ns, uint32_t user,
                 uint32_t mode)
{
	struct tw_store_value value = { .kind = TW_STORE_BYTES, .user = user };
	if (pieces > TW_STORE_PIECES)
		return tw_fail(EINVAL, "store %s: a value in %u pieces; at most %d", s->name,
		               pieces, TW_STORE_PIECES);
	for (uint32_t i = 0; i < pieces; i++) {
		value.len += piece[i].len;
		if (piece[i].len > s->layout.size)
			value.len = s->layout.size;
	}
	return put(s, key, key_len, piece, pieces, &value, ttl_ns, mode);
}

int tw_store_put_number(struct tw_store *s, const char *key, size_t key_len, double number,
                        bool boolean, int64_t ttl_ns, uint32_t user, uint32_t mode)
{
	struct tw_store_value value = { .kind = boolean ? TW_STORE_BOOLEAN : TW_STORE_NUMBER,
		                        .user = user,
		                        .number = number };
	return put(s, key, key_len, NULL, 0, &value, ttl_ns, mode);
}

int tw_store_incr(struct tw_store *s, const char *key, size_t key_len, double by, bool starts,
                  double start, int64_t ttl_ns, double *result)
{
	struct op op;
	struct entry *e;
	int rc = store_begin(&op, s, key, key_len, &e);
	if (rc)
		return rc;
	bool there = e && !store_has_expired(&op, e);
	if (there && ONCE(e->kind) != TW_STORE_NUMBER) {
		rc = tw_fail(EINVAL, "store %s: the value of \"%.*s\" is no number", s->name,
		             (int)key_len, key);
	} else if (there) {
		*result = e->number = e->number + by;
		e->version = ++op.shard->version;
		store_touch(&op, e);
	} else if (!starts) {
		rc = -ENOENT;
	} else {
		struct tw_store_value value = { .kind = TW_STORE_NUMBER, .number = start + by };
		if (e) {
			op.shard->expired++;
			store_remove(&op, e, op.at, op.before);
		}
		e = op.damaged ? NULL : store_insert(&op, NULL, 0, 0);
		if (e)
			set_value(&op, e, &value, ttl_ns);
		*result = value.number;
		if (!e || op.damaged)
			rc = tw_fail(EBUSY, "store %s was damaged and is empty in parts; try again",
			             s->name);
	}
	store_unlock_shard(&op);
	return rc;
}

int tw_store_delete(struct tw_store *s, const char *key, size_t key_len)
{
	struct op op;
	struct entry *e;
	int rc = store_begin(&op, s, key, key_len, &e);
	if (rc)
		return rc;
	if (e) {
		rc = !store_has_expired(&op, e);
		store_remove(&op, e, op.at, op.before);
	}
	store_unlock_shard(&op);
	return rc;
}

int tw_store_expire(struct tw_store *s, const char *key, size_t key_len, int64_t ttl_ns)
{
	struct op op;
	struct entry *e;
	int rc = store_begin(&op, s, key, key_len, &e);
	if (rc)
		return rc;
	if (e && !store_has_expired(&op, e)) {
		e->expires = store_expiry(&op, ttl_ns);
		rc = 1;
	}
	store_unlock_shard(&op);
	return rc;
}

/* ---- all entries ---- */

static uint32_t flush_expired(struct op *op)
{
	uint32_t removed = 0, last = ONCE(op->shard->used_entries);
	for (uint32_t n = 1; n <= last && n <= op->s->layout.entries && !op->damaged; n++) {
		struct entry *e = store_entry(op->s, op->shard, n);
		if (!ONCE(e->kind) || !store_has_expired(op, e))
			continue;
		uint32_t before = store_before(op, e, n);
		if (op->damaged)
			break;
		store_remove(op, e, n, before);
		op->shard->expired++;
		removed++;
	}
	return removed;
}

int64_t tw_store_flush(struct tw_store *s, bool expired)
{
	int64_t removed = 0;
	for (uint32_t i = 0; i < s->layout.shards; i++) {
		struct op op = { .s = s, .now = tw_now() };
		int rc = store_lock_shard(&op, i);
		if (rc)
			return rc;
		if (expired) {
			removed += flush_expired(&op);
		} else {
			removed += op.shard->count;
			store_empty(&op);
		}
		store_unlock_shard(&op);
	}
	return removed;
}

/* Key of an entry of a locked shard; its length, 0: it is nonsense. */
static int key_out(struct op *op, const struct entry *e, char *key)
{
	uint32_t len = ONCE(e->key_len);
	if (len > TW_STORE_KEY_MAX)
		return 0;
	op->key_len = 0;
	copy_out(op, e, len, (uint8_t *)key, 0, len);
	return op->damaged ? 0 : (int)len;
}

int tw_store_next(struct tw_store *s, uint64_t *cursor, char key[TW_STORE_KEY_MAX],
                  struct tw_store_value *value)
{
	uint32_t i = (uint32_t)(*cursor >> 32), n = (uint32_t)*cursor + 1;
	for (; i < s->layout.shards; i++, n = 1) {
		struct op op = { .s = s, .now = tw_now() };
		int rc = store_lock_shard(&op, i);
		if (rc)
			return rc;
		for (; n <= ONCE(op.shard->used_entries) && n <= s->layout.entries; n++) {
			struct entry *e = store_entry(s, op.shard, n);
			if (!ONCE(e->kind) || store_has_expired(&op, e) ||
			    !(rc = key_out(&op, e, key)))
				continue;
			describe(&op, e, value);
			break;
		}
		store_unlock_shard(&op);
		if (rc > 0) {
			*cursor = (uint64_t)i << 32 | n;
			return rc;
		}
	}
	*cursor = (uint64_t)s->layout.shards << 32;
	return 0;
}

void tw_store_get_stats(struct tw_store *s, struct tw_store_stats *t)
{
	const struct store_layout *l = &s->layout;
	*t = (struct tw_store_stats){ .bytes = l->size };
	t->room = (uint64_t)l->pieces * l->piece * l->shards;
	t->capacity = (uint64_t)l->entries * l->shards;
	t->largest = (uint64_t)l->pieces * (l->piece - 4);
	t->busy = atomic_load_explicit(&s->busy, memory_order_relaxed);
	for (uint32_t i = 0; i < l->shards; i++) {
		struct shard *shard = store_shard(s, i);
		t->count += ONCE(shard->count);
		t->used += ONCE(shard->bytes);
		t->hits += ONCE(shard->hits);
		t->misses += ONCE(shard->misses);
		t->evictions += ONCE(shard->evictions);
		t->expired += ONCE(shard->expired);
		t->full += ONCE(shard->full);
		t->emptied += ONCE(shard->emptied);
		t->broken += ONCE(shard->broken);
	}
}
