/* SPDX-License-Identifier: BSD-3-Clause */
/* sk_msg.h - the two halves of the sk_msg transport: the engine's, which needs libbpf, and the
 * members', which need nothing but their socket. */
#pragma once
#include "msg/transport.h"

int sk_msg_open(struct tw_link *link, const struct tw_join *join, const int *fds);
void sk_msg_close(struct tw_link *link);
int sk_msg_send(struct tw_link *link, struct tw_desc *desc, unsigned n);
int sk_msg_receive(struct tw_link *link, struct tw_desc *desc, unsigned max);
bool sk_msg_ready(struct tw_link *link);
