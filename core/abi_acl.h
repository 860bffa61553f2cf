/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_acl.h - the part of the boundary for ordered rule sets (tw.acl); same conventions as
 * abi_table.h.
 *
 * An ACL table is a tw_table: make it with tw_table_new(), kind TW_TABLE_ACL, `entries` the most
 * rules it may hold, key_size the size of its key. tw_acl_build() then gives it rules, once; from
 * there on it is read-only, so look-ups need no protection on any thread.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum { TW_TABLE_ACL = 8 }; /* goes on after enum tw_table_kind */

/* How a rule's two words of a field (a, b) match the field's value v. */
enum tw_acl_match {
	TW_ACL_BITS = 0,   /* (v & b) == (a & b) */
	TW_ACL_RANGE = 1,  /* a <= v && v <= b */
	TW_ACL_PREFIX = 2, /* the first b bits are those of a; fields of 4 bytes */
};

enum tw_acl_limit {
	TW_ACL_FIELDS_MAX = 20,
	TW_ACL_RULES_MAX = 1 << 20,
	TW_ACL_NONE = -1, /* no rule matches */
};

struct tw_acl_field {
	uint32_t match;   /* enum tw_acl_match */
	uint32_t size;    /* bytes: 1, 2 or 4 */
	uint32_t offset;  /* in the key */
	uint32_t swapped; /* the field is in network order in key and rules, else in host order */
};

/* One rule is 1 + 2 * n_fields words: its result, then a and b of every field. Results are below
 * 2^28; the lowest result wins among the rules that match. Control thread. 0 or -errno. */
int tw_acl_build(struct tw_table *table, const struct tw_acl_field *fields, uint32_t n_fields,
                 const uint32_t *rules, uint32_t n_rules);
int tw_acl_get(const struct tw_table *table, const void *key); /* result or TW_ACL_NONE */
