/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi.h - the one boundary between C and Lua: every struct, enum and function that Lua may see.
 *
 * The build preprocesses this file (with TW_CDEF defined, so no #include and no attribute
 * survives) and embeds the text as the FFI cdef of every Lua VM; sizes and offsets are asserted
 * on both sides. No DPDK, libbpf or Lua type may appear here.
 *
 * Conventions: functions return 0 or a negative errno (or NULL) and leave a sentence in
 * tw_error(): what, which value, why, what to do. Sizes are bytes, times are nanoseconds of
 * the monotonic clock unless a name says otherwise.
 */
#pragma once

#ifndef TW_CDEF
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#define TW_ALIGNED(n) __attribute__((aligned(n)))
#endif

/* ABI version: bump with every incompatible change; the Lua half refuses another one. */
enum { TW_ABI_VERSION = 1 };

enum tw_limit {
	TW_BURST_MAX = 64,     /* packets per burst */
	TW_PORTS_MAX = 64,     /* ports per instance */
	TW_CHAINS_MAX = 32,    /* chains per instance */
	TW_STAGES_MAX = 24,    /* NFs per chain; stage TW_STAGE_ENGINE is the engine itself */
	TW_STAGE_ENGINE = 23,  /* accounting slot for drops decided by the engine (tx full, ...) */
	TW_REASONS_MAX = 192,  /* distinct drop reasons per instance */
	TW_LCORES_MAX = 64,    /* lcore threads per instance */
	TW_RINGS_MAX = 32,     /* rings between chains per instance */
	TW_NAME_LEN = 48,      /* names, NUL included */
	TW_PORT_NONE = 0xffff, /* "no port" in tw_pkt.out */
	TW_WHERE_LEN = 96,     /* a place in a source, file:line, NUL included */
	TW_SIZE_BUCKETS = 7,   /* burst sizes: 1, 2, 4, ... TW_BURST_MAX */
	TW_TIME_BUCKETS = 32,  /* times: 1 ns, 2 ns, 4 ns, ... and all above */
	TW_TABLES_SHOWN = 64,  /* tables whose figures are in the counters */
};

/* What happens to a packet. tw_pkt.verdict = kind | argument << 8. */
enum tw_verdict {
	TW_NEXT = 0,  /* no verdict yet: the next NF */
	TW_DROP = 1,  /* argument: reason id (tw_reason_id) */
	TW_PORT = 2,  /* argument: port index */
	TW_FLOOD = 3, /* one copy to every port of the chain but the ingress port */
	TW_PASS = 4,  /* to the kernel stack (the port's exception path) */
	TW_PUNT = 5,  /* to punt() of the NF at tw_pkt.stage, after the burst, same lcore */
	TW_HOLD = 6,  /* argument: hold queue slot; kept by C until released or timed out */
	TW_SINK = 7,  /* end of the chain: to tw_pkt.out if set, else the chain's sink */
};

/* One packet of a burst as Lua sees it. Filled by C, verdict read back by C. */
struct tw_pkt {
	uint8_t *data;   /* first byte of the frame; moves with tw_pkt_adjust_head() */
	int32_t verdict; /* enum tw_verdict | argument << 8 */
	uint16_t out;    /* index of the egress port chosen so far, or TW_PORT_NONE */
	uint16_t port;   /* index of the ingress port */
	int32_t len;     /* frame length in bytes, all of it linear at data */
	uint32_t hash;   /* RSS hash of the device, 0 when it has none */
	uint32_t mark;   /* user metadata carried along the chain, 0 at ingress */
	uint16_t stage;  /* index in the chain of the NF that gave the verdict */
	uint16_t resume; /* stage to resume at (punt, release of a held packet) */
	void *mbuf;      /* owned by C; opaque to Lua; NULL: see room */
	uint64_t key;    /* hold key (TW_HOLD) */
	/* without an mbuf (a copy of a packet of a hook): the buffer around the frame */
	uint8_t *room, *room_end;
};

/* What machine code of a chain knows of an mbuf: offsets of fields of struct rte_mbuf, and
 * tw_pkt.resume of a packet it left alone because it lies in several segments. */
