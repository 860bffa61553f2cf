/* SPDX-License-Identifier: BSD-3-Clause */
/* calls.c - which system calls are left to a running engine, to workers, and to the C compiler. */
#include "abi.h"
#include "error.h"
#include "privilege.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sched.h>
#include <seccomp.h>

#ifndef AF_XDP
#define AF_XDP 44
#endif

/* What an engine does while it runs, in groups. What is not here, and what has no name on this
 * machine, gets EPERM: to run programs, to trace, to mount, to load modules, to change ids, ... */
static const char running[] =
	/* memory; machine code of LuaJIT and of compiled chains needs executable pages */
	"mmap munmap mprotect mremap madvise msync mincore brk mlock mlock2 mlockall "
	"munlock munlockall memfd_create mbind get_mempolicy set_mempolicy membarrier "
	"pkey_alloc pkey_mprotect pkey_free "
	/* threads and time */
	"futex futex_waitv set_robust_list get_robust_list rseq set_tid_address gettid "
	"exit exit_group arch_prctl sched_yield sched_setaffinity sched_getaffinity "
	"sched_getparam sched_getscheduler sched_setscheduler sched_get_priority_max "
	"sched_get_priority_min getcpu setpriority getpriority nanosleep "
	"clock_nanosleep clock_gettime clock_getres gettimeofday time times getrusage "
	"alarm setitimer getitimer timer_create timer_settime timer_gettime "
	"timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_gettime "
	"restart_syscall getrandom "
	/* signals */
	"rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait "
	"rt_sigsuspend sigaltstack signalfd signalfd4 pause "
	/* descriptors */
	"read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 "
	"close close_range dup dup2 dup3 fcntl ioctl lseek poll ppoll select pselect6 "
	"epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 "
	"eventfd eventfd2 pipe pipe2 splice tee vmsplice sendfile copy_file_range "
	"inotify_init inotify_init1 inotify_add_watch inotify_rm_watch "
	/* files */
	"open openat openat2 creat stat fstat lstat newfstatat statx statfs fstatfs "
	"access faccessat faccessat2 getdents getdents64 readlink readlinkat getcwd "
	"chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 "
	"link linkat symlink symlinkat chmod fchmod fchmodat chown fchown lchown "
	"fchownat umask truncate ftruncate fallocate fsync fdatasync sync_file_range "
	"utimensat futimesat utime utimes flock fadvise64 getxattr fgetxattr "
	/* sockets, of the families below */
	"socketpair bind connect listen accept accept4 getsockname getpeername "
	"setsockopt getsockopt shutdown sendto recvfrom sendmsg recvmsg sendmmsg "
	"recvmmsg "
	/* who am I, on what machine */
	"getpid getppid getpgrp getpgid getsid getuid geteuid getgid getegid getresuid "
	"getresgid getgroups capget uname sysinfo getrlimit setrlimit prlimit64 wait4 "
	"waitid ";

/* Of these, the ones with such arguments. */
struct argument {
	const char *call;
	unsigned index;
	uint64_t value;
};

static const struct argument arguments[] = {
	/* threads may be made, processes not */
	{ "clone", 0, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD },
	{ "prctl", 0, PR_SET_NAME },
	{ "prctl", 0, PR_GET_NAME },
	{ "prctl", 0, PR_SET_TIMERSLACK },
	{ "prctl", 0, PR_SET_VMA },
	{ "prctl", 0, PR_GET_DUMPABLE },
	{ "prctl", 0, PR_CAPBSET_READ },
	{ "prctl", 0, PR_GET_NO_NEW_PRIVS },
	{ "socket", 0, AF_UNIX },
	{ "socket", 0, AF_INET },
	{ "socket", 0, AF_INET6 },
	{ "socket", 0, AF_NETLINK },
	{ "kill", 1, 0 }, /* is it alive? */
};

/* Of those that are allowed, arguments that are not: keystrokes into the terminal it came from. */
static const struct argument refused[] = {
	{ "ioctl", 1, TIOCSTI },
	{ "ioctl", 1, 0x541c }, /* TIOCLINUX */
	{ "ioctl", 1, TIOCSETD },
};

/* What a worker does: it computes, waits, and moves descriptors over sockets that it has. */
static const char working[] =
	"mmap munmap mprotect mremap madvise brk membarrier futex set_robust_list rseq gettid "
	"exit exit_group sched_yield sched_getaffinity getcpu nanosleep clock_nanosleep clock_gettime "
	"clock_getres gettimeofday time times getrusage restart_syscall getrandom "
	"rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack "
	"read write readv writev recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg getsockopt "
	"close poll ppoll epoll_wait epoll_pwait epoll_pwait2 fstat "
	"getpid getppid getuid geteuid getgid getegid ";

/* While it is built, before any of its function's code runs: modules are files. */
static const char building[] =
	"open openat stat lstat newfstatat statx access faccessat faccessat2 "
	"readlink readlinkat getcwd lseek pread64 fcntl getdents64 setrlimit "
	"prlimit64 epoll_create1 epoll_ctl eventfd2 seccomp get_robust_list ";

/* Also then: what the next filter needs. Not to live on when the helper has ended. */
static const struct argument next_filter = { "prctl", 0, PR_SET_NO_NEW_PRIVS };

/* What no compiler does. */
static const char not_compiling[] =
	"socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg "
	"ptrace process_vm_readv process_vm_writev bpf mount umount2 pivot_root "
	"move_mount open_tree fsopen fsconfig fsmount mount_setattr unshare setns "
	"chroot keyctl add_key request_key userfaultfd perf_event_open io_uring_setup "
	"io_uring_enter io_uring_register kexec_load kexec_file_load init_module "
	"finit_module delete_module open_by_handle_at pidfd_open pidfd_getfd "
	"pidfd_send_signal reboot swapon swapoff mknod mknodat quotactl fanotify_init "
	"lookup_dcookie ";

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static uint32_t calls_left;

