/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_pcap.h - the part of the boundary for capture files (pcap, pcapng) that are read; same
 * conventions as abi.h, which includes it. Control thread only.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

struct tw_capture;

/* A packet of a capture file; the bytes stay until the next one is read. */
struct tw_capture_packet {
	const uint8_t *bytes;
	uint32_t caplen; /* bytes that are here */
	uint32_t len;    /* bytes it had when it was captured */
	uint64_t time;   /* ns since 1970 */
};

/* Opens a capture of Ethernet frames; NULL with tw_error(). */
struct tw_capture *tw_capture_open(const char *path);
/* 1 with the next packet, 0 at the end; -EIO when the file is cut off or damaged there. */
int tw_capture_next(struct tw_capture *capture, struct tw_capture_packet *packet);
void tw_capture_close(struct tw_capture *capture);
