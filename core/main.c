/* SPDX-License-Identifier: BSD-3-Clause */
/* main.c - starts the control VM and hands the command line to tideway.cli. */
#include "abi.h"
#include "helper.h"
#include "supervisor.h"
#include "vm.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>

static volatile sig_atomic_t stop_signal;
static volatile sig_atomic_t attentive; /* the engine looks at stop_signal by itself */
static int wake[2] = { -1, -1 };
static lua_State *control;

static void stop_script(lua_State *L, lua_Debug *ar)
{
	(void)ar;
	lua_sethook(L, NULL, 0, 0);
	luaL_error(L, "stopped by signal %d", (int)stop_signal);
}

/* The first signal asks for a clean stop: of the engine, or of a script that does not come to its
 * end. The second one ends the process at once. */
static void on_stop(int sig)
{
	int saved = errno;

	if (stop_signal) {
		signal(sig, SIG_DFL);
		raise(sig);
		return;
	}
	stop_signal = sig;
	if (!attentive) {
		/* Compiled code sees no hook: then the process ends a second later. */
		lua_sethook(control, stop_script, LUA_MASKCOUNT, 1);
		alarm(1);
	}
	if (write(wake[1], "", 1) < 0) {
		/* full: the control thread wakes anyway */
	}
	errno = saved;
}

#define WAIT_MAX 64

int tw_signal_pending(void)
{
	return stop_signal;
}

int tw_wait(const int *fds, uint32_t count, uint32_t ms)
{
	struct pollfd set[1 + WAIT_MAX] = { { .fd = wake[0], .events = POLLIN } };
	char buf[16];
	int ready;

	attentive = 1;
	alarm(0);
	if (stop_signal)
		return 1;
	for (uint32_t i = 0; i < count && i < WAIT_MAX; i++)
		set[1 + i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	ready = poll(set, 1 + (count < WAIT_MAX ? count : WAIT_MAX), (int)ms);
	if (set[0].revents && read(wake[0], buf, sizeof(buf)) < 0) {
		/* nothing to do: the flag tells */
	}
	if (stop_signal)
		return 1;
	return ready > 0 && !set[0].revents ? 2 : 0;
}

int tw_sleep_ms(uint32_t ms)
{
	return tw_wait(NULL, 0, ms);
}

static int traceback(lua_State *L)
{
	if (lua_isstring(L, 1))
		luaL_traceback(L, L, lua_tostring(L, 1), 1);
	return 1;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_stop };
	lua_State *L;
	int code = 1;

	if (argc == 1 && !strcmp(argv[0], TW_HELPER_NAME))
		return tw_helper_main();
	if (argc && !strcmp(argv[0], TW_WORKER_NAME))
		return tw_worker_main(argc, argv);
	L = tw_vm_control();
	control = L;
	if (!L) {
		fprintf(stderr, "tideway: %s\n", tw_error());
		return 1;
	}
	if (pipe2(wake, O_CLOEXEC | O_NONBLOCK) < 0) {
		perror("tideway: pipe");
		return 1;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	lua_pushcfunction(L, traceback);
	lua_getglobal(L, "require");
	lua_pushliteral(L, "tideway.cli");
	if (lua_pcall(L, 1, 1, 1) != 0)
		goto out;
	lua_getfield(L, -1, "main");
	lua_createtable(L, argc, 0);
	for (int i = 0; i < argc; i++) {
		lua_pushstring(L, argv[i]);
		lua_rawseti(L, -2, i);
	}
	if (lua_pcall(L, 1, 1, 1) == 0) {
		code = (int)lua_tointeger(L, -1);
		lua_pop(L, 1);
	}
out:
	if (lua_isstring(L, -1))
		fprintf(stderr, "tideway: internal error: %s\n", lua_tostring(L, -1));
	/* Finalizers of the VM free tables: when no lcore runs, and before everything is taken
	 * down. */
	tw_supervisor_stop();
	tw_engine_stop();
	lua_close(L);
	tw_engine_close();
	tw_stats_close();
	return code;
}
