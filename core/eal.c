/* SPDX-License-Identifier: BSD-3-Clause */
/* eal.c - start of the DPDK environment (EAL) and its memory: pools per NUMA node. */
#include "eal.h"
#include "error.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <rte_version.h>

#define RUNTIME_DIR "/var/run/dpdk"
#define FILE_PREFIX "tideway-"
#define POOL_MIN 8192u
#define POOL_CACHE 256u

static struct tw_options options = {
	.burst = 32,
	.idle = TW_IDLE_SLEEP,
	.memory_mb = 512,
	.mbuf_size = 2048,
	.stall_ms = 10,
	.probation_ms = 5,
	.vm_memory_mb = 64,
	.tick_ms = 100,
};
static struct tw_eal_info info;
static struct rte_mempool *pools[RTE_MAX_NUMA_NODES];
static uint32_t pool_need;

/* One for a port that came later and for which the first one of its node has no room. */
static struct further {
	struct rte_mempool *pool;
	bool *in_use; /* the port's */
	int socket;
} further[TW_PORTS_MAX];

struct tw_options *tw_options(void)
{
	return &options;
}

const char *tw_dpdk_version(void)
{
	return rte_version();
}

const struct tw_eal_info *tw_eal_info(void)
{
	return &info;
}

/* Free hugepage memory of all sizes, in MiB. */
static uint32_t free_hugepages_mb(void)
{
	uint64_t kb = 0;
	DIR *dir = opendir("/sys/kernel/mm/hugepages");
	struct dirent *entry;

	if (!dir)
		return 0;
	while ((entry = readdir(dir))) {
		unsigned long size_kb, pages = 0;
		char path[320];
		FILE *file;

		if (sscanf(entry->d_name, "hugepages-%lukB", &size_kb) != 1)
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/%s/free_hugepages",
		         entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fscanf(file, "%lu", &pages) == 1)
			kb += (uint64_t)size_kb * pages;
		fclose(file);
	}
	closedir(dir);
	return kb / 1024;
}

static void remove_runtime_dir(const char *name)
{
	char path[320], file[640];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), RUNTIME_DIR "/%s", name);
	dir = opendir(path);
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		unlink(file);
	}
	closedir(dir);
	rmdir(path);
}

/* EAL leaves its runtime directory (telemetry socket) behind; ours carry the pid. Memory itself
 * leaves nothing: --in-memory maps hugepages without files. */
static void remove_stale_dirs(void)
{
	DIR *dir = opendir(RUNTIME_DIR);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		int pid;

		if (sscanf(entry->d_name, FILE_PREFIX "%d", &pid) != 1)
			continue;
		if (pid == getpid() || (kill(pid, 0) < 0 && errno == ESRCH))
			remove_runtime_dir(entry->d_name);
	}
	closedir(dir);
}

static void remove_own_dir(void)
{
	char name[64];

	snprintf(name, sizeof(name), FILE_PREFIX "%d", getpid());
	remove_runtime_dir(name);
}

/* ---- what DPDK and its drivers say: kept, to be part of our error messages ---- */

static char said[400];

void tw_eal_listen(void)
{
	said[0] = '\0';
}

const char *tw_eal_said(void)
{
	size_t len = strlen(said);

	while (len && (said[len - 1] == ' ' || said[len - 1] == ';'))
		said[--len] = '\0';
	return said;
}

static ssize_t on_log(void *cookie, const char *text, size_t size)
{
	size_t len = strlen(said), room = sizeof(said) - 3 - len;

	(void)cookie;
	if (options.verbose)
		return fwrite(text, 1, size, stderr);
	if (size < room) {
		memcpy(said + len, text, size);
		len += size;
		while (len && said[len - 1] == '\n')
			len--;
		memcpy(said + len, "; ", 3);
	}
	return size;
}

static void listen_to_dpdk(void)
{
	cookie_io_functions_t io = { .write = on_log };
	FILE *stream = fopencookie(NULL, "w", io);

	if (!stream)
		return;
	setvbuf(stream, NULL, _IOLBF, 0);
	rte_openlog_stream(stream);
}

