/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_bpf.h - the part of the boundary that talks to the kernel's BPF; same conventions as abi.h,
 * which includes it.
 *
 * Thin on purpose: types, BTF, texts and policy are Lua's (lua/tideway/bpf/). Descriptors are
 * returned as such (>= 0) and are the caller's to close. Numbers of kinds, types and hooks are the
 * kernel's (linux/bpf.h), asserted in bpf_map.c and bpf_program.c. Any thread may call.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum tw_bpf_limit {
	TW_BPF_NAME_LEN = 16,      /* names in the kernel, NUL included */
	TW_BPF_LOG_MAX = 16 << 20, /* bytes of a verifier log */
	TW_BPF_XDP_MODES = 3,
};

/* Closes a descriptor that a function of this header returned. */
void tw_bpf_close(int fd);
int tw_bpf_cpus(void); /* CPUs that may ever exist: values per entry of a per-CPU map */
/* Index of an interface of this network namespace, or -errno. */
int tw_bpf_ifindex(const char *name);
int tw_bpf_ifname(int ifindex, char *name, size_t size); /* size >= 16 */
/* What a device can do with XDP, as the kernel's NETDEV_XDP_ACT_*; -errno before Linux 6.3. */
enum { TW_XDP_CAN_SEND = 4 }; /* it takes frames that programs of other devices redirect */
int tw_xdp_features(int ifindex, uint64_t *features);

/* ---- maps ---- */

enum tw_bpf_map_kind {
	TW_BPF_HASH = 1,
	TW_BPF_ARRAY = 2,
	TW_BPF_PROG_ARRAY = 3,
	TW_BPF_PERCPU_HASH = 5,
	TW_BPF_PERCPU_ARRAY = 6,
	TW_BPF_LRU_HASH = 9,
	TW_BPF_LRU_PERCPU_HASH = 10,
	TW_BPF_LPM_TRIE = 11,
	TW_BPF_DEVMAP = 14,
	TW_BPF_SOCKMAP = 15,
	TW_BPF_CPUMAP = 16,
	TW_BPF_XSKMAP = 17,
	TW_BPF_SOCKHASH = 18,
	TW_BPF_REUSEPORT_SOCKARRAY = 20,
	TW_BPF_QUEUE = 22,
	TW_BPF_STACK = 23,
	TW_BPF_DEVMAP_HASH = 25,
	TW_BPF_RINGBUF = 27,
	TW_BPF_BLOOM_FILTER = 30,
};

enum tw_bpf_map_flag {
	TW_BPF_NO_PREALLOC = 1 << 0,
	TW_BPF_RDONLY_PROG = 1 << 7,
	TW_BPF_MMAPABLE = 1 << 10,
};

enum tw_bpf_update {
	TW_BPF_ANY = 0,
	TW_BPF_NOEXIST = 1,
	TW_BPF_EXIST = 2,
	TW_BPF_LOCK = 4, /* copy under the value's spin lock */
};

struct tw_bpf_map_spec {
	char name[TW_BPF_NAME_LEN];
	uint32_t kind, key_size, value_size, entries, flags;
	int32_t btf; /* descriptor of key_type and value_type, or 0 */
	uint32_t key_type, value_type;
	int32_t inner; /* descriptor of the model of inner maps, or 0 */
	uint32_t ifindex;
	uint64_t extra; /* bloom_filter: number of hashes */
};

struct tw_bpf_map_info {
	char name[TW_BPF_NAME_LEN];
	uint32_t kind, id, key_size, value_size, entries, flags;
	uint32_t btf_id, key_type, value_type, frozen;
	uint64_t bytes; /* of kernel memory */
};

/* -EACCES, -EPERM, -EINVAL and the others of bpf(2). */
int tw_bpf_map_create(const struct tw_bpf_map_spec *spec);
int tw_bpf_map_by_id(uint32_t id);
int tw_bpf_map_get_info(int map, struct tw_bpf_map_info *info);
/* These are on the way of every access, so -ENOENT (no such entry) leaves no sentence. Per-CPU
 * values: tw_bpf_cpus() of them, each rounded up to 8 bytes. key NULL: queue, stack, bloom. */