enum tw_mbuf {
	TW_MBUF_BUF_ADDR = 0,
	TW_MBUF_DATA_OFF = 16,
	TW_MBUF_PKT_LEN = 36,
	TW_MBUF_DATA_LEN = 40,
	TW_RESUME_SCATTERED = 0xffff,
	TW_MBUFS_AHEAD = 4, /* entries behind the last mbuf that can be read: others of the burst */
};

/* The burst a VM works on; one per lcore VM, its address is given to Lua at build time. */
struct tw_burst {
	uint64_t now;   /* monotonic ns, taken once per burst */
	int32_t count;  /* packets in pkts[] */
	uint32_t stage; /* NF being run: written by the chain before each NF, read by the fence */
	int32_t odd; /* set by Lua: not every verdict is TW_SINK; C clears it before each entry */
	uint16_t chain; /* index of the chain being run */
	uint16_t lcore; /* slot of the lcore */
	/* of machine code that runs on mbufs (tw_native_mbufs_fn) */
	uint64_t bytes; /* of all packets */
	uint16_t turn;  /* pkts[].port of those that are done: no port's index */
	struct tw_pkt pkts[TW_BURST_MAX];
};

/* ---- counters: shared memory, one writer per word, read by `top` without a protocol ---- */

/* per lcore and port */
struct tw_port_stats {
	uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
	uint64_t tx_full; /* packets the device did not take; also a drop of the sending chain */
};

/* per lcore and chain */
struct tw_chain_stats {
	uint64_t rx; /* packets received from ports and rings */
	uint64_t rx_bytes;
	uint64_t originated; /* packets made by NFs (ARP requests, ICMP errors, flood copies) */
	uint64_t sent;       /* packets handed to a port or ring */
	uint64_t sent_bytes;
	uint64_t passed;  /* of those sent: left to the kernel by a program on a hook */
	uint64_t dropped; /* sum of drops[][] of this lcore and chain */
	uint64_t held;    /* in flight now: packets in hold queues */
	uint64_t bursts;  /* entries into the chain with at least one packet */
	uint64_t cycles;  /* TSC cycles spent in the chain, rx and tx excluded */
	uint64_t punted;
	uint64_t faults; /* NF faults (raise, stall, memory) */
};

/* per lcore and chain: the bursts that are timed, one in TW_SAMPLE. Bucket i counts those of at
 * most 2^i packets, or nanoseconds, that do not fit bucket i - 1. */
enum { TW_SAMPLE = 16 };
struct tw_chain_sample {
	uint64_t packets; /* in these bursts */
	uint64_t size[TW_SIZE_BUCKETS];
	uint64_t ns[TW_TIME_BUCKETS]; /* from entry to verdicts; none of chains without NFs */
};

/* What LuaJIT does on an lcore, from struct tw_jit at every tick. */
struct tw_jit_stats {
	uint32_t made;        /* traces, since the VM was built */
	uint32_t live;        /* traces that are there now */
	uint32_t aborts;      /* recordings that failed */
	uint32_t flushes;     /* times LuaJIT threw all traces away by itself */
	uint32_t settled;     /* times that was done on purpose, to record from steady traffic */
	uint32_t interpreted; /* functions that LuaJIT has given up compiling */
	uint64_t mcode;       /* bytes of machine code of the traces */
	uint64_t heap, heap_limit; /* bytes of the Lua heap */
	char last_abort[TW_WHERE_LEN];
	char interpreted_at[TW_WHERE_LEN]; /* the first of those functions */
};

