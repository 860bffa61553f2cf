/* SPDX-License-Identifier: BSD-3-Clause */
/* privilege.h - rights of threads and processes: what is given up, and system calls refused. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* The signal by which a thread is asked to give up rights; no thread may block it. */
#define TW_PRIVILEGE_SIGNAL (SIGRTMIN + 4)

/* The calling thread keeps these capabilities (bit per CAP_*) of those it has, and gets no others
 * ever again. */
int tw_capabilities_keep(uint64_t keep);
/* The calling process may make no sockets, trace nobody, mount nothing, ...: for compilers. */
int tw_calls_of_compiler(void);
/* All threads are left with what an engine does; calls: enum tw_calls. */
int tw_calls_of_engine(uint32_t calls);
/* The calling process computes and talks over the sockets it has; not `built`: it may read files
 * yet. */
int tw_calls_of_worker(bool built);
