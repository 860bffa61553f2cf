/* SPDX-License-Identifier: BSD-3-Clause */
/* say.c - what gate threads say in the engine's log about requests that failed: clients are not
 * told, and however many there are, the log has few lines. */
#include "error.h"
#include "gate/lane.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CAUSES 8
#define SAY_NS 1000000000ull

/* Of this thread. What is said often is said once a second, with how often it was not. */
struct cause {
	uint64_t hash, at;
	uint32_t held;
};
static _Thread_local struct cause causes[CAUSES];
static _Thread_local uint32_t others;

/* True: it may be said now, and so many lines were not. */
static bool may_say(uint64_t hash, uint64_t now, uint32_t *held)
{
	struct cause *at = &causes[0];
	uint32_t i;

	for (i = 0; i < CAUSES; i++) {
		if (causes[i].hash == hash) {
			at = &causes[i];
			break;
		}
		if (causes[i].at < at->at)
			at = &causes[i];
	}
	if (at->at && now - at->at < SAY_NS) {
		*(at->hash == hash ? &at->held : &others) += 1;
		return false;
	}
	*held = at->held + others;
	others = 0;
	*at = (struct cause){ hash, now, 0 };
	return true;
}

static uint64_t clean(char *text)
{
	uint64_t hash = 14695981039346656037ull;

	for (; *text; text++) {
		if ((unsigned char)*text < ' ' || *text == 127)
			*text = ' ';
		hash = (hash ^ (uint8_t)*text) * 1099511628211ull;
	}
	return hash;
}

void gate_say(const struct gate *gate, const char *fmt, ...)
{
	char text[440], more[48] = "";
	uint32_t held = 0;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!may_say(clean(text), gate->now, &held))
		return;
	if (held)
		snprintf(more, sizeof(more), " (and %u more lines before)", held);
	tw_log("%s%s", text, more);
}

void flow_say(struct flow *f, uint32_t function, const char *fmt, ...)
{
	const struct tw_service_spec *spec = &f->lane->spec;
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (function < spec->n_functions)
		gate_say(f->lane->gate, "chain \"%s\": %s: %s", spec->name,
		         spec->function[function].name, text);
	else
		gate_say(f->lane->gate, "chain \"%s\": %s", spec->name, text);
}
