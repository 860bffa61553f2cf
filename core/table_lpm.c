/* SPDX-License-Identifier: BSD-3-Clause */
/* table_lpm.c - longest-prefix-match tables for IPv4 and IPv6 over rte_lpm and rte_lpm6. */
#define ALLOW_EXPERIMENTAL_API /* rte_lpm_rcu_qsbr_add, in DPDK since 20.08 */
#include "error.h"
#include "rcu.h"
#include "table_slots.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>
#include <rte_prefetch.h>

/*
 * rte_lpm rather than rte_fib: its layout is public, so that a look-up is two loads inlined in
 * compiled Lua, and it can defer the reuse of tbl8 groups to a quiescent state (rte_fib cannot in
 * DPDK 22.11). rte_lpm6 cannot either; see lookup6(). Both know no /0: it is kept beside them.
 *
 * The prefixes themselves are the keys of a hash, whose slots hold the values and whose slot
 * numbers are the "next hops" of the trie: a value lives exactly as long as a hash entry's.
 */
struct tw_lpm {
	struct tw_hash rules; /* keys: struct tw_lpm_key, masked, host order for IPv4 */
	struct rte_lpm *lpm4;
	struct rte_lpm6 *lpm6;
	_Atomic uint32_t changes; /* of lpm6; under the rules' lock */
	struct tw_lpm_view view;
	/* Values of two bytes: the trie holds the value itself (plus one: 0 is none), and this
	 * gives it back. All prefixes with one value share one cell, which stays in the first level
	 * cache. */
	uint16_t *cells;
};

#define CELLS (65536 + 1)

#define GROUP_MAX (1u << 20)
#define SLOT_MAX_4 (1u << 24)
#define SLOT_MAX_6 (1u << 21)

/* The inlined look-up relies on this layout of struct rte_lpm and its entries. */
static_assert(sizeof(struct rte_lpm_tbl_entry) == 4, "tbl entry is one word");
static_assert(offsetof(struct rte_lpm, tbl24) == 0, "tbl24 comes first");
static_assert(sizeof(((struct rte_lpm *)0)->tbl24) == 4u << 24, "tbl24 is indexed by 24 bits");
static_assert(RTE_LPM_LOOKUP_SUCCESS == 0x01000000, "valid bit");
static_assert(RTE_LPM_VALID_EXT_ENTRY_BITMASK == 0x03000000, "valid and extended bits");
static_assert(RTE_LPM_TBL8_GROUP_NUM_ENTRIES == 256, "tbl8 groups are indexed by 8 bits");
static_assert(offsetof(struct tw_lpm_key, length) == 16, "no padding in the key");

/* ---- look-up ---- */

static inline uint32_t default_slot(const struct tw_lpm *t)
{
	return __atomic_load_n(&t->view.default_slot, __ATOMIC_ACQUIRE);
}

static inline void *value_of(const struct tw_lpm *t, uint32_t slot)
{
	return slot ? t->view.values + (size_t)slot * t->view.value_stride : NULL;
}

/* What the trie holds for a slot of the rules. */
static inline uint32_t entry_of(const struct tw_lpm *t, uint32_t slot)
{
	uint16_t value;

	if (!t->cells)
		return slot;
	memcpy(&value, tw_hash_value(&t->rules, slot), sizeof(value));
	return value + 1u;
}

static inline bool guest_enter(void)
{
	if (tw_rcu_self != TW_RCU_NO_SLOT)
		return false;
	tw_rcu_guest_enter();
	return true;
}

static inline void guest_leave(bool guest)
{
	if (guest)
		tw_rcu_guest_leave();
}

static inline uint32_t lookup4(const struct tw_lpm *t, uint32_t address)
{
	uint32_t slot;

	return rte_lpm_lookup(t->lpm4, address, &slot) ? default_slot(t) : slot;
}

/*
 * rte_lpm6 gives a tbl8 group back to its pool as soon as the last prefix in it is deleted, and
 * a later addition may fill it while a reader is still on its way through. One change alone is
 * harmless: a reader sees the old or the new entry. So a look-up during which the next change
 * began is done again; it never waits for a writer, whatever happens to that one's thread.
 */
static uint32_t lookup6(const struct tw_lpm *t, const uint8_t *address)
{
	uint32_t before, slot;

	do {
		before = atomic_load_explicit(&t->changes, memory_order_acquire);
		if (rte_lpm6_lookup(t->lpm6, address, &slot))
			slot = default_slot(t);
		atomic_thread_fence(memory_order_acquire);
	} while (atomic_load_explicit(&t->changes, memory_order_relaxed) != before);
	return slot;
}

