/* SPDX-License-Identifier: BSD-3-Clause */
/* proxy.h - the PROXY protocol, versions 1 and 2 (haproxy's doc/proxy-protocol.txt), for listeners
 * and connections to servers. The facts and what they mean: abi_proxy.h. */
#pragma once
#include "abi.h"

static inline int proxy_read(const uint8_t *bytes, size_t len, struct proxy_facts *out)
{
	return tw_proxy_read(bytes, len, out);
}

static inline int proxy_write(uint32_t version, const struct proxy_facts *facts, char *to,
                              size_t size)
{
	return tw_proxy_write(version, facts, to, size);
}