struct tw_lcore_stats {
	uint64_t heartbeat;   /* loop iterations */
	uint64_t idle_loops;  /* iterations that found no packet */
	uint64_t busy_cycles; /* TSC cycles in iterations that moved packets */
	uint64_t idle_cycles; /* TSC cycles in the others, sleep included */
	uint64_t generation;  /* plan generation that runs */
	int32_t cpu;          /* CPU the thread is pinned to, -1: slot unused */
	uint32_t vm_rebuilds;
	struct tw_port_stats port[TW_PORTS_MAX];
	struct tw_chain_stats chain[TW_CHAINS_MAX];
	struct tw_chain_sample sample[TW_CHAINS_MAX];
	struct tw_jit_stats jit;
	uint64_t sent_to[TW_CHAINS_MAX][TW_PORTS_MAX]; /* packets by egress port */
	/* packets entering each NF, and its drops by reason */
	uint64_t stage_in[TW_CHAINS_MAX][TW_STAGES_MAX];
	uint64_t drops[TW_CHAINS_MAX][TW_STAGES_MAX][TW_REASONS_MAX];
};

/* written by the control thread when a port starts */
struct tw_port_info {
	char name[TW_NAME_LEN];   /* name in the script, e.g. "lan" */
	char device[TW_NAME_LEN]; /* DPDK device name */
	char driver[TW_NAME_LEN];
	char mode[TW_NAME_LEN];     /* what was really got: "native XDP, zero-copy", ... */
	char offloads[TW_NAME_LEN]; /* those in use: "rss", "fast-free"; empty: none */
	uint8_t mac[6];
	uint16_t rx_queues, tx_queues, mtu;
	uint32_t speed; /* Mbit/s, 0 unknown */
	/* device counters, refreshed by the control thread */
	uint64_t imissed, ierrors, rx_nombuf, oerrors;
};

/* What an NF runs as on lcores. */
enum tw_tier {
	TW_TIER_LUA,    /* its Lua functions, which LuaJIT compiles as it likes */
	TW_TIER_LUAJIT, /* compiled to Lua for LuaJIT, together with its neighbours */
	TW_TIER_NATIVE, /* compiled to C, and that to machine code */
};

struct tw_chain_info {
	char name[TW_NAME_LEN];
	char place[TW_NAME_LEN]; /* "lcore 1", "xdp on eth0 (native)", ... */
	uint32_t stages;
	/* NF names in order, made unique ("nat", "nat#2") */
	char stage[TW_STAGES_MAX][TW_NAME_LEN];
	/* 1: this NF was taken out by the fence */
	uint8_t quarantined[TW_STAGES_MAX];
	uint8_t tier;             /* enum tw_tier: the lowest of its NFs */
	uint8_t hook;             /* 1: runs in the kernel, on a hook; its packets are no port's */
	uint16_t sink_kind, sink; /* enum tw_endpoint, index */
	uint32_t source_rings;    /* bit per ring index */
	uint64_t source_ports;    /* bit per port index */
};

struct tw_ring_info {
	char name[TW_NAME_LEN];
	uint32_t size, used; /* entries; used is refreshed by the control thread */
};

/* A table's figures, refreshed by the control thread; what they mean: struct tw_table_info. */
struct tw_table_stats {
	char name[TW_NAME_LEN];
	char kind[16]; /* "hash", "lru", ... */
	uint64_t count, capacity, full, evictions, expired, bytes;
};

/* the mapped file: <run dir>/stats */
struct tw_stats {
	char magic[8]; /* "tideway" */
	uint32_t abi;
	int32_t pid;
	uint64_t tsc_hz;
	uint64_t start_ns;   /* CLOCK_REALTIME at start */
	uint64_t generation; /* plan published last */
	uint32_t ports, chains, rings, lcores, reasons, running;
	char instance[TW_NAME_LEN];
	char script[256];
	char reason[TW_REASONS_MAX][TW_NAME_LEN];
	struct tw_port_info port[TW_PORTS_MAX];
	struct tw_chain_info chain[TW_CHAINS_MAX];
	struct tw_ring_info ring[TW_RINGS_MAX];
	uint64_t log_lines[8], log_held; /* messages of the log by syslog level; held back */
	uint32_t tables, tables_hidden;  /* in table[]; and those there was no room for */
	struct tw_table_stats table[TW_TABLES_SHOWN];
	struct tw_lcore_stats lcore[TW_LCORES_MAX];
};