int tw_bpf_map_lookup(int map, const void *key, void *value, uint64_t flags);
int tw_bpf_map_take(int map, const void *key, void *value); /* look up and delete */
int tw_bpf_map_update(int map, const void *key, const void *value, uint64_t flags);
int tw_bpf_map_delete(int map, const void *key);
int tw_bpf_map_next_key(int map, const void *key, void *next); /* key NULL: the first */
/* No system call changes the map from now on; programs may. */
int tw_bpf_map_freeze(int map);
/* Batches: *count in is the room, out the number done; *cursor 0 at first, is set to go on.
 * tw_bpf_map_read_batch() returns -ENOENT with the last batch. */
int tw_bpf_map_read_batch(int map, void *cursor, bool first, uint64_t flags, void *keys,
                          void *values, uint32_t *count);
int tw_bpf_map_write_batch(int map, const void *keys, const void *values, uint32_t *count);
int tw_bpf_map_delete_batch(int map, const void *keys, uint32_t *count);
/* Values of an array made with TW_BPF_MMAPABLE, each rounded up to 8 bytes; NULL on failure. */
void *tw_bpf_map_mmap(int map, size_t size, bool writable);
void tw_bpf_map_munmap(void *memory, size_t size);
/* Adds to an integer of 1, 2, 4 or 8 bytes there, as programs do. */
void tw_bpf_atomic_add(void *value, uint32_t size, int64_t n);

/* ---- ring buffers: one reader per ring ---- */
struct tw_bpf_ringbuf; /* opaque */
struct tw_bpf_ringbuf *tw_bpf_ringbuf_new(int map);
/* The next record and its length, NULL when there is none. Gives the record before it back to the
 * kernel: what the pointer shows is good until the next call. */
const void *tw_bpf_ringbuf_next(struct tw_bpf_ringbuf *ring, uint32_t *length);
/* Waits for a record; 1 there is one, 0 time is up. Negative ms: for ever. */
int tw_bpf_ringbuf_poll(struct tw_bpf_ringbuf *ring, int ms);
void tw_bpf_ringbuf_free(struct tw_bpf_ringbuf *ring);

/* ---- frames out of an interface ---- */
/* A packet socket that only sends; direct: past the qdisc and programs on egress. */
int tw_inject_open(bool direct);
int tw_inject(int socket, int ifindex, const void *frame, uint32_t len);

/* ---- programs ---- */

enum tw_bpf_program_type {
	TW_BPF_SOCKET_FILTER = 1,
	TW_BPF_SCHED_CLS = 3,
	TW_BPF_XDP = 6,
	TW_BPF_CGROUP_SKB = 8,
	TW_BPF_LWT_IN = 10,
	TW_BPF_LWT_OUT = 11,
	TW_BPF_LWT_XMIT = 12,
	TW_BPF_SOCK_OPS = 13,
	TW_BPF_SK_SKB = 14,
	TW_BPF_SK_MSG = 16,
	TW_BPF_SK_REUSEPORT = 21,
	TW_BPF_FLOW_DISSECTOR = 22,
	TW_BPF_SK_LOOKUP = 30,
};

enum tw_bpf_attach_type {
	TW_BPF_AT_CGROUP_INGRESS = 0,
	TW_BPF_AT_CGROUP_EGRESS = 1,
	TW_BPF_AT_STREAM_PARSER = 4,
	TW_BPF_AT_STREAM_VERDICT = 5,
	TW_BPF_AT_SK_MSG_VERDICT = 7,
	TW_BPF_AT_XDP_DEVMAP = 33,
	TW_BPF_AT_XDP_CPUMAP = 35,
	TW_BPF_AT_SK_LOOKUP = 36,
	TW_BPF_AT_XDP = 37,
	TW_BPF_AT_SK_SKB_VERDICT = 38,
	TW_BPF_AT_REUSEPORT_SELECT = 39,
	TW_BPF_AT_REUSEPORT_MIGRATE = 40,
};

struct tw_bpf_program_spec {
	const char *name, *license;
	const void *insns;
	uint32_t count;
	uint32_t type, attach_type, flags, ifindex;
	int32_t btf;
	const void *functions, *lines; /* struct bpf_func_info, bpf_line_info */
	uint32_t functions_count, lines_count;
	char *log; /* with log_level above 0 */
	uint32_t log_size, log_level;
};

