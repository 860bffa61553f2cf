/* SPDX-License-Identifier: BSD-3-Clause */
/* table_acl.c - ordered rule sets over rte_acl: thousands of rules, one walk through a trie. */
#include "error.h"
#include "table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_errno.h>

/* rte_acl reads one byte, then groups of four; a group is filled up with fields that match all. */
#define GROUPS_MAX TW_ACL_FIELDS_MAX
#define INPUT_WORDS (1 + GROUPS_MAX)
#define DEFS_MAX (1 + 4 * GROUPS_MAX)
#define PADDING 0xffffffffu
#define PRIORITY_MAX (1u << 28)
#define FIRST_GROUP 4u /* offset in the input; byte 0 is the first field, 1 to 3 are unused */

/* What a field of the key becomes in rte_acl's input: bits of one of its words. */
struct move {
	uint8_t from, size, swapped, shift;
	uint8_t word; /* of the input; 0 has the leading byte alone */
	bool last;    /* of its word */
};

struct tw_acl {
	struct tw_table t;
	struct rte_acl_ctx *ctx; /* NULL: built with no rule, nothing matches */
	bool built;
	uint32_t rules;
	uint32_t n_moves;
	struct move move[TW_ACL_FIELDS_MAX];
};

/* rte_acl's fields in its order, and from which of ours each comes. */
struct layout {
	uint32_t n;
	struct rte_acl_field_def def[DEFS_MAX];
	uint32_t source[DEFS_MAX];
	uint32_t used; /* bytes of input laid out behind the first field's */
};

static void add_def(struct layout *l, uint32_t type, uint32_t size, uint32_t offset, uint32_t input,
                    uint32_t source)
{
	l->def[l->n] = (struct rte_acl_field_def){
		.type = type,
		.size = size,
		.field_index = l->n,
		.input_index = input,
		.offset = offset,
	};
	l->source[l->n++] = source;
}

static uint32_t type_of(const struct tw_acl_field *f)
{
	switch (f->match) {
	case TW_ACL_RANGE:
		return RTE_ACL_FIELD_TYPE_RANGE;
	case TW_ACL_PREFIX:
		return RTE_ACL_FIELD_TYPE_MASK;
	default:
		return RTE_ACL_FIELD_TYPE_BITMASK;
	}
}

static void pad_group(struct layout *l)
{
	for (; l->used % 4; l->used++)
		add_def(l, RTE_ACL_FIELD_TYPE_BITMASK, 1, FIRST_GROUP + l->used, 1 + l->used / 4,
		        PADDING);
}

/* The first field of one byte leads; then all fields by size, small ones sharing groups. */
static void lay_out(struct tw_acl *acl, struct layout *l, const struct tw_acl_field *fields,
                    uint32_t n)
{
	uint32_t lead = PADDING, moves = 0;

	for (uint32_t i = 0; i < n && lead == PADDING; i++)
		if (fields[i].size == 1)
			lead = i;
	add_def(l, lead == PADDING ? RTE_ACL_FIELD_TYPE_BITMASK : type_of(&fields[lead]), 1, 0, 0,
	        lead);
	if (lead != PADDING)
		acl->move[moves++] = (struct move){ .from = fields[lead].offset, .size = 1 };
	for (uint32_t size = 1; size <= 4; size *= 2) {
		for (uint32_t i = 0; i < n; i++) {
			if (i == lead || fields[i].size != size)
				continue;
			add_def(l, type_of(&fields[i]), size, FIRST_GROUP + l->used,
			        1 + l->used / 4, i);
			acl->move[moves++] = (struct move){
				.from = fields[i].offset,
				.size = size,
				.swapped = fields[i].swapped,
				.shift = 8 * (l->used % 4),
				.word = 1 + l->used / 4,
			};
			l->used += size;
		}
		/* The next size must not straddle two groups. */
		if (l->used % (size * 2 > 4 ? 4 : size * 2))
			pad_group(l);
	}
	pad_group(l);
	for (uint32_t i = 0; i < moves; i++)
		acl->move[i].last = i + 1 == moves || acl->move[i + 1].word != acl->move[i].word;
	acl->n_moves = moves;
}