void *tw_lpm4_get(struct tw_table *table, uint32_t address)
{
	const struct tw_lpm *t = (struct tw_lpm *)table;
	bool guest = guest_enter();
	void *value = value_of(t, lookup4(t, address));

	guest_leave(guest);
	return value;
}

void *tw_lpm6_get(struct tw_table *table, const void *address)
{
	const struct tw_lpm *t = (struct tw_lpm *)table;
	bool guest = guest_enter();
	void *value = value_of(t, lookup6(t, address));

	guest_leave(guest);
	return value;
}

int tw_lpm4_get_bulk(struct tw_table *table, const uint32_t *addresses, uint32_t n, void **values)
{
	const struct tw_lpm *t = (struct tw_lpm *)table;
	bool guest = guest_enter();
	int found = 0;

	for (uint32_t i = 0; i < n; i++)
		rte_prefetch0(&t->lpm4->tbl24[addresses[i] >> 8]);
	for (uint32_t i = 0; i < n; i++) {
		values[i] = value_of(t, lookup4(t, addresses[i]));
		found += values[i] != NULL;
	}
	guest_leave(guest);
	return found;
}

/* ---- changes ---- */

static int make_key(const struct tw_lpm *t, const void *address, uint32_t length,
                    struct tw_lpm_key *key, uint8_t size)
{
	bool v6 = t->rules.t.kind == TW_TABLE_LPM6;
	uint32_t bits = v6 ? 128 : 32, a4;

	memset(key, 0, size);
	if (length > bits)
		return tw_fail(EINVAL, "prefix length %u of table \"%s\" is more than %u bits",
		               length, t->rules.t.name, bits);
	key->length = length;
	if (!v6) {
		memcpy(&a4, address, 4);
		a4 &= length ? ~0u << (32 - length) : 0;
		memcpy(key->address, &a4, 4);
		return 0;
	}
	memcpy(key->address, address, length / 8);
	if (length % 8)
		key->address[length / 8] = ((const uint8_t *)address)[length / 8] &
		                           0xff00 >> length % 8;
	return 0;
}

static void begin_change(struct tw_lpm *t)
{
	atomic_fetch_add_explicit(&t->changes, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release); /* the count goes up before the trie changes */
}

static int trie_add(struct tw_lpm *t, const struct tw_lpm_key *key, uint32_t slot)
{
	uint32_t a4, entry = entry_of(t, slot);

	if (!key->length) {
		__atomic_store_n(&t->view.default_slot, entry, __ATOMIC_RELEASE);
		return 0;
	}
	if (t->lpm6) {
		begin_change(t);
		return rte_lpm6_add(t->lpm6, key->address, key->length, entry);
	}
	memcpy(&a4, key->address, 4);
	return rte_lpm_add(t->lpm4, a4, key->length, entry);
}

static void trie_delete(struct tw_lpm *t, const struct tw_lpm_key *key)
{
	uint32_t a4;

	if (!key->length) {
		__atomic_store_n(&t->view.default_slot, 0, __ATOMIC_RELEASE);
	} else if (t->lpm6) {
		begin_change(t);
		rte_lpm6_delete(t->lpm6, key->address, key->length);
	} else {
		memcpy(&a4, key->address, 4);
		rte_lpm_delete(t->lpm4, a4, key->length);
	}
}

/* Points the trie to the slot first and retires the old one after: no look-up finds a gap. */
static int set_locked(struct tw_lpm *t, const struct tw_lpm_key *key, const void *value)
{
	struct tw_hash *h = &t->rules;
	uint32_t sig = tw_hash_signature(h, key), old = tw_hash_find(h, key, sig), slot;
	int err;

	if (old) {
		slot = tw_hash_prepare(h, old, value);
		if (slot == old)
			return 0;
		trie_add(t, key, slot); /* an existing rule: changes entries, needs no memory */
		tw_hash_commit(h, old, slot, sig);
		return 0;
	}
	slot = tw_hash_insert(h, key, sig, value, 0);
	if (!slot)
		return tw_fail(ENOSPC, "table \"%s\" is full: %u prefixes", h->t.name,
		               h->t.entries);
	err = trie_add(t, key, slot);
	if (err < 0) {
		tw_hash_remove(h, slot);
		h->t.full++;
		return tw_fail(
			ENOSPC,
			"table \"%s\" has no tbl8 group left for a /%u: create it with more groups",
			h->t.name, key->length);
	}
	return 0;
}

