/* SPDX-License-Identifier: BSD-3-Clause */
/* routes.h - what stands behind the exits of a function, and who its instances are: written by the
 * control thread, read by whoever sends, which is a program of the kernel (bpf/redirect.bpf.c) or
 * another process (rings_link.c). It may be read while it is written: every byte of it makes sense
 * alone and is checked against the others. */
#pragma once
#include "abi.h"

enum {
	ROUTES_GATE = TW_STAGES_MAX, /* in place of a function: the gate threads */
	ROUTES_FUNCTIONS = TW_STAGES_MAX + 1,
	ROUTES_SLOTS = 64, /* messages with a key: slot of the key, instance of the slot */
	ROUTES_SHARE = 8, /* of one send without keys, what one of several instances gets at once */
};

/* Messages, responses, pieces to and from the upstream take different ways from the same exit. */
enum routes_lane { LANE_MESSAGE, LANE_RESPONSE, LANE_DATA, LANE_DATA_BACK, LANES };

/* struct tw_desc on its way: exit | lane << 8 when it is sent, exit | sender << 8 when received. A
 * gate thread says in .gate where it is to go: to a function, or to this very member. */
enum { ROUTES_LANE_SHIFT = 8, ROUTES_DIRECT = 0x8000 };

struct routes_function {
	uint32_t allow; /* bit per function, ROUTES_GATE: to which it may send at all */
	uint8_t keyed;  /* the same key, the same instance */
	uint8_t n;      /* open instances */
	uint8_t spare[2];
	uint8_t instance[TW_INSTANCES_MAX];
	uint8_t slot[ROUTES_SLOTS];
	uint8_t exit[LANES][TW_EXITS_MAX]; /* function + 1; 0: there is nothing */
};

enum routes_state { MEMBER_NONE, MEMBER_JOINS, MEMBER_OPEN, MEMBER_SHUT };

struct routes_member {
	uint8_t state;    /* enum routes_state */
	uint8_t function; /* ROUTES_GATE: a gate thread */
	uint8_t instance; /* of the function */
	uint8_t life;     /* counts who has had this number */
};

struct routes {
	struct routes_function function[ROUTES_FUNCTIONS];
	struct routes_member member[TW_MEMBERS_MAX];
};

static inline uint32_t routes_slot(uint32_t key)
{
	key ^= key >> 16;
	key *= 0x7feb352d;
	key ^= key >> 15;
	key *= 0x846ca68b;
	return (key ^ key >> 16) % ROUTES_SLOTS;
}

/* ---- what else the program of the kernel knows ---- */

struct redirect_constants {
	uint32_t gates;
	uint32_t blocks;      /* owner words */
	uint32_t boards;      /* place of the first board among them */
	uint32_t board_words; /* of one */
	uint32_t depth;       /* descriptors that a function's instance has at most from gates, */
	uint32_t depth_most;  /* and from everybody */
};

/* Written by the program only. */
struct redirect_counts {
	uint64_t in, out, denied, full, verdicts;
	uint64_t spare[3];
};

/* Why the first descriptor of a send was refused: tw_member_board.refused. */
enum redirect_why { WHY_NONE, WHY_STALE, WHY_DENIED, WHY_NOBODY, WHY_FULL };
