/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf.h - what the files that talk to the kernel's BPF share. */
#pragma once

struct nlmsghdr;

/* Locked memory without a limit, for kernels before 5.11, which count maps against it. */
void tw_bpf_prepare(void);

/* One request to the routing socket and all its answers; 0 or -errno, without a sentence. */
int tw_bpf_netlink(struct nlmsghdr *request,
                   void (*each)(const struct nlmsghdr *message, void *context), void *context);
