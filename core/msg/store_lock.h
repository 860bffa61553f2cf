/* SPDX-License-Identifier: BSD-3-Clause */
/* store_lock.h - locks in memory that is shared with processes that nobody trusts. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* Before the first lock of a process: makes the calling thread known, so that it needs no system
 * call later. `engine`: this process may look whether others live. */
void tw_store_lock_ready(bool engine);
/* 0; -EOWNERDEAD: the same, but its holder died, and what it guards may be half done; -EBUSY: it
 * was not given back in time. Whoever does not give it back makes others wait once, not again. */
int tw_store_lock(uint32_t *word, uint32_t *blocked);
void tw_store_unlock(uint32_t *word);
