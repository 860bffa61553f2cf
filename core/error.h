/* SPDX-License-Identifier: BSD-3-Clause */
/* error.h - thread-local error sentences and the log of lcore events. */
#pragma once
#include <stddef.h>

/* Set this thread's error sentence and return -err (err is a positive errno). */
int tw_fail(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Leave a line for the control thread to print; never blocks, never allocates. A warning, or with
 * TW_LOG_ERROR in front of the format an error. */
#define TW_LOG_ERROR "<3>"
void tw_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
