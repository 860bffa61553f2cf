/* SPDX-License-Identifier: BSD-3-Clause */
/* balance.c - which server of a group is next. */
#include "abi.h"

#include <math.h>
#include <string.h>

static bool may(const struct tw_balance_server *server)
{
	return server->weight && !server->skip;
}

/* Smooth weighted round robin: each server gains its weight, the richest is chosen and pays for
 * all. Weights 5, 1, 1 give a a b a c a a instead of a a a a a b c. */
static int round_robin(struct tw_balance_server *servers, uint32_t n)
{
	int64_t total = 0;
	int best = -1;
	uint32_t i;

	for (i = 0; i < n; i++) {
		if (!may(&servers[i]))
			continue;
		servers[i].current += servers[i].weight;
		total += servers[i].weight;
		if (best < 0 || servers[i].current > servers[best].current)
			best = (int)i;
	}
	if (best >= 0)
		servers[best].current -= total;
	return best;
}

/* (active + 1) / weight is least; round robin among those that are equal. */
static int least(struct tw_balance_server *servers, uint32_t n)
{
	int64_t total = 0;
	int best = -1;
	uint32_t i;

	for (i = 0; i < n; i++) {
		struct tw_balance_server *s = &servers[i], *b = &servers[best < 0 ? 0 : best];
		uint64_t mine, its;

		if (!may(s))
			continue;
		s->current += s->weight;
		total += s->weight;
		mine = ((uint64_t)s->active + 1) * b->weight;
		its = ((uint64_t)b->active + 1) * s->weight;
		if (best < 0 || mine < its || (mine == its && s->current > b->current))
			best = (int)i;
	}
	if (best >= 0)
		servers[best].current -= total;
	return best;
}

/* The finaliser of splitmix64. */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* The highest of -weight / ln(u), u the hash of key and server, in (0, 1): depends on nothing but
 * the server itself, and is proportional to its weight. */
static int rendezvous(const struct tw_balance_server *servers, uint32_t n, uint64_t key)
{
	double score, top = 0;
	int best = -1;
	uint32_t i;

	key = mix(key);
	for (i = 0; i < n; i++) {
		if (!may(&servers[i]))
			continue;
		score = (double)(mix(key ^ servers[i].identity) >> 11) + 0.5;
		score = -(double)servers[i].weight / log(score / 9007199254740992.0); /* 2^53 */
		if (best < 0 || score > top) {
			top = score;
			best = (int)i;
		}
	}
	return best;
}

int tw_balance_choose(uint32_t balance, struct tw_balance_server *servers, uint32_t n, uint64_t key)
{
	switch (balance) {
	case TW_BALANCE_LEAST:
		return least(servers, n);
	case TW_BALANCE_HASH:
		return rendezvous(servers, n, key);
	default:
		return round_robin(servers, n);
	}
}

uint64_t tw_balance_identity(const struct tw_endpoint_address *address)
{
	uint64_t half[2] = { 0 }, path = TW_ADDRESS_UNIX;

	if (address->family == TW_ADDRESS_UNIX) {
		for (const char *at = address->path; *at && at < address->path + TW_UNIX_LEN; at++)
			path = mix(path ^ (uint8_t)*at);
		return path;
	}
	memcpy(half, address->bytes, address->family == 4 ? 4 : 16);
	return mix(mix(mix(half[0]) ^ half[1]) ^ (uint64_t)address->port << 32 ^ address->scope ^
	           (uint64_t)address->family << 56);
}