struct tw_bpf_program_info {
	char name[TW_BPF_NAME_LEN];
	uint8_t tag[8];
	uint32_t type, id, btf_id;
	uint32_t xlated_size, jited_size; /* bytes */
	uint32_t verified_insns;          /* 0 before kernel 5.16 */
	uint32_t maps;
	uint64_t run_ns, run_count; /* with kernel.bpf_stats_enabled */
	uint32_t map_ids[64];
};

/* BTF as bytes; the log is filled when the kernel refuses it and log_size > 0. */
int tw_bpf_btf_load(const void *data, uint32_t size, char *log, uint32_t log_size);
const char *tw_bpf_helper_name(uint32_t id); /* without "bpf_"; NULL: not known here */
/* The bytes of BTF that the kernel has under an id: their number, which may be more than room. */
int tw_bpf_btf_read(uint32_t id, void *data, uint32_t room);
/* -ENOSPC: the log did not fit. */
int tw_bpf_program_load(const struct tw_bpf_program_spec *spec);
int tw_bpf_program_by_id(uint32_t id);
int tw_bpf_program_get_info(int program, struct tw_bpf_program_info *info);

struct tw_bpf_run {
	const void *data_in, *ctx_in;
	void *data_out, *ctx_out;
	uint32_t data_in_size, ctx_in_size;
	uint32_t data_out_size, ctx_out_size; /* in: room; out: bytes written */
	uint32_t repeat_count, flags;
	uint32_t retval, duration; /* out; ns, the mean of all repetitions */
};
int tw_bpf_program_run(int program, struct tw_bpf_run *run); /* BPF_PROG_TEST_RUN */

/* ---- attaching ---- */

enum tw_bpf_xdp_mode { TW_BPF_XDP_GENERIC = 2, TW_BPF_XDP_NATIVE = 4, TW_BPF_XDP_OFFLOAD = 8 };

/* What runs on an interface now: program ids, 0 none. */
struct tw_bpf_xdp_state {
	uint32_t generic, native, offload;
};
int tw_bpf_xdp_query(int ifindex, struct tw_bpf_xdp_state *state);

struct tw_bpf_link_info {
	uint32_t type, id, program;
	uint32_t ifindex;     /* xdp, tcx */
	uint32_t attach_type; /* cgroup, netns, tcx */
	uint64_t cgroup;      /* cgroup: its id */
};

/* target: an interface (xdp) or a descriptor (cgroup, network namespace). */
int tw_bpf_link_create(int program, int target, uint32_t attach_type, uint32_t flags);
/* Puts another program in place of the link's own, at once for every packet. */
int tw_bpf_link_update(int link, int program);
int tw_bpf_link_get_info(int link, struct tw_bpf_link_info *info);
int tw_bpf_link_detach(int link);
int tw_bpf_link_by_id(uint32_t id);
int tw_bpf_link_next_id(uint32_t id); /* the id after this one, 0: none */

/* TC: filters of the clsact qdisc. The kernel keeps a filter until it is removed, also when its
 * process has gone. */
int tw_bpf_tc_clsact_add(int ifindex); /* 1 it was added, 0 it was there already */
int tw_bpf_tc_clsact_del(int ifindex); /* with all filters in it */
/* Without replace: -EEXIST when there is a filter of this handle and priority. */
int tw_bpf_tc_attach(int ifindex, bool egress, int program, uint32_t handle, uint32_t priority,
                     bool replace);
int tw_bpf_tc_detach(int ifindex, bool egress, uint32_t handle, uint32_t priority);

struct tw_bpf_tc_filter {
	uint32_t handle, priority;
	uint32_t program; /* id, 0: not a BPF filter */
	char kind[16];
	char name[64];
};
/* Everybody's filters; their number, which may be more than room. */
int tw_bpf_tc_filters(int ifindex, bool egress, struct tw_bpf_tc_filter *list, uint32_t room);

/* A name in this network namespace that ends with the process: a descriptor that holds it, or
 * -EADDRINUSE when somebody alive has it. */
int tw_bpf_claim(const char *name);

/* Sockets: a filter of one, or the program that picks a socket of its reuseport group. */
int tw_bpf_socket_attach(int socket, int program, bool reuseport);
int tw_bpf_socket_detach(int socket, bool reuseport);
int tw_bpf_socket_taken(int socket); /* 1: it has a filter, 0: none */

