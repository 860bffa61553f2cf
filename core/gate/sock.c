/* SPDX-License-Identifier: BSD-3-Clause */
/* sock.c - plain sockets. */
#include "gate/sock.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static ssize_t plain_read(struct gate *gate, struct sock *sock, void *to, size_t size)
{
	ssize_t n = recv(sock->source.fd, to, size, 0);

	gate_count(gate, GATE_SYSCALLS, 1);
	return n < 0 ? (errno == EINTR ? -EAGAIN : -errno) : n;
}

static ssize_t plain_write(struct gate *gate, struct sock *sock, const struct iovec *iov, int n)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n };
	ssize_t sent = sendmsg(sock->source.fd, &msg, MSG_NOSIGNAL);

	gate_count(gate, GATE_SYSCALLS, 1);
	return sent < 0 ? (errno == EINTR ? -EAGAIN : -errno) : sent;
}

static void plain_shut(struct gate *gate, struct sock *sock)
{
	gate_count(gate, GATE_SYSCALLS, 1);
	shutdown(sock->source.fd, SHUT_WR);
}

static bool plain_pending(const struct sock *sock)
{
	(void)sock;
	return false;
}

const struct sock_ops sock_plain = {
	.name = "plain",
	.read = plain_read,
	.write = plain_write,
	.shut = plain_shut,
	.pending = plain_pending,
};
