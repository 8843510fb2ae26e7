/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * path.h: what the probes of the packet path have in common. Their programs run for every packet, so the way
 * of a packet that is not slow must be short: a stamp is a number of ticks of the kernel, which costs a load,
 * and nothing is looked up, counted or told before something took two ticks.
 */
#pragma once

#include "latency.h"
#include "packet.h"

/* The most packets that are looked at of those that leave a queue at once. */
#define MAX_DEQUEUED 16

/* What took over 100 ms, by namespace. */
struct slow_key {
	struct netns_id netns;
	__u32 type;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct slow_key);
	__type(value, __u64);
} slow SEC(".maps");

/* Types of a probe are 0 and 1. */
struct histograms {
	struct histogram of[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct histograms);
} latencies SEC(".maps");

EXPORT(struct histogram, histogram);
EXPORT(struct latency, latency);

/* stamp_now returns the time in ticks, or, with full histograms, in units of 2^10 ns. Either wraps around. */
static __always_inline __u32 stamp_now(void)
{
	return full_histograms ? bpf_ktime_get_ns() >> 10 : bpf_jiffies64();
}

static __always_inline __u64 stamp_ns(__u32 difference)
{
	return full_histograms ? (__u64)difference << 10 : difference * tick_ns;
}

/* is_short tells whether a difference of stamps is too short to be measured. */
static __always_inline bool is_short(__u32 difference)
{
	return !full_histograms && difference < MIN_TICKS;
}

/*
 * measured counts a latency, and returns room for its event with everything filled but flow and what is the
 * probe's own; NULL if it is no event.
 */
static __always_inline void *measured(void *ring, __u64 size, struct net *net, __u32 type, __u64 ns)
{
	struct slow_key key = { .type = type };
	struct histograms *h;
	struct event_hdr *hdr;
	__u32 zero = 0;

	h = bpf_map_lookup_elem(&latencies, &zero);
	if (h)
		histogram_add(&h->of[type & 1], ns);
	if (ns <= SLOW_NS && ns <= threshold_ns)
		return NULL;
	if (net)
		netns_id(net, &key.netns);
	if (ns > SLOW_NS)
		count(&slow, &key);
	if (ns <= threshold_ns)
		return NULL;
	hdr = event_reserve(ring, size);
	if (!hdr)
		return NULL;
	hdr->netns = key.netns;
	__builtin_memset(&hdr->flow, 0, sizeof(hdr->flow));
	return hdr;
}

/* IDs of types come from the kernel's BTF; the cast is there from Linux 6.2 on. */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

/*
 * tcp_sock_of returns a TCP socket as such. The cast costs nothing and takes every pointer to a socket. The helper,
 * which older kernels have, looks at the socket first and gives NULL if it is not one of TCP.
 */
static __always_inline struct tcp_sock *tcp_sock_of(struct sock *sk)
{
	if (bpf_rdonly_cast)
		return bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_sock));
	return bpf_skc_to_tcp_sock(sk);
}

/* What TCP sends in a packet. */
struct segment {
	__u32 seq;
	__u32 payload; /* bytes */
	__u8 flags;
};

/* segment_of reads the TCP header of a packet on its way to a device. The packet must be TCP's. */
static __always_inline bool segment_of(struct sk_buff *skb, struct segment *s)
{
	unsigned char *l4 = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);
	__u8 header[16];

	if (bpf_probe_read_kernel(header, sizeof(header), l4))
		return false;
	s->seq = (__u32)header[4] << 24 | header[5] << 16 | header[6] << 8 | header[7];
	s->payload = BPF_CORE_READ(skb, len) - (l4 - BPF_CORE_READ(skb, data)) - (header[12] >> 4) * 4;
	s->flags = header[13];
	return true;
}

/*
 * To enter a program costs more than what ours do. So where several objects have a program at one tracepoint, only
 * the first is attached, and each calls the next: the loader puts it here.
 */
#define CHAIN(tracepoint)                              \
	struct {                                       \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY); \
		__uint(max_entries, 1);                \
		__type(key, __u32);                    \
		__type(value, __u32);                  \
	} after_##tracepoint SEC(".maps")

/* NEXT ends a program: if another follows in the chain, it does not return. */
#define NEXT(ctx, tracepoint)                               \
	do {                                                \
		bpf_tail_call(ctx, &after_##tracepoint, 0); \
		return 0;                                   \
	} while (0)
