/* SPDX-License-Identifier: BSD-3-Clause */
/* error.c - thread-local error sentences and the log of lcore events. */
#include "error.h"
#include "abi.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LOG_LINES 64
#define LOG_LEN 512

static _Thread_local char error_text[512];

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_line[LOG_LINES][LOG_LEN];
static unsigned log_head, log_tail, log_lost;

int tw_fail(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error_text, sizeof(error_text), fmt, ap);
	va_end(ap);
	return -err;
}

const char *tw_error(void)
{
	return error_text[0] ? error_text : "no error was recorded";
}

void tw_log(const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&log_lock);
	if (log_head - log_tail == LOG_LINES) {
		log_lost++;
	} else {
		va_start(ap, fmt);
		vsnprintf(log_line[log_head++ % LOG_LINES], LOG_LEN, fmt, ap);
		va_end(ap);
	}
	pthread_mutex_unlock(&log_lock);
}

int tw_log_next(char *line, size_t size)
{
	int got = 0;

	pthread_mutex_lock(&log_lock);
	if (log_lost) {
		snprintf(line, size, "%u log lines were lost", log_lost);
		log_lost = 0;
		got = 1;
	} else if (log_head != log_tail) {
		snprintf(line, size, "%s", log_line[log_tail++ % LOG_LINES]);
		got = 1;
	}
	pthread_mutex_unlock(&log_lock);
	return got;
}