int tw_lpm_set(struct tw_table *table, const void *address, uint32_t length, const void *value)
{
	struct tw_lpm *t = (struct tw_lpm *)table;
	_Alignas(8) uint8_t buffer[32];
	struct tw_lpm_key *key = (struct tw_lpm_key *)buffer;
	int err = make_key(t, address, length, key, sizeof(buffer));

	if (err < 0)
		return err;
	tw_hash_lock(&t->rules);
	err = set_locked(t, key, value);
	tw_hash_unlock(&t->rules);
	return err;
}

void *tw_lpm_find(struct tw_table *table, const void *address, uint32_t length)
{
	struct tw_lpm *t = (struct tw_lpm *)table;
	struct tw_hash *h = &t->rules;
	_Alignas(8) uint8_t buffer[32];
	struct tw_lpm_key *key = (struct tw_lpm_key *)buffer;
	uint32_t slot;
	void *value;
	bool guest;

	if (make_key(t, address, length, key, sizeof(buffer)) < 0)
		return NULL;
	guest = guest_enter();
	slot = tw_hash_find(h, key, tw_hash_signature(h, key));
	value = slot ? tw_hash_value(h, slot) : NULL;
	guest_leave(guest);
	return value;
}

bool tw_lpm_del(struct tw_table *table, const void *address, uint32_t length)
{
	struct tw_lpm *t = (struct tw_lpm *)table;
	struct tw_hash *h = &t->rules;
	_Alignas(8) uint8_t buffer[32];
	struct tw_lpm_key *key = (struct tw_lpm_key *)buffer;
	uint32_t slot;

	if (make_key(t, address, length, key, sizeof(buffer)) < 0)
		return false;
	tw_hash_lock(h);
	slot = tw_hash_find(h, key, tw_hash_signature(h, key));
	if (slot) {
		trie_delete(t, key);
		tw_hash_remove(h, slot);
	}
	tw_hash_unlock(h);
	return slot != 0;
}

static int clear(struct tw_table *table)
{
	struct tw_lpm *t = (struct tw_lpm *)table;
	struct tw_hash *h = &t->rules;
	int n = 0;

	for (uint32_t slot = 1; slot <= h->slots; slot++) {
		if (!atomic_load_explicit(&h->live[slot], memory_order_relaxed))
			continue;
		tw_hash_lock(h);
		if (h->live[slot]) {
			trie_delete(t, tw_hash_key(h, slot));
			tw_hash_remove(h, slot);
			n++;
		}
		tw_hash_unlock(h);
	}
	return n;
}

/* ---- text ---- */

int tw_prefix_parse(const char *text, int family, void *address, uint32_t *length)
{
	uint32_t bits = family == 6 ? 128 : 32;
	const char *slash = strchr(text, '/');
	char head[INET6_ADDRSTRLEN], *end;
	size_t n = slash ? (size_t)(slash - text) : strlen(text);

	*length = bits;
	if (slash) {
		unsigned long value = strtoul(slash + 1, &end, 10);

		if (slash[1] < '0' || slash[1] > '9' || *end || value > bits)
			return tw_fail(EINVAL,
			               "\"%s\" is not a prefix: the length after \"/\" is 0 to %u",
			               text, bits);
		*length = value;
	}
	if (n >= sizeof(head))
		return tw_fail(EINVAL, "\"%s\" is not an IPv%d prefix", text, family);
	memcpy(head, text, n);
	head[n] = 0;
	if (inet_pton(family == 6 ? AF_INET6 : AF_INET, head, address) != 1)
		return tw_fail(EINVAL, "\"%s\" is not an IPv%d prefix such as %s", text, family,
		               family == 6 ? "2001:db8::/32" : "10.0.0.0/8");
	if (family != 6)
		*(uint32_t *)address = ntohl(*(uint32_t *)address);
	return 0;
}

int tw_prefix_print(int family, const void *address, uint32_t length, char *text, size_t size)
{
	char head[INET6_ADDRSTRLEN];
	uint32_t a4;

	if (family != 6) {
		a4 = htonl(*(const uint32_t *)address);
		address = &a4;
	}
	inet_ntop(family == 6 ? AF_INET6 : AF_INET, address, head, sizeof(head));
	return snprintf(text, size, "%s/%u", head, length);
}

/* ---- life ---- */

