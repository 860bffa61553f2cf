/* SPDX-License-Identifier: BSD-3-Clause */
/* datagram_session.c - datagrams on their way to servers: a client that is new gets a server and a
 * socket; what comes back on it goes to the client. */
#include "gate/datagram.h"
#include "gate/lane.h"
#include "gate/sock.h"
#include "gate/upstream.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	BUCKETS = 1024,
	SESSIONS = 4096, /* of a thread, when the listener does not say */
	IDLE_MS = 30000, /* likewise */
	ANSWERS = 8,     /* in a row of one session, before others have their turn */
	ASKED_MAX = 64,  /* exchanges that wait for answers of a session */
};

static uint32_t hash_of(const struct datagram_ends *ends, uint32_t group)
{
	const struct proxy_facts *f = &ends->facts;
	uint64_t h = 0x9e3779b97f4a7c15ull * (group + 1) ^ f->peer_port;
	uint64_t word[2];
	memcpy(word, f->peer, sizeof word);
	h = (h ^ word[0]) * 0xff51afd7ed558ccdull;
	h = (h ^ h >> 32 ^ word[1]) * 0xc4ceb9fe1a85ec53ull;
	return (uint32_t)(h >> 32);
}

static bool same_ends(const struct datagram_ends *a, const struct datagram_ends *b)
{
	return memcmp(&a->facts, &b->facts, sizeof a->facts) == 0;
}

/* ---- they come and go ---- */

static void session_close(struct session *s, const char *why)
{
	struct udp_port *port = s->port;
	struct session **at = &port->bucket[s->bucket];
	struct datagram *d;
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	TAILQ_REMOVE(&port->sessions, s, link);
	port->n_sessions--;
	gate_unwatch(port->gate, &s->source);
	close(s->source.fd);
	group_release(port->gate, s->group, s->choice.server, why ? why : s->answered ? NULL : "");
	while ((d = TAILQ_FIRST(&s->asked)))
		datagram_done(d);
	free(s);
}

void sessions_close(struct udp_port *port)
{
	struct session *s;
	while ((s = TAILQ_FIRST(&port->sessions)))
		session_close(s, NULL);
}

static void expire(struct gate *gate, struct gate_timer *timer)
{
	struct udp_port *port =
		(struct udp_port *)((char *)timer - offsetof(struct udp_port, expiry));
	struct session *s;
	while ((s = TAILQ_FIRST(&port->sessions)) && s->used + port->idle_ns <= gate->now)
		session_close(s, NULL);
	if (s)
		gate_timer_set(gate, timer, s->used + port->idle_ns);
	datagram_settle(port);
}

void session_change(struct udp_port *port, const struct tw_listener_spec *spec)
{
	uint32_t threads = gates_running();
	uint32_t most = spec->connections ? spec->connections / (threads ? threads : 1) : SESSIONS;
	port->max_sessions = most ? most : 1;
	port->idle_ns = (spec->idle_ms ? spec->idle_ms : IDLE_MS) * 1000000ull;
	port->expiry.fire = expire;
	if (!TAILQ_EMPTY(&port->sessions))
		gate_timer_set(port->gate, &port->expiry, port->gate->now + 1);
}

static void used(struct session *s)
{
	struct udp_port *port = s->port;
	s->used = port->gate->now;
	if (TAILQ_NEXT(s, link)) {
		TAILQ_REMOVE(&port->sessions, s, link);
		TAILQ_INSERT_TAIL(&port->sessions, s, link);
	}
}

/* ---- answers ---- */