static int quiet_libbpf(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	(void)level;
	(void)fmt;
	(void)ap;
	return 0;
}

/* libxdp comes with the AF_XDP driver, a plug-in; we do not link it ourselves. */
static void quiet_libxdp(void)
{
	void *lib = dlopen("libxdp.so.1", RTLD_NOW | RTLD_NOLOAD);
	void *(*set_print)(libbpf_print_fn_t);

	if (!lib)
		return;
	*(void **)&set_print = dlsym(lib, "libxdp_set_print");
	if (set_print)
		set_print(quiet_libbpf);
	dlclose(lib);
}

/* Devices that know no IOMMU want physical addresses. Everything else does without, and so can take
 * more hugepages later, when the engine has no right to ask the kernel for frame numbers any more.
 */
static bool physical_addresses(void)
{
	static const char *const drivers[] = { "igb_uio", "uio_pci_generic" };
	char path[96];
	int fd, mode = 0;

	for (unsigned i = 0; i < RTE_DIM(drivers); i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s", drivers[i]);
		if (access(path, F_OK) == 0)
			return true;
	}
	fd = open("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, &mode, 1) != 1)
		mode = 0;
	close(fd);
	return mode == 'Y' || mode == '1';
}

int tw_eal_ensure(void)
{
	char prefix[64], memory[32], lcores[64], level[32];
	char *argv[20];
	int argc = 0, err;
	cpu_set_t cpus;

	if (info.started)
		return 0;
	remove_stale_dirs();
	info.free_huge_mb = free_hugepages_mb();
	info.hugepages = !options.no_huge && info.free_huge_mb >= 64;
	snprintf(prefix, sizeof(prefix), "--file-prefix=" FILE_PREFIX "%d", getpid());
	/* Logical core 0 is this control thread, floating over every CPU it may use; the lcores are
	 * threads of our own, registered with rte_thread_register(). */
	snprintf(lcores, sizeof(lcores), "--lcores=0@(0-%ld)", sysconf(_SC_NPROCESSORS_CONF) - 1);
	snprintf(level, sizeof(level), "--log-level=*:%s", options.verbose ? "info" : "error");
	argv[argc++] = (char *)"tideway";
	argv[argc++] = lcores;
	argv[argc++] = prefix;
	argv[argc++] = level;
	argv[argc++] = (char *)"--no-shconf";
	/* Only the devices a script names: no PCI scan grabs a NIC that nobody asked for. */
	argv[argc++] = (char *)"-a";
	argv[argc++] = (char *)"ffff:ff:1f.7";
	if (info.hugepages) {
		argv[argc++] = (char *)"--in-memory";
	} else {
		snprintf(memory, sizeof(memory), "%u", options.memory_mb);
		argv[argc++] = (char *)"--no-huge";
		argv[argc++] = (char *)"-m";
		argv[argc++] = memory;
	}
	if (!physical_addresses())
		argv[argc++] = (char *)"--iova-mode=va";
	if (!options.verbose)
		libbpf_set_print(quiet_libbpf);
	/* libxdp's dispatcher shares an interface among programs where the kernel lets it, with a
	 * bpffs and other program names; we want the same on every machine (see xdp_claim.c). */
	setenv("LIBXDP_SKIP_DISPATCHER", "1", 1);
	sched_getaffinity(0, sizeof(cpus), &cpus);
	argv[argc] = NULL;
	listen_to_dpdk();
	err = rte_eal_init(argc, argv);
	if (err < 0)
		return tw_fail(
			rte_errno ? rte_errno : EIO,
			"EAL does not start (%s: %s) with %u MB of free hugepages; run `tideway doctor`, "
			"or add --no-huge",
			rte_strerror(rte_errno), tw_eal_said(), info.free_huge_mb);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	if (!options.verbose)
		quiet_libxdp();
	info.started = true;
	info.memory_mb = info.hugepages ? info.free_huge_mb : options.memory_mb;
	atexit(remove_own_dir);
	if (info.hugepages)
		snprintf(info.note, sizeof(info.note), "EAL: hugepages (%u MB free)",
		         info.free_huge_mb);
	else
		snprintf(
			info.note, sizeof(info.note),
			"EAL: no hugepages (%s), %u MB of normal memory; slower, and fine for a trial",
			options.no_huge ? "--no-huge was given"
					: "none free: echo 512 > /proc/sys/vm/nr_hugepages",
			options.memory_mb);
	return 0;
}

/* ---- packet buffers ---- */

static uint32_t with_caches(uint32_t buffers)
{
	return buffers + POOL_CACHE * 2;
}

int tw_pool_reserve(uint32_t buffers)
{
	for (int i = 0; i < RTE_MAX_NUMA_NODES; i++)
		if (pools[i] && with_caches(pool_need + buffers) > pools[i]->size)
			return tw_fail(
				ENOSPC,
				"the packet buffers have no room for %u more: there are %u, and the "
				"queues and rings hold up to %u; start with tw.options { mbufs = %u }",
				buffers, pools[i]->size, pool_need,
				with_caches(pool_need + buffers));
	pool_need += buffers;
	return 0;
}

void tw_pool_release(uint32_t buffers)
{
	pool_need -= RTE_MIN(buffers, pool_need);
}

static struct rte_mempool *pool_make(const char *name, uint32_t count, int socket)
{
	struct rte_mempool *pool = rte_pktmbuf_pool_create(name, count, POOL_CACHE, 0,
	                                                   options.mbuf_size + RTE_PKTMBUF_HEADROOM,
	                                                   socket);

	if (!pool)
		tw_fail(rte_errno,
		        "no memory for %u packet buffers of %u bytes on NUMA node %d (%s): reserve hugepages "
		        "(echo 1024 > /proc/sys/vm/nr_hugepages), raise --memory, or lower tw.options{mbufs}",
		        count, options.mbuf_size, socket, rte_strerror(rte_errno));
	return pool;
}

struct rte_mempool *tw_pool(int socket)
{
	uint32_t need = with_caches(pool_need), count;
	char name[32];

	if (socket < 0 || socket >= RTE_MAX_NUMA_NODES)
		socket = 0;
	if (pools[socket])
		return pools[socket];
	count = options.mbufs ? options.mbufs : RTE_MAX(POOL_MIN, need) + TW_POOL_LATER;
	if (count < need) {
		tw_fail(ENOSPC,
		        "a pool of %u buffers is too small: the queues and rings of this script hold up to %u; "
		        "use tw.options { mbufs = %u } or fewer descriptors (rx_desc, tx_desc)",
		        count, need, need);
		return NULL;
	}
	snprintf(name, sizeof(name), "tw-mbuf-%d", socket);
	pools[socket] = pool_make(name, count, socket);
	return pools[socket];
}

struct rte_mempool *tw_pool_further(int socket, uint32_t buffers, bool *in_use)
{
	struct further *free_one = NULL;
	char name[32];

	for (unsigned i = 0; i < RTE_DIM(further); i++) {
		struct further *f = &further[i];

		if (!f->pool && !free_one)
			free_one = f;
		/* Buffers of a port that was closed may be anywhere, but come back. */
		if (!f->pool || *f->in_use || f->socket != socket ||
		    f->pool->size < with_caches(buffers))
			continue;
		f->in_use = in_use;
		*in_use = true;
		return f->pool;
	}
	if (!free_one) {
		tw_fail(ENOSPC, "%zu further pools of packet buffers are the limit",
		        RTE_DIM(further));
		return NULL;
	}
	snprintf(name, sizeof(name), "tw-mbuf-%d-%u", socket, (unsigned)(free_one - further));
	free_one->pool = pool_make(name, with_caches(buffers), socket);
	free_one->socket = socket;
	free_one->in_use = in_use;
	*in_use = free_one->pool != NULL;
	return free_one->pool;
}

bool tw_pool_has_further(void)
{
	return further[0].pool != NULL;
}

void tw_pools_free(void)
{
	for (int i = 0; i < RTE_MAX_NUMA_NODES; i++) {
		rte_mempool_free(pools[i]);
		pools[i] = NULL;
	}
	for (unsigned i = 0; i < RTE_DIM(further); i++)
		rte_mempool_free(further[i].pool);
	memset(further, 0, sizeof(further));
	pool_need = 0;
}
