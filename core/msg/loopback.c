/* SPDX-License-Identifier: BSD-3-Clause */
/* loopback.c - pairs of connected TCP sockets, made in a network namespace that has nothing but
 * them: no filter, route or listener of the host is involved. A thread lives there, and makes them
 * also when the others have given up the right to go there. */
#include "msg/transport.h"
#include "error.h"
#include "privilege.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define STACK_BYTES (128 << 10)
#define STRANGERS_MAX 16 /* connections of others to our port, in a namespace that is not ours */

enum order { ORDER_NONE, ORDER_PAIR, ORDER_END };

struct loopback {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum order order;
	int result, pair[2];
	int listener;
	struct sockaddr_in address;
};

static int lo_up(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc;

	if (fd < 0)
		return -errno;
	rc = ioctl(fd, SIOCGIFFLAGS, &request);
	request.ifr_flags |= IFF_UP;
	if (!rc)
		rc = ioctl(fd, SIOCSIFFLAGS, &request);
	rc = rc < 0 ? -errno : 0;
	close(fd);
	return rc;
}

static int listen_here(struct loopback *l)
{
	socklen_t len = sizeof(l->address);

	l->address = (struct sockaddr_in){ .sin_family = AF_INET,
		                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	l->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->listener < 0 || bind(l->listener, (struct sockaddr *)&l->address, len) < 0 ||
	    listen(l->listener, STRANGERS_MAX) < 0 ||
	    getsockname(l->listener, (struct sockaddr *)&l->address, &len) < 0)
		return tw_fail(errno, "no TCP socket on 127.0.0.1: %s", strerror(errno));
	return 0;
}

/* Who has connected may be somebody else when the namespace is the host's. */
static int accept_from(struct loopback *l, const struct sockaddr_in *whom)
{
	for (int i = 0; i < STRANGERS_MAX; i++) {
		struct sockaddr_in peer;
		socklen_t len = sizeof(peer);
		int fd = accept4(l->listener, (struct sockaddr *)&peer, &len,
		                 SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return -errno;
		if (peer.sin_port == whom->sin_port &&
		    peer.sin_addr.s_addr == whom->sin_addr.s_addr)
			return fd;
		close(fd);
	}
	return -EBUSY;
}

static int make_pair(struct loopback *l, int pair[2])
{
	struct sockaddr_in own;
	socklen_t len = sizeof(own);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	if (fd < 0 || connect(fd, (struct sockaddr *)&l->address, sizeof(l->address)) < 0 ||
	    getsockname(fd, (struct sockaddr *)&own, &len) < 0) {
		rc = -errno;
		goto out;
	}
	rc = accept_from(l, &own);
	if (rc < 0)
		goto out;
	pair[0] = fd;
	pair[1] = rc;
	return 0;
out:
	if (fd >= 0)
		close(fd);
	return tw_fail(-rc, "no pair of TCP sockets on 127.0.0.1: %s%s", strerror(-rc),
	               rc == -EMFILE ? "; ulimit -n?" : "");
}

static void *live(void *arg)
{
	struct loopback *l = arg;
	int rc = 0;

	/* Without CAP_SYS_ADMIN the host's own loopback must do. */
	if (unshare(CLONE_NEWNET) == 0)
		rc = lo_up();
	if (!rc)
		rc = listen_here(l);
	else
		tw_fail(-rc, "lo cannot be set up in a new network namespace: %s", strerror(-rc));
	pthread_mutex_lock(&l->lock);
	for (;;) {
		l->result = rc;
		l->order = ORDER_NONE;
		pthread_cond_broadcast(&l->changed);
		while (l->order == ORDER_NONE)
			pthread_cond_wait(&l->changed, &l->lock);
		if (l->order == ORDER_END)
			break;
		rc = make_pair(l, l->pair);
	}
	pthread_mutex_unlock(&l->lock);
	if (l->listener >= 0)
		close(l->listener);
	return NULL;
}

/* The error sentence is the other thread's: a general one here. */
static int ask(struct loopback *l, enum order order)
{
	int rc;

	pthread_mutex_lock(&l->lock);
	l->order = order;
	pthread_cond_broadcast(&l->changed);
	while (l->order == order)
		pthread_cond_wait(&l->changed, &l->lock);
	rc = l->result;
	pthread_mutex_unlock(&l->lock);
	return rc < 0 ? tw_fail(-rc, "no pair of TCP sockets on a loopback: %s%s", strerror(-rc),
	                        rc == -EMFILE ? "; ulimit -n?" : "")
	              : 0;
}

int loopback_new(struct loopback **out)
{
	struct loopback *l = calloc(1, sizeof(*l));
	sigset_t block, before;
	pthread_attr_t attr;
	int rc;

	*out = NULL;
	if (!l)
		return tw_fail(ENOMEM, "no memory for a loopback");
	l->listener = -1;
	l->order = ORDER_PAIR; /* until the thread is ready */
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&block);
	sigdelset(&block, TW_PRIVILEGE_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &block, &before);
	rc = pthread_create(&l->thread, &attr, live, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (rc) {
		free(l);
		return tw_fail(rc, "no thread for a loopback: %s", strerror(rc));
	}
	pthread_mutex_lock(&l->lock);
	while (l->order != ORDER_NONE)
		pthread_cond_wait(&l->changed, &l->lock);
	rc = l->result;
	pthread_mutex_unlock(&l->lock);
	if (rc) {
		loopback_free(l);
		return tw_fail(-rc, "no loopback for descriptors: %s", strerror(-rc));
	}
	*out = l;
	return 0;
}

int loopback_pair(struct loopback *l, int pair[2])
{
	int rc = ask(l, ORDER_PAIR);

	if (!rc)
		memcpy(pair, l->pair, sizeof(l->pair));
	return rc;
}

void loopback_free(struct loopback *l)
{
	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	l->order = ORDER_END;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	pthread_join(l->thread, NULL);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l);
}
