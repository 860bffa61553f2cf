/* SPDX-License-Identifier: BSD-3-Clause */
/* answer.c - the gate's own answers: short texts that say why. */
#include "gate/http.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* RFC 9110 15, 9110 16.2.1 and the registry; of others the class. */
const char *http_reason(int status)
{
#define HTTP_REASON(number, name, text) \
	case number:                    \
		return #text;
	switch (status) {
		HTTP_STATUS_MAP(HTTP_REASON)
	}
#undef HTTP_REASON
	switch (status / 100) {
	case 1:
		return "Informational";
	case 2:
		return "Success";
	case 3:
		return "Redirection";
	case 4:
		return "Client Error";
	default:
		return "Server Error";
	}
}

const char *http_date(void)
{
	static _Thread_local char line[48];
	static _Thread_local time_t of;
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (now.tv_sec != of || !line[0]) {
		of = now.tv_sec;
		gmtime_r(&of, &tm);
		/* Names of days and months are English in the C locale, which the engine keeps. */
		strftime(line, sizeof(line), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
	}
	return line;
}

int http_write_answer(int status, const char *why, bool close, bool head, char *to, uint32_t size)
{
	char text[256];
	int body, n;

	if (why && *why)
		body = snprintf(text, sizeof(text), "%d %s: %s\n", status, http_reason(status),
		                why);
	else
		body = snprintf(text, sizeof(text), "%d %s\n", status, http_reason(status));
	if (body >= (int)sizeof(text)) {
		body = sizeof(text) - 1;
		text[body - 1] = '\n';
	}
	n = snprintf(to, size,
	             "HTTP/1.1 %d %s\r\n%sContent-Type: text/plain; charset=utf-8\r\n"
	             "Content-Length: %d\r\n%s\r\n%s",
	             status, http_reason(status), http_date(), body,
	             close ? "Connection: close\r\n" : "", head ? "" : text);
	return n < (int)size ? n : -EMSGSIZE;
}
