/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* redirect.bpf.c - descriptors of a service on their way: who sends is the socket's; what stands
 * behind the exit, and which instance has it, is looked up; the block's owner changes; and they are
 * in the receiver's queue. Several of one send that go to the same member go together.
 *
 * Whatever is refused ends the send: all of it behind the last that was accepted stays its
 * sender's, who learns why from its board. The bytes go out over the sender's own connection, whose
 * far end throws them away: a socket whose program has said SK_DROP once is never asked again. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "msg/pool.h"
#include "msg/routes.h"

#define FIELD(name) (offsetof(struct tw_member_board, name) / sizeof(uint64_t))

enum { LOAD_MOST = 1 << 20 };

/* Filled in before it is loaded. */
const volatile struct redirect_constants constants;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} sources SEC(".maps"); /* the member that a socket is the end of */

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, TW_MEMBERS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, TW_MEMBERS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} far_ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} owners SEC(".maps"); /* of the pool, and the boards; mapped by all members */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ROUTES_FUNCTIONS);
	__type(key, __u32);
	__type(value, struct routes_function);
} functions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TW_MEMBERS_MAX);
	__type(key, __u32);
	__type(value, struct routes_member);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TW_MEMBERS_MAX);
	__type(key, __u32);
	__type(value, struct redirect_counts);
} counts SEC(".maps");

static __always_inline __u64 *word(__u32 index)
{
	return bpf_map_lookup_elem(&owners, &index);
}

static __always_inline __u64 *board(__u32 member, __u32 field)
{
	return word(constants.boards + member * constants.board_words + field);
}

/* Functions of their own for the verifier, which looks into each of them once. */

/* Descriptors that a member has in its queue or in hand, at most that many. */
__noinline int load_of(__u32 member)
{
	struct redirect_counts *c = bpf_map_lookup_elem(&counts, &member);
	__u64 *finished = board(member, FIELD(finished));
	__s64 load = c && finished ? (__s64)(c->in - *finished) : 0;

	return load < 0 ? 0 : load > LOAD_MOST ? LOAD_MOST : (int)load;
}

enum { INSTANCE_SHARED = 256, INSTANCE_KEYED = 512 };

/* The member that a message for this function goes to, and what else is of interest; -1: nobody. */
__noinline int instance_of(__u32 function, __u32 key)
{
	struct routes_function *f = bpf_map_lookup_elem(&functions, &function);
	int best = -1, least = LOAD_MOST + 1;

	if (!f || !f->n)
		return -1;
	if (f->keyed && key)
		return f->slot[routes_slot(key)] | INSTANCE_KEYED;
	if (f->n == 1)
		return f->instance[0];
	for (__u32 i = 0; i < TW_INSTANCES_MAX && i < f->n && least; i++) {
		int load = load_of(f->instance[i]);

		if (load < least) {
			least = load;
			best = f->instance[i];
		}
	}
	return best < 0 ? best : best | INSTANCE_SHARED;
}

struct target {
	__u32 member, function;
	bool keyed, shared;
};

/* To this very member: gates only. */
static __always_inline enum redirect_why find_member(__u32 member, struct target *to)
{
	struct routes_member *m = bpf_map_lookup_elem(&members, &member);

	if (!m || m->state < MEMBER_OPEN)
		return WHY_NOBODY;
	to->function = m->function;
	to->member = member;
	return WHY_NONE;
}

/* Where the first descriptor goes. */
static __always_inline enum redirect_why find(const struct routes_function *from, bool gate,
                                              const struct tw_desc *d, struct target *to)
{
	__u32 lane = d->exit >> ROUTES_LANE_SHIFT & (LANES - 1), exit = d->exit & 0xff;
	struct routes_member *m;
	__u32 function, member;
	int instance;

	if (gate && d->gate & ROUTES_DIRECT)
		return find_member(d->gate & (TW_MEMBERS_MAX - 1), to);
	if (exit >= TW_EXITS_MAX)
		return WHY_DENIED;
	function = gate ? d->gate : (__u32)from->exit[lane][exit] - 1;
	if (function >= ROUTES_FUNCTIONS || !(from->allow >> (function & 31) & 1))
		return WHY_DENIED;
	to->function = function;
	if (function == ROUTES_GATE) {
		to->member = d->gate;
		return d->gate < constants.gates ? WHY_NONE : WHY_DENIED;
	}
	instance = instance_of(function, d->key);
	if (instance < 0)
		return WHY_NOBODY;
	to->keyed = instance & INSTANCE_KEYED;
	to->shared = instance & INSTANCE_SHARED;
	to->member = member = instance & (TW_MEMBERS_MAX - 1);
	m = bpf_map_lookup_elem(&members, &member);
	return m && m->state == MEMBER_OPEN && m->function == function ? WHY_NONE : WHY_NOBODY;
}

/* The next one of the send goes there too. A key has a place of its own. */
static __always_inline bool goes_along(const struct tw_desc *d, const struct tw_desc *first,
                                       const struct target *to, bool gate)
{
	if (d->exit != first->exit)
		return false;
	if ((gate || to->function == ROUTES_GATE) && d->gate != first->gate)
		return false;
	return to->function == ROUTES_GATE || d->key == first->key;
}

