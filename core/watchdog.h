/* SPDX-License-Identifier: BSD-3-Clause */
/* watchdog.h - the thread that finds lcores stuck in Lua, and what it and the fence agree on. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* To an lcore that is late: tw_lcore.phase says what it is to do. */
#define TW_STALL_SIGNAL (SIGRTMIN + 3)

int tw_watchdog_start(void);
void tw_watchdog_stop(void);
bool tw_watchdog_runs(void);

uint64_t tw_cpu_time(clockid_t clock); /* ns; safe in signal handlers */