/* Hooks of socket maps, which take a program without a link. */
int tw_bpf_target_attach(int program, int target, uint32_t attach_type);
int tw_bpf_target_detach(int program, int target, uint32_t attach_type);
/* 1 and the program's id, 0 none; -EINVAL: this kernel does not tell (before 5.18). */
int tw_bpf_target_query(int target, uint32_t attach_type, uint32_t *program);

/* Routes that run a program (lightweight tunnels). They outlive the process. */
enum tw_bpf_route_hook { TW_BPF_ROUTE_IN = 1, TW_BPF_ROUTE_OUT = 2, TW_BPF_ROUTE_XMIT = 3 };

struct tw_bpf_route {
	uint32_t family, length;              /* 4 or 6; bits of the prefix */
	uint8_t destination[16], gateway[16]; /* network order */
	uint32_t has_gateway, ifindex, table, metric;
	uint32_t hook, headroom; /* enum tw_bpf_route_hook; xmit: bytes to add in front */
	char name[TW_NAME_LEN];  /* of the program, as ip route shows it */
};
/* Without replace: -EEXIST when there is such a route. */
int tw_bpf_route_attach(const struct tw_bpf_route *route, int program, bool replace);
int tw_bpf_route_detach(const struct tw_bpf_route *route);

/* A file opened for its descriptor: a cgroup's directory, a network namespace. */
int tw_bpf_open_path(const char *path);

/* ---- bpffs: names that keep an object while nobody has it open ---- */
int tw_bpf_mount(const char *path); /* bpffs there; 1 it was mounted, 0 it was there already */
int tw_bpf_pin(int object, const char *path); /* makes the directories */
int tw_bpf_unpin(const char *path);           /* and the empty directories above it, up to bpffs */
int tw_bpf_open(const char *path);            /* -ENOENT leaves no sentence */

/* ---- objects of other compilers (ELF files, by libbpf) ---- */
struct tw_bpf_object; /* opaque */

struct tw_bpf_object_map {
	char name[64];
	char section[64]; /* internal: ".rodata", ".data", ".bss", ".data.more" */
	uint32_t kind, key_size, value_size, entries;
	uint32_t key_type, value_type; /* in the object's BTF, 0: none */
	int32_t fd;                    /* the object's own, after loading */
	uint32_t internal;             /* holds variables */
	uint32_t data_size;
	void *data; /* initial values of variables, to be changed before loading */
};

struct tw_bpf_object_program {
	char name[64], section[64];
	uint32_t type, attach_type, count;
	int32_t fd; /* the object's own, after loading */
};

struct tw_bpf_object *tw_bpf_object_open(const char *path);
void tw_bpf_object_close(struct tw_bpf_object *o);
const void *tw_bpf_object_btf(const struct tw_bpf_object *o, uint32_t *size); /* NULL: none */
/* 1, or 0 behind the last. */
int tw_bpf_object_map(const struct tw_bpf_object *o, uint32_t index,
                      struct tw_bpf_object_map *info);
int tw_bpf_object_program(const struct tw_bpf_object *o, uint32_t index,
                          struct tw_bpf_object_program *info);
int tw_bpf_object_set_type(struct tw_bpf_object *o, uint32_t program, uint32_t type,
                           uint32_t attach_type);
int tw_bpf_object_skip(struct tw_bpf_object *o, uint32_t program); /* do not load it */
int tw_bpf_object_reuse(struct tw_bpf_object *o, uint32_t map, int fd);
int tw_bpf_object_resize(struct tw_bpf_object *o, uint32_t map, uint32_t entries);
int tw_bpf_object_load(struct tw_bpf_object *o);
const char *tw_bpf_object_log(const struct tw_bpf_object *o); /* the verifier's, after a failure */
int tw_bpf_dup(int fd); /* a second descriptor of the same object */

/* ---- ELF files ---- */
struct tw_elf_section {
	uint32_t name; /* offset in the section of names */
	uint32_t type, link, info, align, entry_size;
	uint64_t flags;
	const void *data;
	uint64_t size;
};
/* A relocatable object for eBPF; sections[0] becomes section 1, as 0 is none; `names` is the index
 * of the section that holds the names. */
int tw_elf_write(const char *path, const struct tw_elf_section *sections, uint32_t count,
                 uint32_t names);
