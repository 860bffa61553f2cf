/* SPDX-License-Identifier: BSD-3-Clause */
/* port.c - ports: open, configure, start and close DPDK ethernet devices of any kind. */
#include "port.h"
#include "eal.h"
#include "error.h"
#include "plan.h"
#include "probe.h"
#include "source.h"
#include "stats.h"

#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_malloc.h>

#define DESC_DEFAULT 1024u

struct tw_port tw_port_table[TW_PORTS_MAX];

/* Ports with a pool of their own: they came when the one of their node had no room any more. */
static bool own_pool[TW_PORTS_MAX];

struct tw_port *tw_port_get(int port)
{
	if (port < 0 || port >= TW_PORTS_MAX || !tw_port_table[port].used) {
		tw_fail(ENODEV, "there is no port %d", port);
		return NULL;
	}
	return &tw_port_table[port];
}

/* The interface a devargs string names ("iface=NAME"), to say early and plainly that it is not
 * there. Returns NULL when it names none. */
static const char *iface_of(const char *devargs, char *name, size_t size)
{
	const char *at = strstr(devargs, ",iface=");
	size_t len;

	/* tap and memif make or name their own */
	if (!at || !strncmp(devargs, "net_tap", 7))
		return NULL;
	at += strlen(",iface=");
	len = strcspn(at, ",");
	snprintf(name, size, "%.*s", (int)len, at);
	return name;
}

static void list_interfaces(char *text, size_t size)
{
	struct if_nameindex *list = if_nameindex();
	size_t used = 0;

	text[0] = '\0';
	for (struct if_nameindex *i = list; i && i->if_index; i++)
		used += snprintf(text + used, used < size ? size - used : 0, "%s%s",
		                 used ? ", " : "", i->if_name);
	if (list)
		if_freenameindex(list);
}

static int device_open(struct tw_port *port, const char *devargs)
{
	char device[RTE_ETH_NAME_MAX_LEN], ifname[64], known[256];
	int err;

	if (iface_of(devargs, ifname, sizeof(ifname)) && !if_nametoindex(ifname)) {
		list_interfaces(known, sizeof(known));
		return tw_fail(
			ENODEV,
			"%s: there is no network interface \"%s\" in this network namespace; there are: %s",
			devargs, ifname, known);
	}
	if (!strncmp(devargs, "net_af_xdp", 10) && iface_of(devargs, ifname, sizeof(ifname))) {
		err = tw_xdp_claim(ifname);
		if (err < 0)
			return err;
	}
	snprintf(device, sizeof(device), "%.*s", (int)strcspn(devargs, ","), devargs);
	if (rte_eth_dev_get_port_by_name(device, &port->ethdev) == 0)
		return tw_fail(EEXIST,
		               "device %s is in use already; give the second one another number",
		               device);
	tw_eal_listen();
	err = rte_dev_probe(devargs);
	if (err < 0)
		return tw_fail(
			-err,
			"DPDK does not open \"%s\" (%s; %s); the form is DRIVERn,KEY=VALUE..., such as "
			"net_af_packet0,iface=eth0, net_af_xdp0,iface=eth0, net_tap0, "
			"net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap, net_null0, or a PCI address",
			devargs, strerror(-err), tw_eal_said());
	port->owns_device = true;
	if (rte_eth_dev_get_port_by_name(device, &port->ethdev) < 0)
		return tw_fail(ENODEV, "%s made no ethernet device", devargs);
	return 0;
}

/* "source3", "sink0": a net_null that gives nothing, whose queues have a callback that makes
 * packets, or looks at those that leave. False: the devargs are not of that form. */
static bool numbered(const char *devargs, const char *word, unsigned *number)
{
	size_t len = strlen(word);
	int end = 0;

	return !strncmp(devargs, word, len) && isdigit((unsigned char)devargs[len]) &&
	       sscanf(devargs + len, "%u%n", number, &end) == 1 && devargs[len + end] == '\0';
}

static int null_open(struct tw_port *port, const char *word, unsigned number)
{
	char device[64];

	snprintf(device, sizeof(device), "net_null_%s%u,no-rx=1", word, number);
	return device_open(port, device);
}

static int any_open(struct tw_port *port, int index, const char *devargs)
{
	unsigned number;

	if (numbered(devargs, "source", &number)) {
		port->source = (int)number;
		return null_open(port, "source", number);
	}
	if (numbered(devargs, "sink", &number)) {
		port->sink = true;
		return null_open(port, "sink", number);
	}
	return strncmp(devargs, "wire", 4) ? device_open(port, devargs) : tw_wire_open(port, index);
}

