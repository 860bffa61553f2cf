/* SPDX-License-Identifier: BSD-3-Clause */
/* native.c - has the text of a chain compiled in the background, by the helper process, loads what
 * came of it, and publishes it to the lcores with one pointer per segment. */
#include "native.h"
#include "error.h"
#include "helper.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tw_native {
	struct tw_helper_job *job; /* until it is answered */
	int file;                  /* the library's, -1: none */
	void *library;
	unsigned owners;
};

/* One for each plan that an lcore may run: those kept over many publications, the one that runs,
 * the one before and the next one. Untouched banks take no memory. */
#define BANKS (TW_LCORES_MAX + 4)

struct use {
	struct use *next;
	struct tw_native *native;
};

static struct {
	unsigned holders; /* 0: free */
	struct use *uses;
	struct tw_native_word word[TW_CHAINS_MAX][TW_STAGES_MAX];
} banks[BANKS];

struct tw_native_word *tw_native_words(uint32_t bank, uint32_t chain)
{
	return bank < BANKS && chain < TW_CHAINS_MAX ? banks[bank].word[chain] : NULL;
}

/* ---- the compiler ---- */

struct tw_native *tw_native_compile(const char *text, size_t len)
{
	struct tw_native *native = calloc(1, sizeof(*native));

	if (!native) {
		tw_fail(ENOMEM, "no memory to compile a chain");
		return NULL;
	}
	native->owners = 1;
	native->file = -1;
	native->job = tw_helper_compile(text, len);
	if (native->job)
		return native;
	free(native);
	return NULL;
}

/* The loader knows a library by its path, so the descriptor in that path stays ours as long. */
static int load(struct tw_native *native)
{
	char path[64];

	snprintf(path, sizeof(path), TW_NATIVE_PATH "%d", native->file);
	/* Bound at once: a fault inside of the loader would not be the NF's. */
	native->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	return native->library ? 1
	                       : tw_fail(ENOEXEC, "a compiled chain does not load: %s", dlerror());
}

int tw_native_poll(struct tw_native *native)
{
	int rc;

	if (!native->job)
		return native->library ? 1 : tw_fail(EINVAL, "the C compiler has failed before");
	rc = tw_helper_compiled(native->job, &native->file);
	if (rc == 0)
		return 0;
	tw_helper_forget(native->job);
	native->job = NULL;
	return rc < 0 ? rc : load(native);
}

void tw_native_free(struct tw_native *native)
{
	if (!native || --native->owners)
		return;
	tw_helper_forget(native->job);
	if (native->library)
		dlclose(native->library);
	if (native->file >= 0)
		close(native->file);
	free(native);
}

/* ---- banks ---- */

int tw_native_bank_new(void)
{
	for (int bank = 0; bank < BANKS; bank++) {
		if (banks[bank].holders)
			continue;
		banks[bank].holders = 1;
		return bank;
	}
	return tw_fail(ENOSPC, "%d plans are in use at once, that is the limit", BANKS);
}

void tw_native_bank_hold(unsigned bank)
{
	banks[bank].holders++;
}

void tw_native_bank_release(unsigned bank)
{
	struct use *use = banks[bank].uses;

	if (--banks[bank].holders)
		return;
	memset(banks[bank].word, 0, sizeof(banks[bank].word));
	banks[bank].uses = NULL;
	while (use) {
		struct use *next = use->next;

		tw_native_free(use->native);
		free(use);
		use = next;
	}
}

static int bank_own(unsigned bank, struct tw_native *native)
{
	struct use *use = banks[bank].uses;

	while (use && use->native != native)
		use = use->next;
	if (use)
		return 0;
	use = malloc(sizeof(*use));
	if (!use)
		return tw_fail(ENOMEM, "no memory to publish machine code");
	*use = (struct use){ .next = banks[bank].uses, .native = native };
	banks[bank].uses = use;
	native->owners++;
	return 0;
}

int tw_native_publish(struct tw_native *native, const char *name, struct tw_native_word *word)
{
	size_t bank = ((char *)word - (char *)banks) / sizeof(banks[0]);
	tw_native_mbufs_fn mbufs = NULL;
	tw_native_fn fn = NULL;
	char longer[64];
	int err;

	snprintf(longer, sizeof(longer), "%s_mbufs", name);
	if (native->library) {
		*(void **)&fn = dlsym(native->library, name);
		*(void **)&mbufs = dlsym(native->library, longer);
	}
	if (!fn)
		return tw_fail(ENOENT, "a compiled chain has no function %s", name);
	/* A word of the caller's own is the caller's business. */
	if ((char *)word >= (char *)banks && bank < BANKS) {
		if (!banks[bank].holders)
			return tw_fail(EINVAL, "bank %zu of machine code belongs to no plan", bank);
		err = bank_own(bank, native);
		if (err < 0)
			return err;
	}
	__atomic_store_n(&word->mbufs, mbufs, __ATOMIC_RELEASE);
	__atomic_store_n(&word->fn, fn, __ATOMIC_RELEASE);
	return 0;
}

/* ---- atomics ---- */

#define ATOMIC(type)                                                                            \
	static type atomic_##type(int kind, type *at, type value, type other)                   \
	{                                                                                       \
		switch (kind) {                                                                 \
		case TW_ATOMIC_ADD:                                                             \
			return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);                 \
		case TW_ATOMIC_OR:                                                              \
			return __atomic_fetch_or(at, value, __ATOMIC_SEQ_CST);                  \
		case TW_ATOMIC_AND:                                                             \
			return __atomic_fetch_and(at, value, __ATOMIC_SEQ_CST);                 \
		case TW_ATOMIC_XOR:                                                             \
			return __atomic_fetch_xor(at, value, __ATOMIC_SEQ_CST);                 \
		case TW_ATOMIC_XCHG:                                                            \
			return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                \
		default:                                                                        \
			__atomic_compare_exchange_n(at, &value, other, false, __ATOMIC_SEQ_CST, \
			                            __ATOMIC_SEQ_CST);                          \
			return value;                                                           \
		}                                                                               \
	}
ATOMIC(uint32_t)
ATOMIC(uint64_t)

uint64_t tw_atomic(int kind, int bits, void *at, uint64_t value, uint64_t other)
{
	return bits == 32 ? atomic_uint32_t(kind, at, value, other)
	                  : atomic_uint64_t(kind, at, value, other);
}