/* A rule for a call by its name. One that this architecture does not have cannot be made. */
static int call_rule(scmp_filter_ctx filter, uint32_t action, const char *name)
{
	int number = seccomp_syscall_resolve_name(name);

	if (number == __NR_SCMP_ERROR || number < 0)
		return 0;
	calls_left += action == SCMP_ACT_ALLOW;
	return seccomp_rule_add(filter, action, number, 0);
}

/* The same for names in a text, each with a space behind it. */
static int call_rules(scmp_filter_ctx filter, uint32_t action, const char *names)
{
	char name[32];
	int len, rc = 0;

	while (rc == 0 && sscanf(names, "%31s %n", name, &len) == 1) {
		rc = call_rule(filter, action, name);
		names += len;
	}
	return rc;
}

static int argument_rule(scmp_filter_ctx filter, uint32_t action, const struct argument *a)
{
	int number = seccomp_syscall_resolve_name(a->call);
	/* Flags of which all must be there, or a whole number of 32 bits. */
	uint64_t mask = a->value && !strcmp(a->call, "clone") ? a->value : 0xffffffff;

	if (number == __NR_SCMP_ERROR || number < 0)
		return 0;
	return seccomp_rule_add(filter, action, number, 1,
	                        SCMP_CMP(a->index, SCMP_CMP_MASKED_EQ, mask, a->value));
}

/* All threads; what is refused is in the kernel's audit log; no slower memory accesses, which
 * kernels before 5.16 would give a process with a filter; nothing of 32-bit calls. */
static int filter_load(scmp_filter_ctx filter)
{
	int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);

	if (rc == 0)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM));
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	return rc ? rc : seccomp_load(filter);
}

static int rules_of_engine(scmp_filter_ctx filter, uint32_t calls)
{
	static const struct argument own[] = { { "tgkill", 0, 0 }, { "kill", 0, 0 } };
	static const struct argument ports[] = { { "socket", 0, AF_PACKET },
		                                 { "socket", 0, AF_XDP } };
	int rc = 0, clone3 = seccomp_syscall_resolve_name("clone3");

	calls_left = 0;
	rc = call_rules(filter, SCMP_ACT_ALLOW, running);
	for (unsigned i = 0; rc == 0 && i < COUNT(arguments); i++)
		rc = argument_rule(filter, SCMP_ACT_ALLOW, &arguments[i]);
	for (unsigned i = 0; rc == 0 && i < COUNT(own); i++) {
		struct argument a = own[i];

		a.value = getpid();
		rc = argument_rule(filter, SCMP_ACT_ALLOW, &a);
	}
	for (unsigned i = 0; rc == 0 && calls & TW_CALLS_OPEN && i < COUNT(ports); i++)
		rc = argument_rule(filter, SCMP_ACT_ALLOW, &ports[i]);
	if (rc == 0 && calls & TW_CALLS_BPF)
		rc = call_rule(filter, SCMP_ACT_ALLOW, "bpf");
	/* Its flags are in memory, where a filter does not look; the C library then takes clone. */
	if (rc == 0 && clone3 >= 0)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), clone3, 0);
	return rc;
}

/* A filter of rules, which is loaded: everything else is `otherwise`. */
static int filter_with(uint32_t otherwise, int (*rules)(scmp_filter_ctx, uint32_t), uint32_t calls)
{
	scmp_filter_ctx filter = seccomp_init(otherwise);
	int rc = filter ? rules(filter, calls) : -ENOMEM;

	if (rc == 0)
		rc = filter_load(filter);
	if (filter)
		seccomp_release(filter);
	if (rc < 0)
		return tw_fail(-rc,
		               "system calls cannot be filtered: %s; the kernel needs "
		               "CONFIG_SECCOMP_FILTER",
		               strerror(-rc));
	return 0;
}

static int rules_refused(scmp_filter_ctx filter, uint32_t calls)
{
	int rc = 0;

	(void)calls;
	for (unsigned i = 0; rc == 0 && i < COUNT(refused); i++)
		rc = argument_rule(filter, SCMP_ACT_ERRNO(EPERM), &refused[i]);
	return rc;
}

static int rules_of_compiler(scmp_filter_ctx filter, uint32_t calls)
{
	(void)calls;
	return call_rules(filter, SCMP_ACT_ERRNO(EPERM), not_compiling);
}

static int rules_of_worker(scmp_filter_ctx filter, uint32_t calls)
{
	int rc = call_rules(filter, SCMP_ACT_ALLOW, working);

	if (rc == 0 && calls)
		rc = call_rules(filter, SCMP_ACT_ALLOW, building);
	if (rc == 0 && calls)
		rc = argument_rule(filter, SCMP_ACT_ALLOW, &next_filter);
	return rc;
}

int tw_calls_of_worker(bool built)
{
	return filter_with(SCMP_ACT_ERRNO(EPERM), rules_of_worker, !built);
}

int tw_calls_of_compiler(void)
{
	return filter_with(SCMP_ACT_ALLOW, rules_of_compiler, 0);
}

int tw_calls_of_engine(uint32_t calls)
{
	int rc = filter_with(SCMP_ACT_ALLOW, rules_refused, 0);

	return rc < 0 ? rc : filter_with(SCMP_ACT_ERRNO(EPERM), rules_of_engine, calls);
}

uint32_t tw_privileges_calls(void)
{
	return calls_left;
}
