/* SPDX-License-Identifier: BSD-3-Clause */
/* passing.c - messages over a socket of this machine, descriptors along with them (SCM_RIGHTS). */
#include "passing.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

ssize_t tw_pass(int sock, const void *what, size_t size, const int *fds, unsigned n, int flags)
{
	char room[CMSG_SPACE(sizeof(int) * TW_PASS_MOST)] = { 0 };
	struct iovec iov = { (void *)what, size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n > TW_PASS_MOST) {
		errno = EINVAL;
		return -1;
	}
	if (n) {
		struct cmsghdr *c;

		msg.msg_control = room;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	return sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
}

ssize_t tw_passed(int sock, void *what, size_t size, int *fds, unsigned most, int flags)
{
	char room[CMSG_SPACE(sizeof(int) * TW_PASS_MOST)];
	struct iovec iov = { what, size }; /* cppcheck-suppress ctuuninitvar */
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = room,
		              .msg_controllen = sizeof(room) };
	ssize_t n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	unsigned count = 0;
	struct cmsghdr *c;

	for (unsigned i = 0; i < most; i++)
		fds[i] = -1;
	c = n >= 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (unsigned i = 0; i < count; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
		if (i < most)
			fds[i] = fd;
		else
			close(fd);
	}
	return n;
}
