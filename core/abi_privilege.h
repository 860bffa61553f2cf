/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_privilege.h - the part of the boundary about the rights of this process and its helper; same
 * conventions as abi.h, which includes it. Control thread only.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

/* What the engine still does with system calls that not every engine needs. */
enum tw_calls {
	TW_CALLS_BPF = 1,  /* bpf(2) */
	TW_CALLS_OPEN = 2, /* new ports: packet and AF_XDP sockets, devices */
};

/* Every thread of this process, those to come too, keeps these capabilities (bit per CAP_*) of
 * those it has, gets no others by running programs, and may make only the system calls an engine
 * needs. There is no way back. */
int tw_privileges_drop(uint64_t capabilities, uint32_t calls);
/* Has it been done? */
bool tw_privileges_dropped(void);
/* How many system calls the engine has left. */
uint32_t tw_privileges_calls(void);
/* Capabilities of the calling thread, bit per CAP_*. */
uint64_t tw_privileges_capabilities(void);

/* Starts the helper process, which compiles chains and opens what a dropped engine cannot; does
 * nothing when it runs. It is started by whoever needs it first, unless rights are dropped. */
int tw_helper_start(void);
/* Ends it; returns when it has gone and left nothing. */
void tw_helper_stop(void);
/* Its process, 0: none. */
int tw_helper_pid(void);