static void to_client(struct session *s, const void *bytes, uint32_t len)
{
	uint8_t control[DATAGRAM_CONTROL] __attribute__((aligned(8)));
	struct gate *gate = s->port->gate;
	struct service *service = gate->service[s->port->service];
	struct iovec iov = { (void *)bytes, len };
	struct msghdr msg;
	datagram_header(&s->ends, &msg, control);
	msg.msg_iov = &iov;
	msg.msg_iovlen = 1;
	gate_count(gate, GATE_SYSCALLS, 1);
	if (sendmsg(s->port->source.fd, &msg, MSG_DONTWAIT) < 0)
		return; /* lost, as datagrams are */
	gate_count(gate, GATE_RESPONSES, 1);
	gate_count(gate, GATE_BYTES_OUT, len);
	if (service)
		tally_sent(service->lane[gate->id], len);
}

/* Functions look at it first: it is the response to what was asked first. False: nobody waits. */
static bool to_functions(struct session *s, const void *bytes, uint32_t len)
{
	struct datagram *d = TAILQ_FIRST(&s->asked);
	struct gate *gate = s->port->gate;
	struct tw_pool *pool = d ? d->x->service->pool : NULL;
	uint32_t head = (sizeof(struct tw_msg) + 63) & ~63u, size = 0;
	if (!d)
		return false;
	tw_handle block = tw_pool_new(pool, head + len, gate->id);
	struct tw_msg *msg = block ? tw_pool_block(pool, block, &size) : NULL;
	TAILQ_REMOVE(&s->asked, d, link);
	d->session = NULL;
	if (!msg) {
		gate_count(gate, GATE_NO_BLOCK, 1);
		datagram_done(d);
		return true;
	}
	l4_message(msg, gate, block, size, TW_MSG_RESPONSE, s->port->listener, &s->ends.facts);
	memcpy((uint8_t *)msg + head, bytes, len);
	gate_count(gate, GATE_COPIED, len);
	msg->used = head + len;
	msg->flags = TW_MSG_BODY | TW_MSG_BACKWARD;
	msg->body_len = len;
	msg->status = 200;
	msg->server = (uint16_t)s->choice.server;
	d->x->response = block;
	d->x->resp = msg;
	body_put(&d->x->out, &(struct body_piece){ .handle = block, .at = head, .len = len });
	body_end(&d->x->out);
	flow_answered(d->x);
	return true;
}

static void answers(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct session *s = (struct session *)source;
	uint8_t *room = ((struct datagrams *)gate->datagrams)->room;
	(void)events;
	for (int i = 0; i < ANSWERS; i++) {
		ssize_t n = recv(source->fd, room, DATAGRAM_MAX, MSG_DONTWAIT);
		gate_count(gate, GATE_SYSCALLS, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			struct udp_port *port = s->port;
			session_close(s, strerror(errno));
			datagram_settle(port);
			return;
		}
		gate_count(gate, GATE_UP_BYTES_IN, (uint64_t)n);
		s->answered = true;
		used(s);
		if (!to_functions(s, room, (uint32_t)n))
			to_client(s, room, (uint32_t)n);
	}
}

/* ---- a session is found, or made ---- */

static struct session *find(struct udp_port *port, const struct datagram_ends *ends, uint32_t group,
                            uint32_t hash)
{
	if (!port->bucket)
		return NULL;
	for (struct session *s = port->bucket[hash % BUCKETS]; s; s = s->next)
		if (s->hash == hash && s->group == group && same_ends(&s->ends, ends))
			return s;
	return NULL;
}

/* A descriptor, or -errno. */
static int open_socket(struct udp_port *port, const struct group_choice *choice)
{
	int fd, err = sock_connect(choice->address, SOCK_DGRAM, 1, &fd);
	if ((err == -EMFILE || err == -ENFILE) && !TAILQ_EMPTY(&port->sessions)) {
		session_close(TAILQ_FIRST(&port->sessions), NULL);
		err = sock_connect(choice->address, SOCK_DGRAM, 1, &fd);
	}
	return err ? err : fd;
}