static uint32_t host_order(uint32_t word, const struct tw_acl_field *f)
{
	if (!f->swapped || f->size == 1)
		return word;
	return f->size == 2 ? rte_be_to_cpu_16((uint16_t)word) : rte_be_to_cpu_32(word);
}

static void fill_rule(struct rte_acl_rule *rule, const struct layout *l,
                      const struct tw_acl_field *fields, const uint32_t *words)
{
	rule->data.category_mask = 1;
	rule->data.priority = (int32_t)(PRIORITY_MAX - words[0]);
	rule->data.userdata = words[0] + 1; /* 0 means "no match" to rte_acl */
	for (uint32_t d = 0; d < l->n; d++) {
		uint32_t i = l->source[d];
		struct rte_acl_field *to = &rule->field[d];

		memset(to, 0, sizeof(*to));
		if (i == PADDING)
			continue;
		to->value.u32 = host_order(words[1 + 2 * i], &fields[i]);
		to->mask_range.u32 = fields[i].match == TW_ACL_PREFIX
		                             ? words[2 + 2 * i]
		                             : host_order(words[2 + 2 * i], &fields[i]);
	}
}

static int add_rules(struct tw_acl *acl, const struct layout *l, const struct tw_acl_field *fields,
                     uint32_t n_fields, const uint32_t *rules, uint32_t n_rules)
{
	struct rte_acl_rule *rule = calloc(1, RTE_ACL_RULE_SZ(l->n));
	int err = rule ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < n_rules && !err; i++) {
		fill_rule(rule, l, fields, rules + (size_t)i * (1 + 2 * n_fields));
		err = rte_acl_add_rules(acl->ctx, rule, 1);
		if (err == -EINVAL)
			err = tw_fail(
				EINVAL,
				"rule %u of table \"%s\" has a prefix or bits beyond its field", i,
				acl->t.name);
	}
	free(rule);
	return err == -ENOMEM ? tw_fail(ENOMEM, "no memory for %u rules of table \"%s\"", n_rules,
	                                acl->t.name)
	                      : err;
}

static int build(struct tw_acl *acl, const struct tw_acl_field *fields, uint32_t n_fields,
                 const uint32_t *rules, uint32_t n_rules)
{
	static unsigned number;
	struct layout layout = { 0 };
	struct rte_acl_config config = { .num_categories = 1 };
	char name[RTE_ACL_NAMESIZE];
	struct rte_acl_param param = { .name = name, .socket_id = SOCKET_ID_ANY };
	int err;

	lay_out(acl, &layout, fields, n_fields);
	if (layout.n > RTE_ACL_MAX_FIELDS)
		return tw_fail(EINVAL,
		               "table \"%s\" has %u fields with their padding; %d are possible",
		               acl->t.name, layout.n, RTE_ACL_MAX_FIELDS);
	snprintf(name, sizeof(name), "twacl%u", ++number);
	param.rule_size = RTE_ACL_RULE_SZ(layout.n);
	param.max_rule_num = n_rules;
	acl->ctx = rte_acl_create(&param);
	if (!acl->ctx)
		return tw_fail(ENOMEM,
		               "no memory for %u rules of table \"%s\": give the engine more "
		               "(--memory), or write fewer rules",
		               n_rules, acl->t.name);
	err = add_rules(acl, &layout, fields, n_fields, rules, n_rules);
	if (err < 0)
		goto out;
	config.num_fields = layout.n;
	memcpy(config.defs, layout.def, layout.n * sizeof(layout.def[0]));
	err = rte_acl_build(acl->ctx, &config);
	if (err < 0)
		err = tw_fail(
			-err,
			"%u rules of table \"%s\" do not fit into memory: give the engine more "
			"(--memory), or write fewer rules",
			n_rules, acl->t.name);
out:
	if (err < 0) {
		rte_acl_free(acl->ctx);
		acl->ctx = NULL;
	}
	return err;
}

