/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_watch.h - the part of the boundary for packets that are copied out at edges of chains
 * (trace, capture); same conventions as abi.h, which includes it. Control thread only, where not
 * said otherwise.
 *
 * A watch is a filter at edges of chains on lcores. An lcore copies packets that match into a ring
 * of its own per watch, which the control thread drains; a full ring loses records, which are
 * counted, and never holds the lcore up. Chains on hooks give the same records.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

/* Places in a chain where a packet can be seen; a watch has a set of them. */
enum tw_edge {
	TW_EDGE_IN = 1,   /* received, no NF has seen it */
	TW_EDGE_NF = 2,   /* behind the NF of tw_watch_record.stage */
	TW_EDGE_OUT = 4,  /* handed to a port, a ring or the kernel */
	TW_EDGE_DROP = 8, /* dropped by the NF of tw_watch_record.stage, or the engine */
	TW_EDGE_HELD = 16 /* in a hold queue, end of what is followed */
};

enum tw_watch_flags {
	TW_WATCH_RING = 1,      /* tw_watch_record.out is a ring, not a port */
	TW_WATCH_MADE = 2,      /* the frame was made by an NF or is a flooded copy */
	TW_WATCH_PUNT = 4,      /* TW_EDGE_NF: behind the punt() of this NF */
	TW_WATCH_INCOMPLETE = 8 /* not all steps of the packet are there */
};

/* One packet at one edge; caplen bytes of the frame follow. */
struct tw_watch_record {
	uint32_t size;   /* bytes to the next record, a multiple of 8 */
	uint32_t caplen; /* bytes of the frame that are here */
	uint32_t len;    /* bytes of the frame */
	uint32_t packet; /* followed packets: all records of one have the same number */
	uint64_t time;   /* ns, as tw_now() */
	int32_t verdict; /* enum tw_verdict | argument << 8, so far; TW_DROP: the reason */
	uint32_t spent;  /* TW_EDGE_NF of followed packets: ns in the NF, the recording excluded */
	uint32_t mark;   /* tw_pkt.mark */
	uint16_t chain;  /* index of the chain */
	uint16_t port;   /* index of the ingress port, TW_PORT_NONE: none or not known */
	uint16_t out;    /* TW_EDGE_OUT: where it went; else tw_pkt.out so far */
	uint8_t edge;    /* enum tw_edge, one of them */
	uint8_t stage;   /* NF, TW_STAGE_ENGINE: none or the engine itself */
	uint8_t flags;   /* enum tw_watch_flags */
	uint8_t slot;    /* of the lcore; hooks: the CPU */
	uint16_t reserved;
};

/* What is watched, and how much of it. */
struct tw_watch_spec {
	uint32_t chains;     /* bit per index of a chain */
	uint32_t edges;      /* set of enum tw_edge */
	uint32_t stages;     /* TW_EDGE_NF: bit per stage */
	int32_t reason;      /* TW_EDGE_DROP: id of the reason, -1: any */
	uint16_t in_port;    /* only packets received from this port; TW_PORT_NONE: any */
	uint16_t out_port;   /* TW_EDGE_OUT: only those that leave by this port */
	uint32_t snaplen;    /* bytes of a frame that are copied */
	uint32_t sample;     /* one in so many of those that match */
	uint32_t ring_bytes; /* of each lcore's ring; a power of two */
	uint64_t limit;      /* records (followed: packets) over all lcores; 0: none */
	uint64_t until;      /* ns as tw_now(): none from then on; 0: for ever */
	uint8_t headers;     /* 1: frames are cut behind their layer 4 header, for the filter too */
	/* 1: packets that match as they come in are followed through every NF. Their bursts run the
	 * NFs' own functions one by one instead of compiled code. With a reason: those only whose
	 * end is a drop for it. */
	uint8_t follow;
};

/* What a watch did, on one lcore or all. */
struct tw_watch_counts {
	uint64_t looked;         /* packets the filter was tried on */
	uint64_t matched;        /* of those: before sampling and limit */
	uint64_t records;        /* written; of followed packets all steps */
	uint64_t packets;        /* written, what the limit counts */
	uint64_t missed;         /* not written because the ring was full */
	uint64_t cycles;         /* TSC cycles in filters and copies */
	uint64_t stepped;        /* packets that ran NF by NF */
	uint64_t stepped_cycles; /* TSC cycles of those bursts, the recording excluded */
	uint64_t chain_packets;  /* packets received by the watched chains meanwhile */
};

struct tw_watch;

/* A filter in pcap-filter language; an empty text matches all. NULL: tw_error(). */
struct tw_watch *tw_watch_new(const struct tw_watch_spec *spec, const char *filter);
/* Lcores see it from their next burst on. */
int tw_watch_start(struct tw_watch *watch);
/* Gives new lcores a ring. To be called now and then. */
void tw_watch_refresh(struct tw_watch *watch);
/* The next record in order of time among those before `until` (ns as tw_now(); UINT64_MAX: all),
 * NULL: none. It is valid until the next call. */
const struct tw_watch_record *tw_watch_next(struct tw_watch *watch, uint64_t until);
/* slot -1: the sum. */
void tw_watch_counts(const struct tw_watch *watch, int slot, struct tw_watch_counts *counts);
/* Lcores see it no more; what is in the rings can still be read. Never waits. */
void tw_watch_stop(struct tw_watch *watch);
/* Frees it when no lcore can use it any more; at the latest when the engine stops. */
void tw_watch_free(struct tw_watch *watch);

/* Does a filter match a frame? 1, 0, or -EINVAL: tw_error(). */
int tw_filter_match(const char *filter, const uint8_t *frame, uint32_t caplen, uint32_t len);
/* Bytes up to the end of the layer 4 header, of tunnels the outer one; at most len. Any thread. */
uint32_t tw_header_length(const uint8_t *frame, uint32_t len);

/* One instruction of classic BPF. */
struct tw_filter_insn {
	uint16_t code;
	uint8_t jt, jf;
	uint32_t k;
};

/* A filter in classic BPF, for packets that begin with an Ethernet header, or with an IP header.
 * Instructions, 0: it matches all; -errno: tw_error(). */
int tw_filter_code(const char *filter, bool ip, struct tw_filter_insn *code, uint32_t room);
/* Does a frame of which caplen of len bytes are here match? */
bool tw_filter_run(const struct tw_filter_insn *code, const uint8_t *frame, uint32_t caplen,
                   uint32_t len);

/* Called by tideway.lcore_trace in an lcore's VM. Which steps of the burst in hand are recorded: a
 * bit per stage, all of them when packets are followed; 0: it does not run step by step. */
uint32_t tw_watch_stepping(void);
void tw_watch_mark(void);      /* an NF begins */
void tw_watch_calibrate(void); /* it has ended, and had nothing to do */
void tw_watch_step(struct tw_pkt *pkt, uint32_t stage, uint32_t flags); /* it has ended */