static struct session *session_new(struct udp_port *port, const struct datagram_ends *ends,
                                   uint32_t group, uint32_t key, uint32_t hash)
{
	struct group_choice choice;
	struct session *s;
	if (!port->bucket && !(port->bucket = calloc(BUCKETS, sizeof *port->bucket)))
		return NULL;
	while (port->n_sessions >= port->max_sessions) {
		gate_count(port->gate, GATE_REFUSED, 1);
		session_close(TAILQ_FIRST(&port->sessions), NULL);
	}
	if (group_choose(port->gate, group, key, 0, &choice))
		return NULL;
	int fd = open_socket(port, &choice);
	s = fd >= 0 ? calloc(1, sizeof *s) : NULL;
	if (!s) {
		bool failed = fd < 0 && !server_is_shortage(-fd);
		group_release(port->gate, group, choice.server, failed ? strerror(-fd) : "");
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	*s = (struct session){ .source = { .fd = fd, .ready = answers },
		               .port = port,
		               .ends = *ends,
		               .choice = choice,
		               .group = group,
		               .hash = hash,
		               .bucket = hash % BUCKETS };
	TAILQ_INIT(&s->asked);
	s->next = port->bucket[s->bucket];
	port->bucket[s->bucket] = s;
	TAILQ_INSERT_TAIL(&port->sessions, s, link);
	if (port->n_sessions++ == 0)
		gate_timer_set(port->gate, &port->expiry, port->gate->now + port->idle_ns);
	gate_count(port->gate, GATE_UP_CONNECTIONS, 1);
	if (gate_watch(port->gate, &s->source, EPOLLIN)) {
		session_close(s, NULL);
		return NULL;
	}
	return s;
}

/* Do functions want to see what comes back? */
static bool looked_at(const struct service *service)
{
	for (uint32_t i = 0; i < service->spec.n_functions && i < TW_STAGES_MAX; i++)
		if (service->spec.function[i].takes & TW_TAKES_RESPONSE)
			return true;
	return false;
}

static ssize_t send_on(struct session *s, struct exchange *x)
{
	struct iovec iov[DATAGRAM_PIECES + 1];
	char header[TW_PROXY_WRITE_MAX];
	struct msghdr msg = { .msg_iov = iov };
	int n = datagram_pieces(x, &x->in, iov + 1), head = 0;
	errno = EINVAL;
	if (n < 0)
		return -1;
	if (s->choice.proxy)
		head = proxy_write(2, &s->ends.facts, header, sizeof header);
	iov[0] = (struct iovec){ header, head > 0 ? (size_t)head : 0 };
	msg.msg_iovlen = (size_t)n + 1;
	gate_count(x->gate, GATE_SYSCALLS, 1);
	return sendmsg(s->source.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void session_forward(struct datagram *d, uint32_t group, uint32_t key)
{
	struct udp_port *port = d->port;
	uint32_t hash = hash_of(&d->ends, group), waiting = 0;
	struct session *s = find(port, &d->ends, group, hash);
	struct datagram *other;
	if (!s)
		s = session_new(port, &d->ends, group, key, hash);
	if (!s) {
		datagram_done(d);
		datagram_settle(port);
		return;
	}
	used(s);
	ssize_t sent = send_on(s, d->x);
	if (sent >= 0)
		gate_count(port->gate, GATE_UP_BYTES_OUT, (uint64_t)sent);
	else if (errno == ECONNREFUSED || errno == EHOSTUNREACH || errno == ENETUNREACH) {
		/* Told of by an ICMP message about an earlier one: the next one goes elsewhere. */
		session_close(s, strerror(errno));
		datagram_done(d);
		datagram_settle(port);
		return;
	}
	if (sent >= 0 && looked_at(d->x->service)) {
		TAILQ_FOREACH (other, &s->asked, link)
			waiting++;
		if (waiting >= ASKED_MAX)
			datagram_done(TAILQ_FIRST(&s->asked));
		d->session = s;
		TAILQ_INSERT_TAIL(&s->asked, d, link);
		return;
	}
	/* It is counted as answered: nobody waits for what comes back. */
	d->x->status = 200;
	d->x->responded = sent >= 0;
	datagram_done(d);
	datagram_settle(port);
}
