/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf.h - what the files that talk to the kernel's BPF share. */
#pragma once
#include <stdint.h>

struct nlmsghdr;

/* Locked memory without a limit, for kernels before 5.11, which count maps against it. */
void tw_bpf_prepare(void);

/* One request to the routing socket and all its answers; 0 or -errno, without a sentence. */
int tw_bpf_netlink(struct nlmsghdr *request,
                   void (*each)(const struct nlmsghdr *message, void *context), void *context);

/* By id, with CAP_SYS_ADMIN: a descriptor (BPF_..._GET_FD_BY_ID), the next link's id; -errno. */
int tw_bpf_id_open(uint32_t command, uint32_t id);
int tw_bpf_id_next_link(uint32_t id);
/* A process that has the program open, 0 when there is none. */
int tw_bpf_holder(uint32_t program);
