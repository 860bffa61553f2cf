/* SPDX-License-Identifier: BSD-3-Clause */
/* pool_own.h - what the files of the pool share: where things lie. */
#pragma once
#include "msg/pool.h"

#define POOL_BOARD_WORDS 64 /* 64-bit values per board */

enum pool_figure { POOL_EMPTY, POOL_REFUSED, POOL_FIGURES = 8 };

/* Private to each process; the same in all, because it follows from the pool's size. */
struct pool_layout {
	uint64_t bytes;                  /* of the blocks */
	uint32_t blocks;                 /* of all classes */
	uint32_t count[TW_POOL_CLASSES]; /* blocks of a class */
	uint32_t first[TW_POOL_CLASSES]; /* index of its first block */
	uint64_t base[TW_POOL_CLASSES];  /* where that lies */
	/* 64-bit values of the owners: the words themselves first */
	uint32_t hints[TW_POOL_CLASSES], hint_words[TW_POOL_CLASSES];
	uint32_t figures, boards, words;
};

struct tw_pool {
	char name[TW_NAME_LEN];
	struct pool_layout l;
	_Atomic uint64_t *words;
	uint8_t *data;
	struct tw_pool_fds fds;
	bool readonly;
	uint32_t huge;
	/* Where each member looks first: the word of hints of what it has freed last, which is in
	 * its cache. Written by that member's thread. */
	uint32_t cursor[TW_MEMBERS_MAX][TW_POOL_CLASSES];
};

/* A sealed memfd; a descriptor of it for reading only, -1 without /proc. */
int pool_memory_file(const char *name, const char *what, uint64_t bytes);
int pool_readonly(int fd);