/* After the start: the queues are there. */
static int callbacks_attach(struct tw_port *port, int index)
{
	int err = port->source >= 0 ? tw_source_attach(port) : 0;

	return err < 0 ? err : tw_probe_attach(index);
}

static void port_release(struct tw_port *port)
{
	struct rte_eth_dev_info info;
	bool have = rte_eth_dev_is_valid_port(port->ethdev) &&
	            rte_eth_dev_info_get(port->ethdev, &info) == 0;

	if (port->source >= 0)
		tw_source_detach(port);
	tw_probe_detach(port - tw_port_table);
	if (have) {
		rte_eth_dev_close(port->ethdev);
		if (port->owns_device && info.device)
			rte_dev_remove(info.device);
	}
	tw_wire_close(port);
	tw_pool_release(port->reserved);
	own_pool[port - tw_port_table] = false;
	memset(port, 0, sizeof(*port));
}

int tw_port_open(int index, const char *name, const char *devargs)
{
	struct tw_stats *stats = tw_stats();
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	struct tw_port *port;
	int err;

	if (index < 0 || index >= TW_PORT_GONE)
		return tw_fail(ENOSPC, "port %s is number %d; there can be %d", name, index + 1,
		               TW_PORT_GONE);
	if (tw_port_table[index].used)
		return tw_fail(EEXIST, "port %s: number %d is open", name, index);
	err = tw_eal_ensure();
	if (err < 0)
		return err;
	port = &tw_port_table[index];
	memset(port, 0, sizeof(*port));
	port->ethdev = RTE_MAX_ETHPORTS;
	port->source = -1;
	err = any_open(port, index, devargs);
	if (err < 0) {
		port_release(port);
		return err;
	}
	err = rte_eth_dev_info_get(port->ethdev, &info);
	if (err < 0) {
		port_release(port);
		return tw_fail(-err, "%s: the device does not describe itself (%s)", devargs,
		               strerror(-err));
	}
	port->socket = rte_eth_dev_socket_id(port->ethdev);
	port->used = true;
	memset(&stats->port[index], 0, sizeof(stats->port[index]));
	snprintf(stats->port[index].name, TW_NAME_LEN, "%s", name);
	rte_eth_dev_get_name_by_port(port->ethdev, stats->port[index].device);
	snprintf(stats->port[index].driver, TW_NAME_LEN, "%s", info.driver_name);
	if (rte_eth_macaddr_get(port->ethdev, &mac) == 0)
		memcpy(stats->port[index].mac, mac.addr_bytes, 6);
	stats->ports = RTE_MAX(stats->ports, (uint32_t)index + 1);
	return 0;
}

int tw_port_caps(int index, struct tw_port_caps *caps)
{
	struct tw_port *port = tw_port_get(index);
	struct rte_eth_dev_info info;
	int err;

	if (!port)
		return -ENODEV;
	err = rte_eth_dev_info_get(port->ethdev, &info);
	if (err < 0)
		return tw_fail(-err, "the device does not describe itself (%s)", strerror(-err));
	*caps = (struct tw_port_caps){
		.max_rx_queues = info.max_rx_queues,
		.max_tx_queues = info.max_tx_queues,
		.max_mtu = info.max_mtu,
		.socket = port->socket < 0 ? 0 : port->socket,
		.rss = info.flow_type_rss_offloads != 0,
		.wire = port->wire_in != NULL,
		.rx_interrupt = info.driver_name &&
		                (!strcmp(info.driver_name, "net_tap") ||
		                 !strcmp(info.driver_name, "net_memif") ||
		                 (info.device && !strstr(info.driver_name, "net_"))),
	};
	/* An AF_XDP device reports as many queues as its devargs asked for. */
	return 0;
}

static uint16_t descriptors(uint32_t asked, uint16_t def, const struct rte_eth_desc_lim *lim)
{
	uint32_t n = asked ? asked : def ? def : DESC_DEFAULT;

	if (lim->nb_max)
		n = RTE_MIN(n, lim->nb_max);
	return RTE_MAX(n, lim->nb_min);
}

