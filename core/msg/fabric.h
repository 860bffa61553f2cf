/* SPDX-License-Identifier: BSD-3-Clause */
/* fabric.h - how descriptors move between the members of a service: one small interface, three
 * ways.
 *
 *   sk_msg  sockets; a program of the kernel looks up who sends, what may stand behind that exit,
 * which of the function's instances has least to do (or has the key), and puts the descriptors into
 *           its queue; a member that has nothing sleeps
 *   rings   one ring per member in shared memory; members poll
 *   inline  nothing moves: the gate thread calls the functions itself (gate/inline.c)
 *
 * Members 0 .. TW_GATES_MAX - 1 are gate threads, the others instances of functions.
 */
#pragma once
#include "msg/pool.h"

/* What there is to call: abi_fabric.h. */
