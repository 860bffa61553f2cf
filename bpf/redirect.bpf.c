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
	if (f->n == 1)
		return f->instance[0];
	if (f->keyed && key)
		return f->slot[routes_slot(key)] | INSTANCE_KEYED;
	for (__u32 i = 0; i < TW_INSTANCES_MAX && i < f->n && least; i++) {
		int load = load_of(f->instance[i]);

		if (load < least) {
			least = load;
			best = f->instance[i];
		}
	}
	return best < 0 ? best : best | INSTANCE_SHARED | (f->keyed ? INSTANCE_KEYED : 0);
}

/* A target: a member, the function it belongs to, INSTANCE_..., and whether several may be sent
 * together; or why there is none. */
#define TARGET(member, function, flags) \
	((__u64)(member) | (__u64)(function) << 16 | (__u64)(flags) << 32)
#define TARGET_NONE(why) ((__u64)(why) << 56)
#define TARGET_WHY(target) ((enum redirect_why)((target) >> 56))

/* The part of a descriptor that says where it goes, as one number. */
union way {
	struct {
		__u16 exit, gate;
		__u32 key;
	};
	__u64 whole;
};

/* To this very member: gate threads only. */
static __always_inline __u64 find_member(__u32 member)
{
	struct routes_member *m = bpf_map_lookup_elem(&members, &member);

	return m && m->state >= MEMBER_OPEN ? TARGET(member, m->function, 0) :
	                                      TARGET_NONE(WHY_NOBODY);
}

static __always_inline __u64 find_instance(__u32 function, __u32 key)
{
	int instance = instance_of(function, key);
	__u32 member = instance & (TW_MEMBERS_MAX - 1);
	struct routes_member *m = bpf_map_lookup_elem(&members, &member);

	return instance >= 0 && m && m->state == MEMBER_OPEN && m->function == function ?
	               TARGET(member, function, instance & ~(TW_MEMBERS_MAX - 1)) :
	               TARGET_NONE(WHY_NOBODY);
}

/* Where the first descriptor of a function (or of the gate threads) goes. */
__noinline __u64 find(__u32 source, __u64 first)
{
	struct routes_function *from = bpf_map_lookup_elem(&functions, &source);
	union way way = { .whole = first };
	__u32 lane = way.exit >> ROUTES_LANE_SHIFT & (LANES - 1), exit = way.exit & 0xff;
	bool gate = source == ROUTES_GATE;
	__u32 function;

	if (gate && way.gate & ROUTES_DIRECT)
		return find_member(way.gate & (TW_MEMBERS_MAX - 1));
	if (!from || exit >= TW_EXITS_MAX)
		return TARGET_NONE(WHY_DENIED);
	function = gate ? way.gate : (__u32)from->exit[lane][exit] - 1;
	if (function >= ROUTES_FUNCTIONS || !(from->allow >> (function & 31) & 1))
		return TARGET_NONE(WHY_DENIED);
	if (function != ROUTES_GATE)
		return find_instance(function, way.key);
	return way.gate < constants.gates ? TARGET(way.gate, ROUTES_GATE, 0) :
	                                    TARGET_NONE(WHY_DENIED);
}

/* How many may go there at once. */
__noinline int room(__u32 source, __u64 target)
{
	__u32 function = target >> 16 & 0xffff;
	bool bounded = source == ROUTES_GATE && function != ROUTES_GATE;
	int depth = bounded ? constants.depth : constants.depth_most;
	int most = target >> 32 & INSTANCE_SHARED ? ROUTES_SHARE : TW_DESC_BATCH;
	int left = depth - load_of(target & (TW_MEMBERS_MAX - 1));

	return left < 0 ? 0 : left < most ? left : most;
}

/* What must be the same in the next ones, so that they go there too; the keys, if they count, need
 * only belong to the same instance. */
__noinline __u64 alike(__u32 source, __u64 target)
{
	bool to_gate = (target >> 16 & 0xffff) == ROUTES_GATE;
	union way mask = { .exit = 0xffff,
		           .gate = source == ROUTES_GATE || to_gate ? 0xffff : 0 };

	return mask.whole;
}

__noinline int key_fits(__u32 function, __u32 key, __u32 receiver)
{
	struct routes_function *f = bpf_map_lookup_elem(&functions, &function);

	return !f || (key && f->slot[routes_slot(key)] == receiver);
}

/* Its owner becomes the receiver, if it is the sender now and the receiver still who it was: who
 * removes a member marks it first, then looks what has been sent to it. */