/* How many queues a port gets of those asked for; tap, af_packet and af_xdp pair them. */
static void fit_queues(const struct rte_eth_dev_info *info, uint16_t *rx, uint16_t *tx)
{
	*rx = RTE_MAX(*rx, (uint16_t)1);
	*tx = RTE_MIN(RTE_MAX(*tx, (uint16_t)1), info->max_tx_queues);
	*tx = RTE_MIN(*tx, (uint16_t)TW_TX_QUEUES_MAX);
	if (!strcmp(info->driver_name, "net_tap") || !strcmp(info->driver_name, "net_af_packet") ||
	    !strcmp(info->driver_name, "net_af_xdp"))
		*rx = *tx = RTE_MAX(*rx, *tx);
	if (*rx > info->max_rx_queues)
		*rx = *tx = info->max_rx_queues;
}

static void fit_descriptors(struct tw_port *port, const struct rte_eth_dev_info *info,
                            uint16_t *rxd, uint16_t *txd)
{
	const struct tw_options *opt = tw_options();

	*rxd = descriptors(opt->rx_desc, info->default_rxportconf.ring_size, &info->rx_desc_lim);
	*txd = descriptors(opt->tx_desc, info->default_txportconf.ring_size, &info->tx_desc_lim);
	rte_eth_dev_adjust_nb_rx_tx_desc(port->ethdev, rxd, txd);
}

static struct rte_mempool *pool_of(struct tw_port *port, int index)
{
	if (port->pool)
		return port->pool;
	if (!port->alone)
		return tw_pool(port->socket);
	return tw_pool_further(RTE_MAX(port->socket, 0), port->alone, &own_pool[index]);
}

int tw_port_reserve(int index, uint16_t rx_queues, uint16_t tx_queues)
{
	struct tw_port *port = tw_port_get(index);
	struct rte_eth_dev_info info;
	uint32_t buffers;
	uint16_t rxd, txd;

	if (!port)
		return -ENODEV;
	rte_eth_dev_info_get(port->ethdev, &info);
	fit_queues(&info, &rx_queues, &tx_queues);
	fit_descriptors(port, &info, &rxd, &txd);
	buffers = (uint32_t)rx_queues * rxd + (uint32_t)tx_queues * txd;
	if (port->source < 0 && tw_pool_reserve(buffers) == 0) {
		port->reserved += buffers;
		return 0;
	}
	/* Ports that free in bulk take every buffer for one of their own pool. */
	for (int p = 0; p < TW_PORTS_MAX; p++)
		if (tw_port_table[p].started && tw_port_table[p].fast_free)
			return -ENOSPC;
	port->alone = port->source < 0 ? buffers : tw_source_mbufs(port, rx_queues);
	/* A source's at once: ports that start meanwhile must know that there is more than one
	 * pool. */
	if (port->source >= 0)
		port->pool = pool_of(port, index);
	return 0;
}

static int queues_setup(struct tw_port *port, const char *name, const struct rte_eth_dev_info *info,
                        uint16_t rxd, uint16_t txd)
{
	struct rte_eth_rxconf rxconf = info->default_rxconf;
	struct rte_eth_txconf txconf = info->default_txconf;
	struct rte_mempool *pool = port->pool = pool_of(port, port - tw_port_table);
	int err;

	if (!pool)
		return -ENOMEM;
	for (uint16_t q = 0; q < port->rx_queues; q++) {
		err = rte_eth_rx_queue_setup(port->ethdev, q, rxd, port->socket, &rxconf, pool);
		if (err < 0)
			return tw_fail(-err, "port %s: rx queue %u with %u descriptors: %s (%s)",
			               name, q, rxd, strerror(-err), tw_eal_said());
	}
	for (uint16_t q = 0; q < port->tx_queues; q++) {
		err = rte_eth_tx_queue_setup(port->ethdev, q, txd, port->socket, &txconf);
		if (err < 0)
			return tw_fail(-err, "port %s: tx queue %u with %u descriptors: %s (%s)",
			               name, q, txd, strerror(-err), tw_eal_said());
	}
	return 0;
}