/* ---- general ---- */
const char *tw_error(void);         /* last error of this thread, one sentence, never NULL */
uint64_t tw_now(void);              /* CLOCK_MONOTONIC, ns */
void tw_clock_advance(uint64_t ns); /* moves the engine's clock ahead; specs of timeouts */
uint64_t tw_tsc(void);
uint32_t tw_random(void); /* as bpf_get_prandom_u32: fast, not for secrets */
uint64_t tw_tsc_hz(void);
int tw_reason_id(const char *name); /* finds or registers a drop reason; -ENOSPC when full */
struct tw_stats *tw_stats(void);    /* this instance's counters */

/* ---- packets ---- */
int tw_pkt_adjust_head(struct tw_pkt *pkt, int delta); /* delta < 0 grows; as bpf_xdp_adjust_head */
int tw_pkt_adjust_tail(struct tw_pkt *pkt, int delta); /* delta > 0 grows; as bpf_xdp_adjust_tail */

/* One's complement sum of bytes, folded to 16 bits, words as they lie in memory (rte_raw_cksum). */
uint16_t tw_raw_sum(const void *data, uint32_t len);

/* Slow path only (punt, tick): a new zeroed frame that leaves by a port; NULL when the pool is
 * empty or len does not fit a buffer. The frame is sent after the current call returns. */
struct tw_pkt *tw_emit(uint16_t port, uint32_t len);

/* Hold queues: packets waiting for an event (address resolution). C owns them. */
int tw_hold_new(uint32_t slots, uint32_t per_key, uint64_t timeout); /* queue id or -errno */
int tw_hold_release(int queue, uint64_t key); /* number of packets re-injected at their NF */
void tw_hold_free(int queue);

/* ---- engine: control thread only ---- */
enum tw_idle { TW_IDLE_SPIN, TW_IDLE_PAUSE, TW_IDLE_SLEEP, TW_IDLE_INTERRUPT };

/* Set before the first port is opened or, where noted, before start. */
struct tw_options {
	uint32_t burst;            /* packets per rx burst, 1..TW_BURST_MAX (before start) */
	uint32_t idle;             /* enum tw_idle (before start) */
	uint32_t memory_mb;        /* memory for --no-huge mode and upper bound otherwise */
	uint32_t mbufs;            /* buffers per NUMA node; 0: as many as the queues need */
	uint32_t mbuf_size;        /* data room of a buffer, bytes */
	uint32_t rx_desc, tx_desc; /* descriptors per queue; 0: the device's own default */
	/* times a full tx queue is tried again before dropping (before start) */
	uint32_t tx_retries;
	uint32_t stall_ms;     /* CPU time an NF may take for one burst before the fence acts */
	uint32_t probation_ms; /* the same for an NF that comes nowhere while an older plan is kept
	                        */
	uint32_t vm_memory_mb; /* Lua heap limit of an lcore VM */
	uint32_t tick_ms;      /* interval of tick() */
	bool no_huge;          /* do not use hugepages */
	bool verbose;          /* pass on EAL, libbpf and driver messages */
};
struct tw_options *tw_options(void);

/* What EAL got. */
struct tw_eal_info {
	bool started, hugepages;
	uint32_t memory_mb, free_huge_mb;
	char note[160]; /* one line for the user */
};
int tw_eal_ensure(void);
const struct tw_eal_info *tw_eal_info(void);
const char *tw_dpdk_version(void);

struct tw_port_caps {
	uint16_t max_rx_queues, max_tx_queues, max_mtu, socket;
	bool rx_interrupt, rss, wire;
};
/* Opens as the port of this index, which the caller chose. */
int tw_port_open(int index, const char *name, const char *devargs);
int tw_port_caps(int port, struct tw_port_caps *caps);
/* Before the first port starts: counts in the buffers that this port's queues can hold. */
int tw_port_reserve(int port, uint16_t rx_queues, uint16_t tx_queues);
int tw_port_start(int port, uint16_t rx_queues, uint16_t tx_queues);
/* -EBUSY while a plan has it, also the one that is kept on probation. */
int tw_port_close(int port);
void tw_ports_refresh(void); /* copies device counters to tw_stats */

