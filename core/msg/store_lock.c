/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * store_lock.c - locks in memory that is shared with processes that nobody trusts.
 *
 * The robust mutexes of the C library keep pointers in the mutex, which it follows and writes
 * through: who can write to the memory could make the engine write anywhere. So the lock is a word
 * of the kernel's robust futex protocol and nothing else. While a thread has it, or is about to,
 * the word is noted in the thread's robust list as the operation that is pending; when the thread
 * dies, the kernel marks the word. No system call unless somebody waits.
 */
#include "msg/store_lock.h"
#include "abi.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPINS 200
#define PATIENCE_NS 300000000 /* a holder that the kernel took off its CPU is back by then */
#define DOUBT_NS 1000000      /* the wait before was in vain: whoever it is now */
#define LOOK_NS 20000000      /* how often a waiter looks itself */

static _Thread_local struct robust_list_head *robust;
static _Thread_local uint32_t thread_id;
static bool looks; /* may ask the kernel which processes there are */

/* Once per thread, and again in a child that was forked. */
static void introduce(void)
{
	size_t size;
	thread_id = (uint32_t)syscall(SYS_gettid);
	if (syscall(SYS_get_robust_list, 0, &robust, &size) != 0 || size != sizeof *robust)
		robust = NULL;
}

static void forget(void)
{
	thread_id = 0;
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forget);
}

void tw_store_lock_ready(bool engine)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, watch_forks);
	if (engine)
		looks = true;
	if (!thread_id)
		introduce();
}

static void note(uint32_t *word)
{
	if (!robust)
		return;
	robust->list_op_pending = word ? (struct robust_list *)((char *)word - robust->futex_offset)
	                               : NULL;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void rest(void)
{
#ifdef __x86_64__
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static int take(uint32_t *word, uint32_t *seen, uint32_t flags)
{
	uint32_t now = __atomic_load_n(word, __ATOMIC_RELAXED);
	*seen = now;
	if (now & FUTEX_TID_MASK && !(now & FUTEX_OWNER_DIED))
		return -EAGAIN;
	if (!__atomic_compare_exchange_n(word, &now, thread_id | (now & FUTEX_WAITERS) | flags,
	                                 false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return -EAGAIN;
	return now & FUTEX_OWNER_DIED ? -EOWNERDEAD : 0;
}

/* Somebody may have written a number of no thread into it. */
static bool holder_gone(uint32_t word)
{
	return looks && kill((pid_t)(word & FUTEX_TID_MASK), 0) != 0 && errno == ESRCH;
}

static int take_over(uint32_t *word, uint32_t seen)
{
	return __atomic_compare_exchange_n(word, &seen, thread_id | FUTEX_WAITERS, false,
	                                   __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)
	               ? -EOWNERDEAD
	               : -EBUSY;
}

static int wait_for(uint32_t *word, uint32_t *blocked)
{
	uint64_t begun = tw_now(), patience = *blocked ? DOUBT_NS : PATIENCE_NS;
	struct timespec look = { .tv_nsec = *blocked ? DOUBT_NS : LOOK_NS };
	uint32_t seen;
	for (;;) {
		int rc = take(word, &seen, FUTEX_WAITERS);
		if (rc != -EAGAIN)
			return rc;
		if (seen & FUTEX_TID_MASK && !(seen & FUTEX_WAITERS) &&
		    !__atomic_compare_exchange_n(word, &seen, seen | FUTEX_WAITERS, false,
		                                 __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			continue;
		if (tw_now() - begun > patience)
			break;
		if (seen & FUTEX_TID_MASK)
			syscall(SYS_futex, word, FUTEX_WAIT, seen | FUTEX_WAITERS, &look, NULL, 0);
	}
	if (holder_gone(seen))
		return take_over(word, seen | FUTEX_WAITERS);
	*blocked = seen & FUTEX_TID_MASK;
	return -EBUSY;
}

int tw_store_lock(uint32_t *word, uint32_t *blocked)
{
	uint32_t seen;
	int rc;
	if (!thread_id)
		introduce();
	note(word);
	rc = take(word, &seen, 0);
	for (int i = 0; rc == -EAGAIN && i < SPINS; i++) {
		rest();
		rc = take(word, &seen, 0);
	}
	if (rc == -EAGAIN)
		rc = *blocked && (seen & FUTEX_TID_MASK) == *blocked ? -EBUSY
		                                                     : wait_for(word, blocked);
	if (rc == -EBUSY)
		note(NULL);
	else
		*blocked = 0;
	return rc;
}

void tw_store_unlock(uint32_t *word)
{
	uint32_t had = __atomic_load_n(word, __ATOMIC_RELAXED);
	while ((had & FUTEX_TID_MASK) == thread_id &&
	       !__atomic_compare_exchange_n(word, &had, 0, false, __ATOMIC_RELEASE,
	                                    __ATOMIC_RELAXED))
		;
	if (had & FUTEX_WAITERS)
		syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
	note(NULL);
}
