/* SPDX-License-Identifier: BSD-3-Clause */
/* sock.h - where a connection's bytes come from and go to: the place for TLS. There is one kind
 * now, a plain socket. Another kind reads and writes the same descriptor in its own way; the
 * protocol above it (HTTP/1.1 in client.c; HTTP/2 would be another file beside it, chosen by what
 * the handshake agreed on) knows nothing of that. */
#pragma once
#include "gate/gate.h"

#include <sys/uio.h>

struct sock;

struct sock_ops {
	const char *name;
	/* Bytes read; 0: the end; -EAGAIN: none now; another -errno: the connection is broken. */
	ssize_t (*read)(struct gate *gate, struct sock *sock, void *to, size_t size);
	/* Bytes taken, fewer than there are when no more fit; -EAGAIN; -errno. */
	ssize_t (*write)(struct gate *gate, struct sock *sock, const struct iovec *iov, int n);
	/* Nothing more will be written. */
	void (*shut)(struct gate *gate, struct sock *sock);
	/* What was received lies here and not in the kernel: no event will come for it. */
	bool (*pending)(const struct sock *sock);
};

struct sock {
	struct gate_source source;
	const struct sock_ops *ops;
};

extern const struct sock_ops sock_plain;

/* An address as the kernel wants it; its length. */
socklen_t sock_address(const struct tw_endpoint_address *address, struct sockaddr_storage *to);

/* A non-blocking socket (SOCK_STREAM or SOCK_DGRAM) on its way there: 0: open already,
 * -EINPROGRESS: it will be writable; else no descriptor is left, and a sentence. -EAGAIN: the queue
 * of a socket in the file system is full, and no event will tell when it is not. `asks`: how often
 * it is looked whether it is open. */
int sock_connect(const struct tw_endpoint_address *address, int type, unsigned asks, int *fd);
/* When to ask again whose queue was full: less and less often. */
static inline uint64_t sock_knock(uint64_t now, uint8_t *knocks)
{
	uint64_t ms = 1u << *knocks;

	if (*knocks < 5)
		++*knocks;
	return now + ms * 1000000;
}

/* recv() and sendmsg() of sockets that do not block, without what the C library does around them
 * for threads that can be cancelled (ours cannot). Bytes, -EAGAIN (also when a signal came),
 * -errno. */
ssize_t sock_recv(struct gate *gate, int fd, void *to, size_t size);
ssize_t sock_send(struct gate *gate, int fd, const struct iovec *iov, unsigned n);
