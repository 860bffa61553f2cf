/* SPDX-License-Identifier: BSD-3-Clause */
/* group_table.h - upstream groups as the control thread gave them, for all threads. */
#pragma once
#include "gate/upstream.h"

/* The table there is now, with a reference; NULL: none. Any thread. */
struct group_table *group_table_get(uint32_t index);
void group_table_unref(struct group_table *table);
struct server_shared *server_shared_ref(struct server_shared *shared);
void server_shared_unref(struct server_shared *shared);

/* group.c: this thread takes the table there is now. */
int group_take(struct gate *gate, uint32_t index);