static void describe(struct tw_port *port, struct tw_port_info *text,
                     const struct rte_eth_conf *conf)
{
	struct rte_eth_dev_info info;
	struct rte_eth_link link = { 0 };
	char ifname[IF_NAMESIZE];

	snprintf(text->offloads, sizeof(text->offloads), "%s%s",
	         conf->rxmode.mq_mode == RTE_ETH_MQ_RX_RSS ? "rss " : "",
	         conf->txmode.offloads & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE ? "fast-free " : "");
	text->rx_queues = port->rx_queues;
	text->tx_queues = port->tx_queues;
	rte_eth_dev_get_mtu(port->ethdev, &text->mtu);
	if (rte_eth_link_get_nowait(port->ethdev, &link) == 0 &&
	    link.link_speed != RTE_ETH_SPEED_NUM_UNKNOWN)
		text->speed = link.link_speed;
	rte_eth_dev_info_get(port->ethdev, &info);
	if (!strcmp(info.driver_name, "net_af_xdp") && info.if_index &&
	    if_indextoname(info.if_index, ifname))
		tw_xdp_mode(ifname, text->mode, sizeof(text->mode));
	else if (!strcmp(info.driver_name, "net_af_packet"))
		snprintf(text->mode, sizeof(text->mode), "kernel packet socket, copy");
	else if (port->wire_in)
		snprintf(text->mode, sizeof(text->mode), "in-process rings");
	else if (!strncmp(info.driver_name, "net_", 4))
		snprintf(text->mode, sizeof(text->mode), "virtual device");
	else
		snprintf(text->mode, sizeof(text->mode), "poll-mode driver");
}

int tw_port_start(int index, uint16_t rx_queues, uint16_t tx_queues)
{
	struct tw_port *port = tw_port_get(index);
	struct tw_options *opt = tw_options();
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf = { 0 };
	struct tw_port_info *text;
	uint16_t rxd, txd;
	int err;

	if (!port)
		return -ENODEV;
	text = &tw_stats()->port[index];
	tw_eal_listen();
	rte_eth_dev_info_get(port->ethdev, &info);
	if (rx_queues > info.max_rx_queues)
		return tw_fail(
			EINVAL,
			"port %s (%s) has at most %u rx queue(s), and %u lcores want one each; pin fewer "
			"lcores or open the device with more queues (queue_count=, qpairs=, ...)",
			text->name, text->device, info.max_rx_queues, rx_queues);
	port->rx_queues = rx_queues;
	port->tx_queues = tx_queues;
	fit_queues(&info, &port->rx_queues, &port->tx_queues);
	if (port->rx_queues > 1 && info.flow_type_rss_offloads) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads &
		                                   (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP |
		                                    RTE_ETH_RSS_UDP);
	}
	/* One pool per node and no shared buffers: freeing in bulk is allowed where it exists. */
	port->fast_free = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE &&
	                  !tw_pool_has_further();
	if (port->fast_free)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
	conf.rxmode.offloads |= tw_probe_offloads(index, &info);
	conf.intr_conf.rxq = opt->idle == TW_IDLE_INTERRUPT;
	err = rte_eth_dev_configure(port->ethdev, port->rx_queues, port->tx_queues, &conf);
	if (err < 0)
		return tw_fail(-err, "port %s (%s) refuses %u rx and %u tx queues: %s (%s)",
		               text->name, text->device, port->rx_queues, port->tx_queues,
		               strerror(-err), tw_eal_said());
	fit_descriptors(port, &info, &rxd, &txd);
	err = queues_setup(port, text->name, &info, rxd, txd);
	if (err < 0)
		return err;
	err = rte_eth_dev_start(port->ethdev);
	if (err < 0)
		return tw_fail(-err, "port %s (%s) does not start: %s (%s)", text->name,
		               text->device, strerror(-err), tw_eal_said());
	port->started = true;
	rte_eth_promiscuous_enable(port->ethdev); /* bridges and routers see every frame */
	describe(port, text, &conf);
	return callbacks_attach(port, index);
}

int tw_port_close(int index)
{
	struct tw_port *port = tw_port_get(index);

	if (!port)
		return -ENODEV;
	if (tw_plan_has_port(index))
		return tw_fail(EBUSY, "port %s is part of the plan that runs, or of the one before",
		               tw_stats()->port[index].name);
	tw_ports_refresh(); /* what the device counted last */
	if (port->started)
		rte_eth_dev_stop(port->ethdev);
	port_release(port);
	return 0;
}

void tw_ports_refresh(void)
{
	struct tw_stats *stats = tw_stats();
	struct rte_eth_stats now;

	tw_lcores_reap(); /* as good a time as any */
	for (int i = 0; i < TW_PORTS_MAX; i++) {
		if (!tw_port_table[i].started ||
		    rte_eth_stats_get(tw_port_table[i].ethdev, &now) < 0)
			continue;
		stats->port[i].imissed = now.imissed;
		stats->port[i].ierrors = now.ierrors;
		stats->port[i].rx_nombuf = now.rx_nombuf;
		stats->port[i].oerrors = now.oerrors;
	}
}
