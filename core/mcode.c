/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mcode.c - gives back the machine code of a Lua VM that cannot be closed.
 *
 * LuaJIT maps areas for machine code by itself, not through the allocator it was given, and only
 * lua_close() unmaps them. The areas are a list whose head is in LuaJIT's state; the list is taken
 * for what it is when its sizes add up to the sum that LuaJIT keeps beside it, and left alone
 * otherwise, which costs its memory and nothing else. Each area has also told libgcc how frames in
 * it are unwound, which has to be taken back before the area goes.
 */
#include "vm.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u

/* How an area begins, and the fields of LuaJIT's state (lj_jit.h: mcarea, mctop, mcbot, szmcarea,
 * szallmcarea). */
struct link {
	struct link *next;
	size_t size;
};

struct areas {
	uintptr_t area, top, bottom;
	size_t size, size_all;
};

/* libgcc; it has no header for them. */
struct bases {
	void *text, *data, *function;
};
const void *_Unwind_Find_FDE(void *pc, struct bases *bases);
void __deregister_frame(void *begin);

static bool plausible(const struct areas *a)
{
	return a->area && a->area % PAGE == 0 && a->size >= PAGE && a->size % PAGE == 0 &&
	       a->size_all >= a->size && a->size_all % PAGE == 0 && a->size_all < UINT32_MAX &&
	       a->bottom >= a->area + sizeof(struct link) && a->bottom <= a->top &&
	       a->top <= a->area + a->size;
}

static bool adds_up(const struct areas *a)
{
	const struct link *link = (const struct link *)a->area;
	size_t sum = 0;

	for (; link && sum < a->size_all; link = link->next)
		sum += link->size;
	return !link && sum == a->size_all;
}

/* The description of frames lies in the area: a common part, which is what was registered, and
 * behind it the one that is found, with its distance from the common part in its second word. */
static void forget_frames(const struct link *link)
{
	const char *area = (const char *)link;
	struct bases bases;
	const char *found = _Unwind_Find_FDE((void *)(area + link->size / 2), &bases);
	int32_t distance;

	if (!found || found < area || found >= area + link->size)
		return;
	memcpy(&distance, found + 4, sizeof(distance));
	__deregister_frame((void *)(found + 4 - distance));
}

void tw_mcode_free(const void *state, size_t size)
{
	struct areas areas;

	for (size_t at = 0; at + sizeof(areas) <= size; at += sizeof(void *)) {
		struct link *link;

		memcpy(&areas, (const char *)state + at, sizeof(areas));
		if (!plausible(&areas) || !adds_up(&areas))
			continue;
		for (link = (struct link *)areas.area; link;) {
			struct link *next = link->next;

			forget_frames(link);
			munmap(link, link->size);
			link = next;
		}
		return;
	}
}
