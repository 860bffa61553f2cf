/* SPDX-License-Identifier: BSD-3-Clause */
/* stats.h - the shared-memory counters of this instance. */
#pragma once
#include "abi.h"

/* Reasons the engine itself drops for; registered first, so their ids are constants. */
enum tw_reason {
	TW_R_TX_FULL,        /* the port took fewer packets than offered */
	TW_R_RING_FULL,      /* the ring to the next chain is full */
	TW_R_NO_SINK,        /* end of the chain, no sink and no route */
	TW_R_NO_KERNEL,      /* pass(), but the chain has no kernel port */
	TW_R_BAD_PORT,       /* send() or route() to a port that does not exist */
	TW_R_BAD_VERDICT,    /* not a verdict */
	TW_R_NF_FAULT,       /* the NF raised or stalled on this very packet */
	TW_R_NF_QUARANTINED, /* the NF was taken out and its policy is drop */
	TW_R_VM_LOST,        /* no VM could be built for the chain */
	TW_R_NO_PUNT,        /* punt(), but the NF has no punt function */
	TW_R_NO_BUFFER,      /* no packet buffer for a copy */
	TW_R_HOLD_FULL,      /* hold queue full */
	TW_R_HOLD_TIMEOUT,   /* held longer than the queue's timeout */
	TW_R_TOO_LONG,       /* a frame in several segments that does not fit one buffer */
	TW_R_STOPPED,        /* still in a ring or held when the engine stopped */
	TW_R_NF_REMOVED,     /* held by an NF, or on the way to a chain, that was removed */
	TW_R_BUILTIN,
};
