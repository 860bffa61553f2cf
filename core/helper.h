/* SPDX-License-Identifier: BSD-3-Clause */
/* helper.h - what the engine and its helper process say to each other, and the engine's end of it.
 *
 * One socket of packets (SOCK_SEQPACKET): a request or a reply is one of the structs below, with at
 * most one descriptor. The helper never parses text: what to do is a number, and a text to compile
 * goes through it unread.
 */
#pragma once
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#define TW_HELPER_NAME "tideway-helper" /* argv[0] that makes this program the helper */
#define TW_HELPER_SOCKET 3              /* the helper's end of the socket */

enum tw_helper_op {
	TW_HELPER_COMPILE = 1, /* descriptor: C text; replies with a library */
	TW_HELPER_CANCEL,      /* gives up the compilation of that id; no reply */
	TW_HELPER_BPF_ID,      /* command: BPF_..._GET_FD_BY_ID, argument: id; replies with it */
	TW_HELPER_NEXT_LINK,   /* argument: id of a BPF link; replies with that of the next */
	TW_HELPER_HOLDER,      /* argument: id of a BPF program; replies with a pid, 0: nobody's */
};

struct tw_helper_request {
	uint32_t op, id;
	uint32_t command, argument;
	cpu_set_t cpus; /* where the compiler may run */
};

struct tw_helper_reply {
	uint32_t id;
	int32_t status;  /* a number asked for, or -errno */
	char words[224]; /* of an error: a sentence */
};

/* ---- the process ---- */

int tw_helper_main(void);

/* One compilation at a time, by helper_compile.c. */
int tw_compile_begin(int text, const cpu_set_t *cpus, int engine);
/* Milliseconds until it has taken too long, -1: none runs. */
int tw_compile_patience(void);
/* When it has ended: true, with the library (-1: none) and a sentence why not. */
bool tw_compile_ended(int *library, struct tw_helper_reply *reply);
void tw_compile_stop(void);

/* ---- the engine's end; control thread only ---- */

struct tw_helper_job;
struct tw_helper_job *tw_helper_compile(const char *text, size_t len);
/* 0: still at it; 1: done, the library's descriptor is the caller's; -errno */
int tw_helper_compiled(struct tw_helper_job *job, int *library);
/* Gives up what still runs. */
void tw_helper_forget(struct tw_helper_job *job);

/* What the kernel refuses an engine without CAP_SYS_ADMIN: a descriptor, an id, or -errno. */
int tw_helper_bpf_by_id(uint32_t command, uint32_t id);
int tw_helper_next_link(uint32_t id);
/* A process that holds a BPF program, 0: none; -errno. */
int tw_helper_holder(uint32_t program);
