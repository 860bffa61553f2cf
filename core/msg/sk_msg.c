/* SPDX-License-Identifier: BSD-3-Clause */
/* sk_msg.c - descriptors over sockets, the engine's side: the program of the kernel
 * (bpf/redirect.bpf.c), its maps, and a socket for every member. */
#include "msg/sk_msg.h"
#include "bpf.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

extern const unsigned char tw_redirect_object[];
extern const size_t tw_redirect_object_size;

#define LOG_BYTES (256 << 10)

/* The two ends of a member's connection: its own, of which the engine keeps a copy, so that what is
 * in its queue stays there when it dies; and the far one, which only keeps it connected. */
struct ends {
	int own, far;
};

struct sk_msg {
	struct bpf_object *object;
	struct loopback *loopback;
	int sources, ends_map, far_map, functions, members, counts; /* maps */
	struct ends ends[TW_MEMBERS_MAX];
};

static int map_of(struct sk_msg *s, const char *name)
{
	struct bpf_map *map = bpf_object__find_map_by_name(s->object, name);

	return map ? bpf_map__fd(map) : -1;
}

/* Constants, and the size of the pool's owners. */
static int configure(struct sk_msg *s, struct tw_fabric *f)
{
	uint32_t memory_mb = f->spec.memory_mb;
	struct redirect_constants *constants = NULL;
	struct bpf_map *map;
	size_t size = 0;

	bpf_object__for_each_map(map, s->object)
	{
		if (bpf_map__is_internal(map) && strstr(bpf_map__name(map), "rodata"))
			constants = (void *)bpf_map__initial_value(map, &size);
	}
	map = bpf_object__find_map_by_name(s->object, "owners");
	if (!map || !constants || size < sizeof(*constants))
		return tw_fail(EINVAL, "bpf/redirect.bpf.c is not what this engine was built with");
	constants->gates = f->gates;
	constants->depth = FABRIC_DEPTH;
	constants->depth_most = FABRIC_DEPTH_MOST;
	tw_pool_places(memory_mb, &constants->blocks, &constants->boards, &constants->board_words);
	return bpf_map__set_max_entries(map, tw_pool_blocks_for(memory_mb));
}

static int load(struct sk_msg *s, struct tw_fabric *f)
{
	char *log = calloc(1, LOG_BYTES);
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "tw_redirect", .kernel_log_buf = log,
	            .kernel_log_size = LOG_BYTES);
	int rc;

	tw_bpf_prepare();
	s->object = log ? bpf_object__open_mem(tw_redirect_object, tw_redirect_object_size, &opts)
	                : NULL;
	rc = s->object ? configure(s, f) : -errno;
	if (!rc)
		rc = bpf_object__load(s->object);
	if (rc < 0)
		rc = tw_fail(-rc, "%s: the kernel does not take the sk_msg program: %s%s%.200s",
		             f->spec.name, strerror(-rc),
		             rc == -EPERM ? "; it needs CAP_BPF and CAP_NET_ADMIN" : "",
		             log ? log : "");
	free(log);
	return rc;
}

static int attach_one(struct sk_msg *s, const char *program, int map, enum bpf_attach_type type)
{
	struct bpf_program *p = bpf_object__find_program_by_name(s->object, program);
	int rc = bpf_prog_attach(bpf_program__fd(p), map, type, 0);

	return rc < 0 ? tw_fail(-rc, "the program %s cannot be attached to a map of sockets: %s",
	                        program, strerror(-rc))
	              : 0;
}

static int attach(struct sk_msg *s)
{
	int rc;

	s->sources = map_of(s, "sources");
	s->ends_map = map_of(s, "ends");
	s->far_map = map_of(s, "far_ends");
	s->functions = map_of(s, "functions");
	s->members = map_of(s, "members");
	s->counts = map_of(s, "counts");
	rc = attach_one(s, "redirect", s->ends_map, BPF_SK_MSG_VERDICT);
	return rc ?: attach_one(s, "throw_away", s->far_map, BPF_SK_SKB_STREAM_VERDICT);
}

static int create(struct tw_fabric *f)
{
	struct sk_msg *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return tw_fail(ENOMEM, "%s: no memory for its sockets", f->spec.name);
	f->own = s;
	for (uint32_t m = 0; m < TW_MEMBERS_MAX; m++)
		s->ends[m] = (struct ends){ -1, -1 };
	rc = load(s, f);
	if (!rc)
		rc = attach(s);
	if (!rc)
		rc = loopback_new(&s->loopback);
	return rc ?: tw_pool_create(&f->pool, f->spec.name, f->spec.memory_mb, map_of(s, "owners"));
}

