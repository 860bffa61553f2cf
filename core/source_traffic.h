/* SPDX-License-Identifier: BSD-3-Clause */
/* source_traffic.h - traffic is made ready: what its files know of each other. */
#pragma once
#include "source_make.h"

/* source_sums.c; numbers in messages begin with 1. */
int tw_sum_check(const struct tw_source_sum *sum, unsigned nr, uint32_t shortest);
/* What fields, the stamp and other sums do to each sum; all of them have been checked alone. */
int tw_sums_make(struct tw_program *program, const struct tw_source_traffic *traffic,
                 uint32_t shortest);
/* base[] and stamp[] of a frame whose bytes that vary are zero, and which was `bytes` before; and
 * the checksums that are fixed. */
int tw_sums_frame(const struct tw_program *program, const struct tw_source_traffic *traffic,
                  uint32_t nr, const uint8_t *bytes, struct tw_frame *frame);