/* Its owner becomes the receiver, if it is the sender now. */
static __always_inline bool hand_over(tw_handle handle, __u32 from, __u32 to)
{
	__u64 generation = handle >> 32, old;
	__u32 index = (__u32)handle;
	__u64 *w;

	if (index >= constants.blocks || !generation)
		return false;
	w = word(index);
	if (!w)
		return false;
	old = *(volatile __u64 *)w;
	if (TW_GENERATION_OF(old) != generation || TW_OWNER_OF(old) != from ||
	    (TW_STATE_OF(old) != TW_BLOCK_HELD && TW_STATE_OF(old) != TW_BLOCK_BUSY))
		return false;
	return __sync_val_compare_and_swap(w, old, TW_OWNER_WORD(generation, TW_BLOCK_SENT, to)) ==
	       old;
}

/* The receiver has gone meanwhile: what it was given before that is seen by who looks for it. */
static __always_inline bool is_there(const struct routes_member *m, __u8 life)
{
	const volatile struct routes_member *now = m;

	return now->state >= MEMBER_OPEN && now->life == life;
}

static __always_inline void hand_back(tw_handle handle, __u32 from, __u32 to)
{
	__u64 generation = handle >> 32;
	__u64 *w = word((__u32)handle);

	if (w && (__u32)handle < constants.blocks)
		__sync_val_compare_and_swap(w, TW_OWNER_WORD(generation, TW_BLOCK_SENT, to),
		                            TW_OWNER_WORD(generation, TW_BLOCK_HELD, from));
}

/* How many may go at once. */
static __always_inline int room(const struct target *to, bool gate)
{
	int depth = gate && to->function != ROUTES_GATE ? constants.depth : constants.depth_most;
	int most = to->shared ? ROUTES_SHARE : TW_DESC_BATCH;
	int left = depth - load_of(to->member);

	return left < most ? left : most;
}

SEC("sk_msg")
int redirect(struct sk_msg_md *msg)
{
	struct redirect_counts *mine, *theirs;
	struct routes_function *from;
	struct routes_member *me, *them;
	struct tw_desc *first, copy;
	struct target to = {};
	enum redirect_why why;
	__u32 *source, self, function, n = 0;
	int most;
	__u64 *told;
	void *end;
	bool gate;
	__u8 life;

	source = bpf_sk_storage_get(&sources, msg->sk, 0, 0);
	if (!source)
		return SK_DROP;
	self = *source & (TW_MEMBERS_MAX - 1);
	me = bpf_map_lookup_elem(&members, &self);
	mine = bpf_map_lookup_elem(&counts, &self);
	if (!me || !mine || me->state == MEMBER_NONE)
		return SK_DROP;
	function = me->function;
	gate = function == ROUTES_GATE;
	from = bpf_map_lookup_elem(&functions, &function);
	told = board(self, FIELD(refused));
	if (!from || !told)
		return SK_DROP;

	first = (void *)(long)msg->data;
	end = (void *)(long)msg->data_end;
	if ((void *)(first + 1) > end) {
		/* Cut in two by the end of a page, or not a whole one. */
		if (bpf_msg_pull_data(msg, 0, sizeof(*first), 0))
			return SK_DROP;
		first = (void *)(long)msg->data;
		end = (void *)(long)msg->data_end;
		if ((void *)(first + 1) > end)
			return SK_DROP;
	}
	copy = *first;
	why = find(from, gate, &copy, &to);
	if (why != WHY_NONE)
		goto refused;
	most = room(&to, gate);
	if (most <= 0) {
		why = WHY_FULL;
		goto refused;
	}
	them = bpf_map_lookup_elem(&members, &to.member);
	if (!them)
		return SK_DROP;
	life = them->life;
	if (bpf_msg_redirect_map(msg, &ends, to.member, BPF_F_INGRESS) != SK_PASS) {
		why = WHY_NOBODY;
		goto refused;
	}
	for (n = 0; n < TW_DESC_BATCH; n++) {
		struct tw_desc *d = first + n;

		if ((int)n >= most || (void *)(d + 1) > end)
			break;
		if (n && !goes_along(d, &copy, &to, gate))
			break;
		if (!hand_over(d->handle, self, to.member))
			break;
		if (!is_there(them, life)) {
			hand_back(d->handle, self, to.member);
			why = WHY_NOBODY;
			break;
		}
		d->exit = (d->exit & 0xff) | self << ROUTES_LANE_SHIFT;
		if (gate)
			d->gate = self;
	}
	if (!n) {
		why = why == WHY_NONE ? WHY_STALE : why;
		goto refused;
	}
	bpf_msg_apply_bytes(msg, n * sizeof(struct tw_desc));
	theirs = bpf_map_lookup_elem(&counts, &to.member);
	if (theirs)
		__sync_fetch_and_add(&theirs->in, n);
	mine->out += n; /* one send of a socket at a time */
	mine->verdicts++;
	told = board(self, FIELD(accepted));
	if (told)
		*told = mine->out;
	return SK_PASS;
refused:
	*told = why;
	if (why == WHY_DENIED || why == WHY_STALE)
		mine->denied++;
	else if (why == WHY_FULL)
		mine->full++;
	bpf_msg_apply_bytes(msg, 0);
	return bpf_msg_redirect_map(msg, &ends, self, 0);
}

/* On the far ends. */
SEC("sk_skb/stream_verdict")
int throw_away(struct __sk_buff *skb)
{
	(void)skb;
	return SK_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