static void destroy(struct tw_table *table)
{
	struct tw_lpm *t = (struct tw_lpm *)table;

	rte_lpm_free(t->lpm4);
	rte_lpm6_free(t->lpm6);
	if (t->cells)
		tw_table_memory_free(t->cells, CELLS * sizeof(*t->cells));
	tw_hash_destroy(table);
}

static int make_trie(struct tw_lpm *t, uint32_t groups, bool number)
{
	struct tw_hash *h = &t->rules;
	struct rte_lpm_rcu_config rcu = { .v = tw_qsbr(), .mode = RTE_LPM_QSBR_MODE_DQ };
	static unsigned made;
	char name[RTE_LPM_NAMESIZE];

	snprintf(name, sizeof(name), "tw%u", ++made);
	if (h->t.kind == TW_TABLE_LPM6) {
		struct rte_lpm6_config config = { .max_rules = h->t.entries + 1,
			                          .number_tbl8s = groups };

		t->lpm6 = rte_lpm6_create(name, SOCKET_ID_ANY, &config);
		if (!t->lpm6)
			return -(rte_errno ? rte_errno : ENOMEM);
	} else {
		struct rte_lpm_config config = { .max_rules = h->t.entries + 1,
			                         .number_tbl8s = groups };

		t->lpm4 = rte_lpm_create(name, SOCKET_ID_ANY, &config);
		if (!t->lpm4)
			return -(rte_errno ? rte_errno : ENOMEM);
		if (rte_lpm_rcu_qsbr_add(t->lpm4, &rcu))
			return -(rte_errno ? rte_errno : ENOMEM);
		t->view.tbl24 = (const int32_t *)t->lpm4->tbl24;
		t->view.tbl8 = (const int32_t *)t->lpm4->tbl8;
	}
	t->view.values = h->entries + h->t.key_stride;
	t->view.value_stride = h->entry_stride;
	if (number && h->t.value_size == sizeof(*t->cells)) {
		t->cells = tw_table_memory(CELLS * sizeof(*t->cells));
		if (!t->cells)
			return -ENOMEM;
		for (uint32_t i = 1; i < CELLS; i++)
			t->cells[i] = i - 1;
		t->view.values = (uint8_t *)t->cells;
		t->view.value_stride = sizeof(*t->cells);
		t->view.number = true;
	}
	h->t.bytes += (4u << 24) + (uint64_t)groups * 1024 + (uint64_t)h->t.entries * 8;
	return 0;
}

static struct tw_table_ops ops;

size_t tw_lpm_struct_size(void)
{
	return sizeof(struct tw_lpm);
}

int tw_lpm_init(struct tw_table *table, uint32_t groups, bool number)
{
	struct tw_lpm *t = (struct tw_lpm *)table;
	bool v6 = table->kind == TW_TABLE_LPM6;
	int err;

	table->key_size = sizeof(struct tw_lpm_key);
	table->key_stride = 32;
	err = tw_hash_init(table);
	if (err < 0)
		return err;
	if (t->rules.slots >= (v6 ? SLOT_MAX_6 : SLOT_MAX_4)) {
		tw_hash_destroy(table);
		return tw_fail(EINVAL, "%u entries: an IPv%d lpm table has less than %u",
		               table->entries, v6 ? 6 : 4,
		               (v6 ? SLOT_MAX_6 : SLOT_MAX_4) - (1u << 16));
	}
	/* IPv4: a group per /24 with longer prefixes in it, so this suffices up to 65536 of those.
	 * IPv6: a group per byte from /25 on that prefixes do not share; 4 are right for /48 to
	 * /56. */
	if (!groups)
		groups = v6 ? table->entries * 4 : table->entries < 65536 ? table->entries : 65536;
	groups = groups < 256 ? 256 : groups > GROUP_MAX ? GROUP_MAX : groups;
	err = make_trie(t, groups, number);
	if (err < 0) {
		destroy(table);
		return tw_fail(
			-err,
			"no memory for table \"%s\" (%u prefixes, %u groups, %u MiB): %s; give "
			"the engine more memory or the table fewer entries or groups",
			table->name, table->entries, groups, 64 + groups / 1024,
			rte_strerror(-err));
	}
	/* Sweeping (reuse of slots), counting and walking are the hash's. */
	ops = *table->ops;
	ops.destroy = destroy;
	ops.clear = clear;
	table->ops = &ops;
	return 0;
}

const struct tw_lpm_view *tw_lpm_view(const struct tw_table *table)
{
	return &((const struct tw_lpm *)table)->view;
}