int tw_acl_build(struct tw_table *table, const struct tw_acl_field *fields, uint32_t n_fields,
                 const uint32_t *rules, uint32_t n_rules)
{
	struct tw_acl *acl = (struct tw_acl *)table;
	int err;

	if (acl->built)
		return tw_fail(EBUSY, "table \"%s\" has its rules; make a new one", table->name);
	if (n_fields < 1 || n_fields > TW_ACL_FIELDS_MAX)
		return tw_fail(EINVAL, "%u fields: an acl has 1 to %d", n_fields,
		               TW_ACL_FIELDS_MAX);
	for (uint32_t i = 0; i < n_fields; i++) {
		const struct tw_acl_field *f = &fields[i];

		if ((f->size != 1 && f->size != 2 && f->size != 4) || f->match > TW_ACL_PREFIX ||
		    f->offset + f->size > table->key_size)
			return tw_fail(EINVAL,
			               "field %u of table \"%s\": %u bytes at %u cannot match so",
			               i, table->name, f->size, f->offset);
	}
	if (n_rules > table->entries)
		return tw_fail(ENOSPC, "%u rules: table \"%s\" has room for %u", n_rules,
		               table->name, table->entries);
	for (uint32_t i = 0; i < n_rules; i++)
		if (rules[(size_t)i * (1 + 2 * n_fields)] >= PRIORITY_MAX - 1)
			return tw_fail(EINVAL,
			               "rule %u of table \"%s\": its result is not below 2^28", i,
			               table->name);
	err = n_rules ? build(acl, fields, n_fields, rules, n_rules) : 0;
	if (err < 0)
		return err;
	acl->rules = n_rules;
	acl->built = true;
	return 0;
}

/* A field of the key as its bytes lie in the input. */
static inline uint32_t field_of(const uint8_t *key, const struct move *m)
{
	uint16_t half;
	uint32_t word;

	switch (m->size) {
	case 1:
		return key[m->from];
	case 2:
		memcpy(&half, key + m->from, sizeof(half));
		return m->swapped ? half : rte_cpu_to_be_16(half);
	default:
		memcpy(&word, key + m->from, sizeof(word));
		return m->swapped ? word : rte_cpu_to_be_32(word);
	}
}

int tw_acl_get(const struct tw_table *table, const void *key)
{
	const struct tw_acl *acl = (const struct tw_acl *)table;
	/* rte_acl reads words, so they are written whole. Every word but the first has a field. */
	uint32_t input[INPUT_WORDS], word = 0, result = 0;
	const uint8_t *data = (const uint8_t *)input;

	if (!acl->ctx)
		return TW_ACL_NONE;
	input[0] = 0;
	for (uint32_t i = 0; i < acl->n_moves; i++) {
		const struct move *m = &acl->move[i];

		word |= field_of(key, m) << m->shift;
		if (m->last) {
			input[m->word] = word;
			word = 0;
		}
	}
	rte_acl_classify(acl->ctx, &data, &result, 1, 1);
	return (int)result - 1;
}

/* ---- life ---- */

static uint32_t count(const struct tw_table *t)
{
	return ((const struct tw_acl *)t)->rules;
}

static void destroy(struct tw_table *t)
{
	rte_acl_free(((struct tw_acl *)t)->ctx);
}

static const struct tw_table_ops ops = {
	.destroy = destroy,
	.count = count,
};

size_t tw_acl_struct_size(void)
{
	return sizeof(struct tw_acl);
}

int tw_acl_init(struct tw_table *t)
{
	int err = tw_eal_ensure();

	if (err < 0)
		return err;
	if (t->entries > TW_ACL_RULES_MAX)
		return tw_fail(EINVAL, "%u rules: an acl has at most %d", t->entries,
		               TW_ACL_RULES_MAX);
	t->ops = &ops;
	return 0;
}
