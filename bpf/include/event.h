/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * event.h: what the events of all probes have in common: who and where, the ring, the rate limit.
 *
 * Events are samples. Whatever must be exact is counted in a map before the event is made.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

/* A network namespace. The cookie is 0 on kernels without one; both are 0 where it is unknown. */
struct netns_id {
	__u64 cookie;
	__u32 inode;
	__u32 pad;
};

/* Addresses in network byte order (an IPv4 address fills the first four bytes), ports in host byte order. */
struct flow {
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 sport;
	__u16 dport;
	__u8 family; /* 4, 6, or 0 if the packet is not IP */
	__u8 proto;  /* IPPROTO_* */
	__u8 tcp_flags;
	__u8 state; /* TCP_* of the local socket, 0 if there is none */
};

/* First member of every event. */
struct event_hdr {
	__u64 ktime_ns; /* CLOCK_MONOTONIC */
	struct netns_id netns;
	struct flow flow;
	__u32 suppressed; /* events held back on this CPU since the one before */
	__u32 cpu;
	__u64 cgroup; /* id of that in which the local socket was made, see event_socket(); else 0 */
};

/* Set by user space before load. */
const volatile bool events_enabled = true;
const volatile __u32 events_per_second = 100; /* per CPU */
const volatile __u32 host_netns = 0;          /* inode number; 0 if nobody wants to know of cgroups */

struct loss {
	__u64 ring_full;  /* events that found the ring full */
	__u64 map_full;   /* packets that no counter could be had for */
	__u64 suppressed; /* events held back by the rate limit */
};

struct limit {
	__u64 window_start_ns;
	__u32 used;
	__u32 suppressed; /* since the last event */
	struct loss loss;
};

/* The token bucket and the losses of this CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct limit);
} limits SEC(".maps");

/* EVENTS declares the ring of a probe, which carries struct event. */
#define EVENTS(bytes)                               \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes);         \
		__type(value, struct event);        \
	} events SEC(".maps")

/* EXPORT keeps a type in the object's BTF where no map holds it, so that its Go twin is generated. */
#define EXPORT(type, name) const volatile type name##_btf = { 0 }

#define NSEC_PER_SEC 1000000000ULL

static __always_inline struct limit *this_cpu_limit(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&limits, &zero);
}

/*
 * event_reserve returns room for an event of the given size with its header's time, CPU and
 * suppressed filled, or NULL if events are off, the rate limit is used up or the ring is full.
 */
static __always_inline void *event_reserve(void *ring, __u64 size)
{
	struct limit *l;
	struct event_hdr *hdr;
	__u64 now;

	if (!events_enabled)
		return NULL;
	l = this_cpu_limit();
	if (!l)
		return NULL;
	now = bpf_ktime_get_ns();
	if (now - l->window_start_ns >= NSEC_PER_SEC) {
		l->window_start_ns = now;
		l->used = 0;
	}
	if (l->used >= events_per_second) {
		l->suppressed++;
		l->loss.suppressed++;
		return NULL;
	}
	hdr = bpf_ringbuf_reserve(ring, size, 0);
	if (!hdr) {
		l->loss.ring_full++;
		return NULL;
	}
	l->used++;
	hdr->ktime_ns = now;
	hdr->suppressed = l->suppressed;
	hdr->cpu = bpf_get_smp_processor_id();
	hdr->cgroup = 0;
	l->suppressed = 0;
	return hdr;
}

/* count adds one to the counter at key in a per-CPU hash map of __u64. */
static __always_inline void count(void *map, const void *key)
{
	__u64 one = 1, *n = bpf_map_lookup_elem(map, key);
	struct limit *l;

	if (n) {
		++*n;
		return;
	}
	if (!bpf_map_update_elem(map, key, &one, BPF_NOEXIST))
		return;
	/* Another CPU may have made the key in between: it has a slot for this CPU now. */
	n = bpf_map_lookup_elem(map, key);
	if (n) {
		++*n;
		return;
	}
	l = this_cpu_limit();
	if (l)
		l->loss.map_full++;
}
