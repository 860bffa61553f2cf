/* SPDX-License-Identifier: BSD-3-Clause */
/* supervisor.h - the thread that starts worker processes, looks after them and starts them anew;
 * what it is told by others. tw_worker_add, _remove, _info: abi_gate.h. */
#pragma once
#include "abi.h"

struct service;
struct tw_fabric;

/* A service has a fabric to which instances can be added, or its specification is another one now;
 * called before tw_worker_add() can name it. fabric NULL: it goes away: its workers are ended and
 * nothing of it is used any more when this returns. `service` is what flow_member_ready() and
 * flow_member_gone() are given; NULL: they are not called. Control thread. */
int tw_supervisor_service(uint32_t index, const struct tw_service_spec *spec,
                          struct tw_fabric *fabric, struct service *service);

/* The supervisor adds and removes members of fabrics: who else calls tw_fabric_route(), _gate(),
 * ... does it between these two. Never a gate thread; no tw_worker_...() in between. */
void tw_supervisor_hold(void);
void tw_supervisor_release(void);

/* From any thread, never blocks: this instance does not come to an end with a message; it is
 * killed now, and "stuck for .. ms" is why. */
void tw_supervisor_stuck(uint32_t service, uint32_t member, uint32_t ms);
/* CPU time of an instance's process, ns; 0: there is none. Any thread. */
uint64_t tw_supervisor_cpu(uint32_t service, uint32_t member);
/* Does it want a CPU now? Reads a file: for who has waited long. */
bool tw_supervisor_runnable(uint32_t service, uint32_t member);
/* Its tw_worker_spec.stuck_ms. */
uint32_t tw_supervisor_patience(uint32_t service, uint32_t member);

/* Ends all workers and the thread. Control thread. */
void tw_supervisor_stop(void);