/* A "wire" port is an ethdev over two rings whose far end is the caller: tests, the REPL. */
int tw_wire_inject(int port, const void *frame, uint32_t len);
int tw_wire_collect(int port, void *frame, uint32_t size); /* length, 0 when none */

int tw_ring_open(const char *name, uint32_t size); /* ring index or -errno */
int tw_ring_close(int ring); /* as tw_port_close(); what is in it is dropped */

int tw_engine_stop(void);    /* stops lcores, drains rings, closes nothing else */
void tw_engine_close(void);  /* closes ports, rings, tables; counters go on */
int tw_lcore_step(int slot); /* one loop iteration; packets moved or -errno */

int tw_stats_open(const char *dir, const char *instance, const char *script);
void tw_stats_close(void);

/* Signals arrive as flags polled by the control thread. */
int tw_signal_pending(void);  /* 0, or the signal number that asked for a stop */
int tw_sleep_ms(uint32_t ms); /* returns early, with 1, when a signal came */
/* The same for at most 64 descriptors: 2 when one can be read. */
int tw_wait(const int *fds, uint32_t count, uint32_t ms);
/* Next message of the lcores for the user's log (faults, quarantines); 0 when none. */
int tw_log_next(char *line, size_t size);

/* ---- lcore VM: written by lua/tideway/lcore.lua, read by the fence and by `top` ---- */
enum { TW_TRACES_MAX = 2048, TW_ABORTS_MAX = 32, TW_INTERPRETED_MAX = 16 };

/* Machine code of one LuaJIT trace and where in the source it starts. */
struct tw_trace {
	uint64_t start, end;
	char where[TW_WHERE_LEN]; /* file:line */
};

/* A recording that failed. */
struct tw_abort {
	uint64_t at; /* ns */
	char where[TW_WHERE_LEN];
	char why[TW_WHERE_LEN];
};

struct tw_jit {
	uint32_t traces;  /* made since the VM was built */
	uint32_t aborts;  /* recordings that failed */
	uint32_t flushes; /* times LuaJIT threw all traces away */
	uint32_t settled; /* times they were thrown away on purpose, to be recorded from steady
	                     traffic */
	uint32_t warned;
	uint32_t interpreted;  /* functions that LuaJIT has given up compiling */
	uint32_t live;         /* traces that are there now: [1..TW_TRACES_MAX) with a start */
	uint32_t rewarm_asked; /* written by the control thread: forget all that, try again */
	uint32_t rewarmed;     /* times that was done */
	uint64_t mcode;        /* bytes of machine code of the traces */
	char last_abort[TW_WHERE_LEN]; /* where the last one failed */
	char interpreted_at[TW_INTERPRETED_MAX][TW_WHERE_LEN];
	struct tw_abort abort[TW_ABORTS_MAX]; /* the last ones, in turn: number n is at n % MAX */
	struct tw_trace trace[TW_TRACES_MAX];
};
const struct tw_jit *tw_lcore_jit(int slot); /* NULL when the lcore has no VM */
size_t tw_lcore_heap(int slot);              /* bytes of its Lua heap */
/* Lets its VM throw its traces away, take back what it gave up and record anew, at its next tick.
 */
int tw_lcore_rewarm(int slot);
/* While it is on, lcores without packets look for them some hundred times a second only, whatever
 * the options say: something else is measured on their CPUs. */
void tw_lcores_rest(bool on);

#include "abi_table.h"
#include "abi_acl.h"
#include "abi_bpf.h"
#include "abi_native.h"
#include "abi_watch.h"
#include "abi_plan.h"
#include "abi_control.h"
#include "abi_privilege.h"
#include "abi_pcap.h"
#include "abi_probe.h"
#include "abi_source.h"
#include "abi_msg.h"
#include "abi_gate.h"
#include "abi_http.h"
#include "abi_fabric.h"
#include "abi_inline.h"
#include "abi_upstream.h"
#include "abi_worker.h"
#include "abi_proxy.h"
#include "abi_store.h"
