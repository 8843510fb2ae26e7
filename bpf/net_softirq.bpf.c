// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* net_softirq: how long network soft interrupts wait until they run, and how long they run. */
#include "include/latency.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum softirq_vector {
	SOFTIRQ_VECTOR_NET_TX = 0,
	SOFTIRQ_VECTOR_NET_RX,
	SOFTIRQ_VECTORS,
};
EXPORT(enum softirq_vector, softirq_vector);

enum softirq_type {
	SOFTIRQ_TYPE_SCHED = 1, /* it waited */
	SOFTIRQ_TYPE_EXECUTE,   /* it ran */
};
EXPORT(enum softirq_type, softirq_type);

/* Numbers of the vectors, set by user space, which knows the running kernel's names. */
const volatile __u32 net_tx_nr;
const volatile __u32 net_rx_nr;

struct vector {
	__u64 raised;  /* 0: it is not waiting, or nobody saw it raised */
	__u64 entered; /* 0: it is not running, or nobody saw it begin */
	struct histogram sched, execute;
};

struct softirqs {
	struct vector vectors[SOFTIRQ_VECTORS];
};

struct event {
	struct event_hdr hdr;
	struct latency latency;
	__u32 type;   /* enum softirq_type */
	__u32 vector; /* enum softirq_vector */
};

EXPORT(struct histogram, histogram);
EXPORT(struct latency, latency);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct softirqs);
} softirqs SEC(".maps");

EVENTS(128 * 1024);

/* vector_of returns what this CPU knows of a vector, NULL if it is none of the network's, as most are not. */
static __always_inline struct vector *vector_of(__u32 nr)
{
	struct softirqs *s;
	__u32 zero = 0;

	if (nr != net_rx_nr && nr != net_tx_nr)
		return NULL;
	s = bpf_map_lookup_elem(&softirqs, &zero);
	if (!s)
		return NULL;
	return &s->vectors[nr == net_rx_nr ? SOFTIRQ_VECTOR_NET_RX : SOFTIRQ_VECTOR_NET_TX];
}

/* now returns the time in ticks, which costs a load, or, with full histograms, in ns. Neither is ever 0. */
static __always_inline __u64 now(void)
{
	return full_histograms ? bpf_ktime_get_ns() : bpf_jiffies64();
}

static __always_inline void measured(struct histogram *h, __u64 elapsed, __u32 nr, enum softirq_type type)
{
	__u64 ns = full_histograms ? elapsed : elapsed * tick_ns;
	struct event *e;

	if (!full_histograms && elapsed < MIN_TICKS)
		return;
	histogram_add(h, ns);
	if (ns <= threshold_ns)
		return;
	e = event_reserve(&events, sizeof(*e));
	if (!e)
		return;
	of_node(&e->hdr);
	latency_fill(&e->latency, ns);
	e->type = type;
	e->vector = nr == net_rx_nr ? SOFTIRQ_VECTOR_NET_RX : SOFTIRQ_VECTOR_NET_TX;
	bpf_ringbuf_submit(e, 0);
}

/*
 * All three run on the CPU that the record is of: a soft interrupt runs where it was raised, in ksoftirqd or not,
 * and never within another.
 *
 * One that is raised again while it waits has waited since it was raised first: the stamp stays. That holds also
 * where the kernel has cleared the pending bit already and not begun to run (handle_softirqs() clears the bits of
 * all vectors at once, then runs one after the other): what the second one asked for, the run that is due does.
 */
SEC("raw_tp/softirq_raise")
int softirq__raw_tp_raise(__u64 *ctx)
{
	struct vector *v = vector_of(ctx[0]);

	if (v && !v->raised)
		v->raised = now();
	return 0;
}

SEC("raw_tp/softirq_entry")
int softirq__raw_tp_entry(__u64 *ctx)
{
	__u32 nr = ctx[0];
	struct vector *v = vector_of(nr);
	__u64 raised, entered;

	if (!v)
		return 0;
	/* In this order: an interrupt in between may raise it. */
	raised = v->raised;
	entered = now();
	/* What is raised from here on, by an interrupt or by the soft interrupt itself, waits for the next run. */
	v->raised = 0;
	v->entered = entered;
	if (raised)
		measured(&v->sched, entered - raised, nr, SOFTIRQ_TYPE_SCHED);
	return 0;
}

SEC("raw_tp/softirq_exit")
int softirq__raw_tp_exit(__u64 *ctx)
{
	__u32 nr = ctx[0];
	struct vector *v = vector_of(nr);
	__u64 entered;

	if (!v || !v->entered)
		return 0;
	entered = v->entered;
	v->entered = 0;
	measured(&v->execute, now() - entered, nr, SOFTIRQ_TYPE_EXECUTE);
	return 0;
}