__noinline int hand_over(tw_handle handle, __u32 from, __u32 to, __u32 life)
{
	__u64 generation = handle >> 32, old, new = TW_OWNER_WORD(generation, TW_BLOCK_SENT, to);
	const volatile struct routes_member *m = bpf_map_lookup_elem(&members, &to);
	__u32 index = (__u32)handle;
	__u64 *w = word(index);

	if (!w || !m || index >= constants.blocks || !generation)
		return WHY_STALE;
	old = *(volatile __u64 *)w;
	if (TW_GENERATION_OF(old) != generation || TW_OWNER_OF(old) != from ||
	    (TW_STATE_OF(old) != TW_BLOCK_HELD && TW_STATE_OF(old) != TW_BLOCK_BUSY))
		return WHY_STALE;
	if (__sync_val_compare_and_swap(w, old, new) != old)
		return WHY_STALE;
	if (m->state >= MEMBER_OPEN && m->life == (__u8)life)
		return WHY_NONE;
	__sync_val_compare_and_swap(w, new, old);
	return WHY_NOBODY;
}

__noinline int accepted(__u32 from, __u32 to, __u32 n)
{
	struct redirect_counts *mine = bpf_map_lookup_elem(&counts, &from);
	struct redirect_counts *theirs = bpf_map_lookup_elem(&counts, &to);
	__u64 *told = board(from, FIELD(accepted));

	if (!mine || !theirs || !told)
		return 0;
	__sync_fetch_and_add(&theirs->in, n);
	mine->out += n; /* one send of a socket at a time */
	mine->verdicts++;
	*told = mine->out;
	return 0;
}

__noinline int refused(__u32 from, __u32 why)
{
	struct redirect_counts *mine = bpf_map_lookup_elem(&counts, &from);
	__u64 *told = board(from, FIELD(refused));

	if (!mine || !told)
		return 0;
	*told = why;
	if (why == WHY_DENIED || why == WHY_STALE)
		mine->denied++;
	else if (why == WHY_FULL)
		mine->full++;
	return 0;
}

/* Branches that the verifier need not follow through every turn of the loop below. */

__noinline int life_of(__u32 member)
{
	struct routes_member *m = bpf_map_lookup_elem(&members, &member);

	return m ? m->life : 0;
}

/* The function whose keys count, or one that there is not. */
__noinline int keyed_by(__u64 target)
{
	return target >> 32 & INSTANCE_KEYED ? (int)(target >> 16 & 0xffff) : ROUTES_FUNCTIONS;
}

/* What becomes of .gate: bits that stay << 16 | bits that are set. */
__noinline __u64 stamp_of(__u32 source, __u32 self)
{
	return source == ROUTES_GATE ? self : 0xffff0000;
}

static __always_inline struct routes_member *sender_of(struct sk_msg_md *msg, __u32 *self)
{
	__u32 *source = bpf_sk_storage_get(&sources, msg->sk, 0, 0);

	if (!source)
		return NULL;
	*self = *source & (TW_MEMBERS_MAX - 1);
	return bpf_map_lookup_elem(&members, self);
}

/* The first descriptor in one piece: the end of a page may have cut it in two. */
static __always_inline void pull_first(struct sk_msg_md *msg)
{
	struct tw_desc *first = (void *)(long)msg->data;

	if ((void *)(first + 1) > (void *)(long)msg->data_end)
		bpf_msg_pull_data(msg, 0, sizeof(*first), 0);
}

SEC("sk_msg")
int redirect(struct sk_msg_md *msg)
{
	__u32 self, receiver, from, by, life, n = 0;
	__u64 target, mask, way, stamp;
	struct routes_member *me;
	struct tw_desc *first;
	__u32 why;
	void *end;
	int most;

	me = sender_of(msg, &self);
	if (!me || me->state == MEMBER_NONE)
		return SK_DROP;
	from = me->function;
	pull_first(msg);
	first = (void *)(long)msg->data;
	end = (void *)(long)msg->data_end;
	if ((void *)(first + 1) > end)
		return SK_DROP;
	way = ((union way *)&first->exit)->whole;
	target = find(from, way);
	why = TARGET_WHY(target);
	if (why != WHY_NONE)
		goto refuse;
	receiver = target & (TW_MEMBERS_MAX - 1);
	mask = alike(from, target);
	stamp = stamp_of(from, self);
	by = keyed_by(target);
	life = life_of(receiver);
	why = WHY_NOBODY;
	if (bpf_msg_redirect_map(msg, &ends, receiver, BPF_F_INGRESS) != SK_PASS)
		goto refuse;
	why = WHY_FULL;
	most = room(from, target);
	for (n = 0; n < TW_DESC_BATCH; n++) {
		struct tw_desc *d = first + n;

		if ((int)n >= most || (void *)(d + 1) > end ||
		    ((((union way *)&d->exit)->whole ^ way) & mask))
			break;
		if (n && !key_fits(by, d->key, receiver))
			break;
		why = hand_over(d->handle, self, receiver, life);
		if (why != WHY_NONE)
			break;
		d->exit = (d->exit & 0xff) | self << ROUTES_LANE_SHIFT;
		d->gate = (d->gate & stamp >> 16) | (stamp & 0xffff);
	}
	if (n) {
		bpf_msg_apply_bytes(msg, n * sizeof(struct tw_desc));
		accepted(self, receiver, n);
		return SK_PASS;
	}
refuse:
	refused(self, why);
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
