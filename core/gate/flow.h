/* SPDX-License-Identifier: BSD-3-Clause */
/* flow.h - services: chains of messages, as all gate threads see them, and what the control thread
 * and the supervisor tell the gate threads. */
#pragma once
#include "gate/gate.h"

struct service {
	uint32_t index;
	struct tw_service_spec spec; /* what the threads have taken last */
	struct tw_fabric *fabric;    /* NULL: inline only */
	struct tw_pool *pool;
	struct tw_link *link[TW_GATES_MAX];
	struct gate_source source[TW_GATES_MAX];  /* link's descriptor */
	_Atomic uint32_t in_flight[TW_GATES_MAX]; /* exchanges, per thread */
	struct lane *lane[TW_GATES_MAX];          /* refined: the service in each thread (lane.h) */
};

/* Refined: by index, NULL: none. Control thread. Who uses its fabric holds the supervisor. */
struct service *service_at(uint32_t index);
/* Refined: all services are removed; the gate threads have ended. Control thread. */
void services_stop(void);

/* Refined: takes what has come by transports that poll; see gate->polling. */
void flow_poll(struct gate *gate);

/* ---- commands: from the control thread or the supervisor to every gate thread, answered ---- */

/* Runs fn in each gate thread, one after the other's turn, and returns when all have. First error,
 * or 0. Never called by a gate thread. */
int gates_each(int (*fn)(struct gate *gate, void *ctx), void *ctx);
/* The same for one thread, and nobody waits; ctx is freed with free() afterwards. */
int gate_post(uint32_t id, void (*fn)(struct gate *gate, void *ctx), void *ctx);
uint32_t gates_running(void);

/* ---- what the supervisor says ---- */

/* An instance's process has ended (or was killed) and its descriptors are drained: what it had in
 * hand is answered or retried, what it had not begun with is sent to another one; blocks are
 * reclaimed. In each gate thread, for its exchanges; by gates_each(). */
int flow_member_gone(struct gate *gate, struct service *service, uint32_t member);
/* A function has an instance again: what waits for one goes on. Refined: told of every instance
 * that opens, the first ones too. */
int flow_member_ready(struct gate *gate, struct service *service, uint32_t member);

/* ---- refined: what functions send to the gate ----
 *
 * The message itself, exit NEXT behind the last function, or GATE with a verdict. GATE and
 * TW_V_NONE: the sender could not pass it on (nobody stands behind it, or its queue stays full);
 * the gate goes on behind the function msg->stage. A function that maps messages read-only says its
 * verdict in desc.key (TW_V_DROP, TW_V_FAULT): in descriptors to a gate with exit GATE, a key that
 * is not 0 goes before the message's verdict; nobody else sets it. Bodies that a function replaces:
 * TW_MSG_WHOLE, body[] and body_len. TW_MSG_DATA: body[] is the piece, edited as other bodies. An
 * ANSWER is one block, its body behind the head in it (body[0]); who it was sent to owns it. */

/* ---- inline.c: functions that run in this thread ---- */

/* Calls the functions of a service over messages, from this function on as far as they go: the same
 * as sending them through the fabric and getting them back. At most TW_DESC_BATCH; `result`: enum
 * tw_inline_result (of one that is held, flow_inline_done() comes later, or has come within). */
void inline_run(struct gate *gate, struct service *service, uint32_t function,
                const tw_handle *messages, unsigned n, int8_t *result);
void flow_inline_done(struct gate *gate, struct service *service, tw_handle message);
/* A function asks for something (see tw_pool_give() in abi_msg.h, "a fetch"); the answer comes by
 * inline_answered(), never from within this call. */
void flow_inline_fetch(struct gate *gate, struct service *service, tw_handle fetch);
/* The answer may be freed when this returns, and the fetch. */
void inline_answered(struct gate *gate, struct service *service, tw_handle answer);
/* A message that was held is given up (its exchange ends): its function is not resumed. */
void inline_forget(struct gate *gate, struct service *service, tw_handle message);
/* Adds what this thread has counted, TW_STAGES_MAX boards; any thread. */
void inline_boards(struct gate *gate, uint32_t service, struct tw_member_board *boards);
/* The thread ends, or begins. */
void inline_free(struct gate *gate);
/* (Re)builds the functions of a service in this thread's VM from what transfer.lua packed; len 0:
 * none. */
int inline_load(struct gate *gate, uint32_t service, const char *blob, size_t len);
