/* SPDX-License-Identifier: BSD-3-Clause */
/* passing.h - messages over a socket of this machine, descriptors along with them (SCM_RIGHTS). */
#pragma once
#include <sys/types.h>

enum { TW_PASS_MOST = 64 }; /* descriptors with one message */

/* As send(): `size` bytes, and n descriptors, which stay the caller's. */
ssize_t tw_pass(int sock, const void *what, size_t size, const int *fds, unsigned n, int flags);
/* As recv(). The descriptors that came, closed on exec, are the caller's; -1 behind them up to
 * `most`, those above are closed. */
ssize_t tw_passed(int sock, void *what, size_t size, int *fds, unsigned most, int flags);
