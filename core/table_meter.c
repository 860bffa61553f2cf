/* SPDX-License-Identifier: BSD-3-Clause */
/* table_meter.c - meters: three-colour markers of RFC 2697 and RFC 2698 over rte_meter. */
#include "error.h"
#include "table.h"

#include <errno.h>
#include <string.h>

#include <rte_meter.h>
#include <rte_spinlock.h>

/* Both profiles begin alike, but rte_meter types them apart. */
struct cell {
	rte_spinlock_t lock; /* of this cell; held for some ten ns */
	uint32_t two_rates;
	union {
		struct rte_meter_srtcm_profile sr_profile;
		struct rte_meter_trtcm_profile tr_profile;
	};
	union {
		struct rte_meter_srtcm sr;
		struct rte_meter_trtcm tr;
	};
} __attribute__((aligned(64)));

struct tw_meter {
	struct tw_table t;
	struct cell *cells;
};

#define NS_PER_SECOND 1000000000ull
#define PERIOD_NS 10000u /* aim: a period's rounding is then at most 0.01 % of the rate */
#define RATE_MAX (1ull << 40)
#define BURST_MAX (1ull << 40)

/*
 * rte_meter counts TSC cycles and derives its periods from the TSC's frequency. We meter on the
 * burst's time in ns, which costs no rdtsc per packet and can be set by a test; so the periods
 * are ours: `bytes` arrive every `period` ns. A short bucket takes no more than half at a time.
 */
static void set_period(uint64_t rate, uint64_t burst, uint64_t *period, uint64_t *bytes)
{
	*bytes = (rate * PERIOD_NS + NS_PER_SECOND - 1) / NS_PER_SECOND;
	if (*bytes > burst / 2)
		*bytes = burst / 2;
	if (!*bytes)
		*bytes = 1;
	*period = (*bytes * NS_PER_SECOND + rate / 2) / (rate ? rate : 1);
	if (!*period)
		*period = 1;
	if (!rate)
		*bytes = 0;
}

static void configure(struct cell *c, const struct tw_meter_rate *rate, uint64_t now)
{
	c->two_rates = rate->pir != 0;
	if (c->two_rates) {
		c->tr_profile.cbs = rate->cbs;
		c->tr_profile.pbs = rate->pbs;
		set_period(rate->cir, rate->cbs, &c->tr_profile.cir_period,
		           &c->tr_profile.cir_bytes_per_period);
		set_period(rate->pir, rate->pbs, &c->tr_profile.pir_period,
		           &c->tr_profile.pir_bytes_per_period);
		c->tr = (struct rte_meter_trtcm){
			.time_tc = now, .time_tp = now, .tc = rate->cbs, .tp = rate->pbs
		};
	} else {
		c->sr_profile.cbs = rate->cbs;
		c->sr_profile.ebs = rate->pbs;
		set_period(rate->cir, rate->cbs > rate->pbs ? rate->cbs : rate->pbs,
		           &c->sr_profile.cir_period, &c->sr_profile.cir_bytes_per_period);
		c->sr = (struct rte_meter_srtcm){ .time = now, .tc = rate->cbs, .te = rate->pbs };
	}
}

int tw_meter_config(struct tw_table *table, uint32_t first, uint32_t last,
                    const struct tw_meter_rate *rate, uint64_t now)
{
	struct tw_meter *m = (struct tw_meter *)table;

	if (first > last || last >= table->entries)
		return tw_fail(EINVAL, "meter \"%s\" has no entry %u: its entries are 0 to %u",
		               table->name, last, table->entries - 1);
	if (!rate->cir || rate->cir > RATE_MAX || rate->pir > RATE_MAX)
		return tw_fail(EINVAL, "meter \"%s\": rates are 1 to 2^40 bytes a second",
		               table->name);
	if (rate->cbs > BURST_MAX || rate->pbs > BURST_MAX)
		return tw_fail(EINVAL, "meter \"%s\": bursts are at most 2^40 bytes", table->name);
	if (rate->pir && rate->pir < rate->cir)
		return tw_fail(EINVAL, "meter \"%s\": pir is below cir (RFC 2698, 3)", table->name);
	if (rate->pir ? !rate->cbs || !rate->pbs : !rate->cbs && !rate->pbs)
		return tw_fail(EINVAL, "meter \"%s\": %s", table->name,
		               rate->pir ? "cbs and pbs must be above 0 (RFC 2698, 3)"
		                         : "cbs or ebs must be above 0 (RFC 2697, 3)");
	for (uint32_t i = first; i <= last; i++) {
		rte_spinlock_lock(&m->cells[i].lock);
		configure(&m->cells[i], rate, now);
		rte_spinlock_unlock(&m->cells[i].lock);
	}
	return 0;
}

int tw_meter_mark(struct tw_table *table, uint32_t index, uint32_t length, int color, uint64_t now)
{
	struct tw_meter *m = (struct tw_meter *)table;
	struct cell *c = &m->cells[index];
	uint64_t at;
	int result;

	if (index >= table->entries)
		return TW_RED;
	/* rte_meter's own run time is not thread-safe, and one rate over all lcores is the point.
	 */
	rte_spinlock_lock(&c->lock);
	/* Bursts of two lcores may come a little out of order; time must not run backwards. */
	if (c->two_rates) {
		at = c->tr.time_tc > c->tr.time_tp ? c->tr.time_tc : c->tr.time_tp;
		result = rte_meter_trtcm_color_aware_check(&c->tr, &c->tr_profile,
		                                           now > at ? now : at, length,
		                                           (enum rte_color)color);
	} else {
		at = c->sr.time;
		result = rte_meter_srtcm_color_aware_check(&c->sr, &c->sr_profile,
		                                           now > at ? now : at, length,
		                                           (enum rte_color)color);
	}
	rte_spinlock_unlock(&c->lock);
	return result;
}

static uint32_t count(const struct tw_table *t)
{
	return t->entries;
}

static void destroy(struct tw_table *table)
{
	struct tw_meter *m = (struct tw_meter *)table;

	tw_table_memory_free(m->cells, (size_t)table->entries * sizeof(*m->cells));
}

static const struct tw_table_ops ops = { .destroy = destroy, .count = count };

size_t tw_meter_struct_size(void)
{
	return sizeof(struct tw_meter);
}

int tw_meter_init(struct tw_table *table)
{
	struct tw_meter *m = (struct tw_meter *)table;
	size_t size = (size_t)table->entries * sizeof(*m->cells);

	m->cells = tw_table_memory(size);
	if (!m->cells)
		return tw_fail(ENOMEM, "no memory for meter \"%s\": %zu bytes", table->name, size);
	table->bytes = size;
	table->ops = &ops;
	return 0;
}
