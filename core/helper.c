/* SPDX-License-Identifier: BSD-3-Clause */
/* helper.c - the helper process: does for an engine without rights what needs some, and nothing
 * else. It starts before the engine gives up its rights, and ends with it, however that ends.
 *
 * It compiles C text (helper_compile.c), starts and ends workers under user ids of their own
 * (helper_worker.c), and opens BPF objects by their ids, which the kernel grants to CAP_SYS_ADMIN
 * only. Nothing in here waits for anything but its sockets and its children.
 */
#include "abi.h"
#include "passing.h"
#include "helper.h"
#include "privilege.h"
#include "bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/capability.h>

#define WAITING_MAX 16

#define CAP(name) (1ull << (name))

/* BPF objects by id; who holds them; a compiler under a user id of its own, its files, its end;
 * workers under ids of their own, on other CPUs than before. */
#define CAPABILITIES                                                                    \
	(CAP(CAP_SYS_ADMIN) | CAP(CAP_SYS_PTRACE) | CAP(CAP_SETUID) | CAP(CAP_SETGID) | \
	 CAP(CAP_CHOWN) | CAP(CAP_DAC_OVERRIDE) | CAP(CAP_KILL) | CAP(CAP_SYS_NICE))

struct waiting {
	uint32_t id;
	int text;
	cpu_set_t cpus;
};

static struct waiting waiting[WAITING_MAX]; /* compilations, the first one next */
static unsigned n_waiting;
static uint32_t compiling; /* id, while one runs */
static bool busy;
static int engine; /* pid */

/* False when the engine has gone. */
static bool reply(const struct tw_helper_reply *reply, int fd)
{
	return tw_pass(TW_HELPER_SOCKET, reply, sizeof(*reply), &fd, fd >= 0, 0) >= 0;
}

static void say(uint32_t id, int status, const char *words)
{
	struct tw_helper_reply r = { .id = id, .status = status };

	snprintf(r.words, sizeof(r.words), "%s", words);
	reply(&r, -1);
}

/* ---- compilations, one after the other ---- */

static void take_waiting(unsigned i)
{
	n_waiting--;
	memmove(&waiting[i], &waiting[i + 1], (n_waiting - i) * sizeof(waiting[0]));
}

static void compile_next(void)
{
	while (!busy && n_waiting) {
		struct waiting next = waiting[0];
		int rc;

		take_waiting(0);
		rc = tw_compile_begin(next.text, &next.cpus, engine);
		close(next.text);
		if (rc < 0) {
			say(next.id, rc, tw_error());
			continue;
		}
		busy = true;
		compiling = next.id;
	}
}

static void compile_ended(void)
{
	struct tw_helper_reply r = { .id = compiling };
	int library;

	if (!busy || !tw_compile_ended(&library, &r))
		return;
	busy = false;
	reply(&r, library);
	if (library >= 0)
		close(library);
}

static void compile(const struct tw_helper_request *request, int text)
{
	if (text < 0 || n_waiting == WAITING_MAX) {
		say(request->id, -EAGAIN, "too many chains wait for the C compiler");
		if (text >= 0)
			close(text);
		return;
	}
	waiting[n_waiting++] = (struct waiting){ request->id, text, request->cpus };
}

static void cancel(uint32_t id)
{
	if (busy && compiling == id) {
		tw_compile_stop();
		busy = false;
		return;
	}
	for (unsigned i = 0; i < n_waiting; i++) {
		if (waiting[i].id == id) {
			close(waiting[i].text);
			take_waiting(i);
			return;
		}
	}
}

/* ---- requests ---- */

static void bpf_by_id(const struct tw_helper_request *request)
{
	struct tw_helper_reply r = { .id = request->id };
	int fd = tw_bpf_id_open(request->command, request->argument);

	r.status = fd < 0 ? fd : 0;
	reply(&r, fd);
	if (fd >= 0)
		close(fd);
}

/* False when the engine has gone. */
static bool serve(void)
{
	struct tw_helper_request request;
	int fd;
	ssize_t n = tw_passed(TW_HELPER_SOCKET, &request, sizeof(request), &fd, 1, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n != sizeof(request))
		return n > 0;
	if (request.op == TW_HELPER_COMPILE) {
		compile(&request, fd);
		return true;
	}
	if (request.op == TW_HELPER_WORKERS && fd >= 0) {
		tw_spawn_channel(fd);
		say(request.id, 0, "");
		return true;
	}
	if (fd >= 0)
		close(fd);
	if (request.op == TW_HELPER_CANCEL)
		cancel(request.id);
	else if (request.op == TW_HELPER_BPF_ID)
		bpf_by_id(&request);
	else if (request.op == TW_HELPER_NEXT_LINK)
		say(request.id, tw_bpf_id_next_link(request.argument), "");
	else if (request.op == TW_HELPER_HOLDER)
		say(request.id, tw_bpf_holder(request.argument), "");
	else
		say(request.id, -ENOSYS, "no such request");
	return true;
}

/* ---- the process ---- */

/* Signals that end it or tell of its compiler are read from a descriptor. */
static int signals(void)
{
	sigset_t ours, all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigemptyset(&ours);
	sigaddset(&ours, SIGCHLD);
	sigaddset(&ours, SIGTERM);
	return signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Without a terminal and its signals, but in the engine's session. With one of their own, workers
 * would be a group of their own to the scheduler (autogroup, sched(7)): a gate thread that yields
 * for them goes on itself then, until it has used up a slice, and they wait for seconds beside it.
 */
static void leave_terminal(void)
{
	int tty;

	setpgid(0, 0);
	tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (tty < 0)
		return; /* there is none */
	ioctl(tty, TIOCNOTTY);
	close(tty);
}

/* An engine that is killed closes its end of the socket; the signal is for the case that a child
 * of it, or a debugger, holds that end. */
static int settle(void)
{
	struct rlimit no_core = { 0, 0 };

	engine = getppid();
	prctl(PR_SET_NAME, TW_HELPER_NAME);
	close_range(TW_HELPER_SOCKET + 1, ~0u, 0);
	leave_terminal();
	if (chdir("/") < 0)
		return -errno;
	setrlimit(RLIMIT_CORE, &no_core);
	if (tw_capabilities_keep(CAPABILITIES) < 0)
		return -EPERM;
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	return getppid() == engine ? 0 : -ESRCH;
}

/* Milliseconds until something is due, -1: nothing. */
static int patience(void)
{
	int compiler = tw_compile_patience(), spare = spare_patience();

	return spare < 0 || (compiler >= 0 && compiler < spare) ? compiler : spare;
}

int tw_helper_main(void)
{
	struct pollfd set[3] = { { .fd = TW_HELPER_SOCKET, .events = POLLIN },
		                 { .events = POLLIN },
		                 { .events = POLLIN } };
	struct signalfd_siginfo info;
	bool stop = settle() < 0;

	set[1].fd = signals();
	while (!stop && set[1].fd >= 0) {
		compile_ended();
		compile_next();
		set[2].fd = tw_spawn_fd();
		set[2].revents = 0;
		if (poll(set, 3, patience()) < 0 && errno != EINTR)
			break;
		if (set[2].revents)
			tw_spawn_serve();
		if (set[0].revents)
			stop = !serve();
		while (read(set[1].fd, &info, sizeof(info)) == sizeof(info))
			stop |= info.ssi_signo == SIGTERM;
		tw_spawn_reap();
		spare_due();
	}
	tw_spawn_stop();
	tw_compile_stop();
	return 0;
}
