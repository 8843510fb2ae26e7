/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* latency.h: what probes of latency have in common: threshold, histogram, the latency in an event. */
#pragma once

#include "event.h"

#define NSEC_PER_USEC 1000ULL
#define NSEC_PER_MSEC 1000000ULL

/* What the documented counters ...100ms count, whatever the threshold. */
#define SLOW_NS (100 * NSEC_PER_MSEC)

/* Set by user space before load: what takes longer is an event. */
const volatile __u64 threshold_ns = SLOW_NS;

/* Of probes whose clock is the tick of the kernel, set by user space before load. */
const volatile bool full_histograms = false; /* measure everything, by a clock that costs */
const volatile __u64 tick_ns = 10000000;     /* NSEC_PER_SEC / HZ of the running kernel */

/* Below this nothing is measured: the difference of two ticks may be one too many. */
#define MIN_TICKS 2

/* What an event has to say of a latency, beyond its header. */
struct latency {
	__u64 ns;
	__u32 pid; /* of the process, 0 if the CPU was idle */
	__u32 pad;
	char comm[16]; /* of its thread */
};

/* The upper bounds of the buckets are 2^0 to 2^25 us (34 s); the last bucket has none. */
#define BUCKETS 27

struct histogram {
	__u64 sum_ns;
	__u64 slow; /* how many took longer than SLOW_NS */
	__u64 buckets[BUCKETS];
};

/* floor_log2 returns the number of the highest bit that is set, 0 if there is none. */
static __always_inline __u32 floor_log2(__u32 v)
{
	__u32 n = 0;

	if (v >> 16) {
		n += 16;
		v >>= 16;
	}
	if (v >> 8) {
		n += 8;
		v >>= 8;
	}
	if (v >> 4) {
		n += 4;
		v >>= 4;
	}
	if (v >> 2) {
		n += 2;
		v >>= 2;
	}
	return n + (v >> 1);
}

/*
 * bucket_of returns the bucket of a latency. A division would cost more than all the rest: among the latencies
 * of 2^n <= ns < 2^(n+1) there is one bound only, 1000 * 2^(n-9).
 */
static __always_inline __u32 bucket_of(__u64 ns)
{
	__u64 high = ns >> 9;
	__u32 n;

	if (high >> 26)
		return BUCKETS - 1; /* 34 s and more, which is above the last bound */
	n = floor_log2(high);
	return n + (ns > NSEC_PER_USEC << n);
}

/* histogram_add adds a latency to a histogram of this CPU. */
static __always_inline void histogram_add(struct histogram *h, __u64 ns)
{
	__u32 i = bucket_of(ns);

	h->sum_ns += ns;
	if (ns > SLOW_NS)
		h->slow++;
	if (i < BUCKETS)
		h->buckets[i]++;
}

/* latency_fill fills the latency of an event with the current task's. */
static __always_inline void latency_fill(struct latency *l, __u64 ns)
{
	l->ns = ns;
	l->pid = bpf_get_current_pid_tgid() >> 32;
	l->pad = 0;
	bpf_get_current_comm(l->comm, sizeof(l->comm));
}

/* of_node makes an event one of the node as a whole: it has neither a namespace nor a packet. */
static __always_inline void of_node(struct event_hdr *hdr)
{
	__builtin_memset(&hdr->netns, 0, sizeof(hdr->netns));
	__builtin_memset(&hdr->flow, 0, sizeof(hdr->flow));
}