static void remove_member(struct tw_fabric *f, uint32_t member)
{
	struct sk_msg *s = f->own;
	struct ends *e = &s->ends[member];

	if (e->own < 0)
		return;
	/* Whatever was in its queue goes with it. */
	bpf_map_delete_elem(s->ends_map, &member);
	bpf_map_delete_elem(s->far_map, &member);
	close(e->own);
	close(e->far);
	*e = (struct ends){ -1, -1 };
}

static void destroy(struct tw_fabric *f)
{
	struct sk_msg *s = f->own;

	for (uint32_t m = 0; m < TW_MEMBERS_MAX; m++)
		remove_member(f, m);
	loopback_free(s->loopback);
	bpf_object__close(s->object);
	free(s);
	f->own = NULL;
}

static int add(struct tw_fabric *f, uint32_t member)
{
	static const struct redirect_counts none;
	struct sk_msg *s = f->own;
	struct ends *e = &s->ends[member];
	uint64_t own, far;
	int pair[2], rc;

	rc = loopback_pair(s->loopback, pair);
	if (rc < 0)
		return rc;
	*e = (struct ends){ pair[0], pair[1] };
	own = e->own;
	far = e->far;
	rc = bpf_map_update_elem(s->counts, &member, &none, BPF_ANY);
	if (!rc)
		rc = bpf_map_update_elem(s->sources, &e->own, &member, BPF_ANY);
	if (!rc)
		rc = bpf_map_update_elem(s->far_map, &member, &far, BPF_ANY);
	if (!rc)
		rc = bpf_map_update_elem(s->ends_map, &member, &own, BPF_ANY);
	if (rc < 0) {
		rc = tw_fail(-rc, "%s: member %u cannot have a socket: %s", f->spec.name, member,
		             strerror(-rc));
		remove_member(f, member);
	}
	return rc;
}

static int publish_function(struct tw_fabric *f, uint32_t function)
{
	struct sk_msg *s = f->own;
	int rc = bpf_map_update_elem(s->functions, &function, &f->routes.function[function],
	                             BPF_ANY);

	return rc < 0 ? tw_fail(-rc, "%s: routes of function %u: %s", f->spec.name, function,
	                        strerror(-rc))
	              : 0;
}

static int publish_member(struct tw_fabric *f, uint32_t member)
{
	struct sk_msg *s = f->own;
	int rc = bpf_map_update_elem(s->members, &member, &f->routes.member[member], BPF_ANY);

	return rc < 0 ? tw_fail(-rc, "%s: state of member %u: %s", f->spec.name, member,
	                        strerror(-rc))
	              : 0;
}

/* The program looks again at the receiver's state when it has changed owners: either it sees that
 * it is gone and takes them back, or what it did is seen here. */
static void settle(struct tw_fabric *f)
{
	(void)f;
	atomic_thread_fence(memory_order_seq_cst);
}

static int join(struct tw_fabric *f, uint32_t member, struct tw_join *join, int fds[TW_JOIN_FDS])
{
	struct sk_msg *s = f->own;

	fds[join->n_fds++] = s->ends[member].own;
	return 0;
}

static void stats(struct tw_fabric *f, uint32_t member, struct tw_member_stats *stats)
{
	const struct tw_member_board *board = tw_pool_board(f->pool, member);
	struct redirect_counts counts = { 0 };
	struct sk_msg *s = f->own;

	if (bpf_map_lookup_elem(s->counts, &member, &counts) < 0)
		return;
	stats->in = counts.in;
	stats->out = counts.out;
	stats->denied = counts.denied;
	stats->full = counts.full;
	stats->queued = (int64_t)(counts.in - __atomic_load_n(&board->finished, __ATOMIC_RELAXED));
	stats->sends = __atomic_load_n(&board->sends, __ATOMIC_RELAXED);
}

const struct transport sk_msg_transport = {
	.name = "sk_msg",
	.create = create,
	.destroy = destroy,
	.add = add,
	.remove = remove_member,
	.publish_function = publish_function,
	.publish_member = publish_member,
	.settle = settle,
	.join = join,
	.stats = stats,
	.open = sk_msg_open,
	.close = sk_msg_close,
	.send = sk_msg_send,
	.receive = sk_msg_receive,
	.ready = sk_msg_ready,
};
