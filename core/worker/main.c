/* SPDX-License-Identifier: BSD-3-Clause */
/* main.c - a worker process from its start to its loop: what it may do gets less at every step.
 *
 * The engine's Lua files are read first, with the rights of who started it; then it waits until it
 * is needed, which may be at once; then it becomes another user without any; then it hears what it
 * is to run. What comes from users is touched only from there on.
 */
#include "abi.h"
#include "error.h"
#include "privilege.h"
#include "worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static struct worker worker = { .blob = -1, .sock = -1 };

static int attach(struct worker *w)
{
	struct tw_worker *shared = &w->shared;
	const struct tw_join *join = &w->join;
	int rc;

	if (join->abi != TW_ABI_VERSION || join->n_fds < 2)
		return tw_fail(EPROTO, "an engine with ABI %u does not fit this worker with ABI %d",
		               join->abi, TW_ABI_VERSION);
	rc = tw_pool_attach(&shared->pool, w->join_fds[0], w->join_fds[1], join->readonly);
	if (rc < 0)
		return rc;
	shared->member = join->member;
	shared->function = join->function;
	shared->instance = join->instance;
	shared->readonly = join->readonly;
	shared->board = tw_pool_board(shared->pool, join->member);
	return tw_link_open(&w->link, join, w->join_fds, shared->pool);
}

/* What a process of somebody else's words is left with. */
static int shut_in(struct worker *w)
{
	int rc = tw_calls_of_worker(false);

	if (rc == 0)
		rc = worker_limits(w);
	if (rc == 0)
		rc = worker_vm_build(w);
	return rc < 0 ? rc : tw_calls_of_worker(true);
}

int tw_worker_main(int argc, char **argv)
{
	struct worker *w = &worker;
	uint32_t uid;
	int rc;

	if (argc != 3)
		return TW_WORKER_NOT_STARTED;
	prctl(PR_SET_NAME, TW_WORKER_SPARE);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_IGN); /* the engine says when it is time */
	rc = worker_vm_open(w);
	clearenv(); /* the engine's, not a function's */
	if (read(TW_WORKER_GO, &uid, sizeof(uid)) != sizeof(uid))
		return TW_WORKER_NOT_STARTED; /* nobody needs it any more */
	close(TW_WORKER_GO);
	prctl(PR_SET_NAME, TW_WORKER_NAME);
	if (rc == 0)
		rc = worker_become(uid, atoi(argv[2]));
	if (rc == -ESRCH || worker_connect(w, argv[1]) < 0)
		return TW_WORKER_NOT_STARTED; /* there is nobody to tell */
	if (rc == 0)
		rc = worker_told(w);
	if (rc == 0)
		rc = attach(w);
	if (rc == 0)
		rc = shut_in(w);
	if (rc < 0) {
		worker_said(w, TW_SAID_FAILED, tw_error());
		return TW_WORKER_REFUSED;
	}
	worker_said(w, TW_SAID_READY, "");
	return worker_loop(w);
}
