// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* netiftxlat: how long packets wait in the queueing discipline of a device, and for the device to take them. */
#include "include/slots.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum netif_type {
	NETIF_TYPE_QDISC = 0, /* from the queueing discipline's taking the packet to its giving it out */
	NETIF_TYPE_XMIT,      /* from there, after the device was busy, to giving it out again */
};
EXPORT(enum netif_type, netif_type);

struct event {
	struct event_hdr hdr;
	struct latency latency;
	__u32 type; /* enum netif_type */
	__u32 pad;
};

EVENTS(64 * 1024);

/*
 * The number of the last batch of packets that a queueing discipline gave out. What the device does not take comes
 * back, and is given out again before anything else is: it has the number still.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} batches SEC(".maps");

static __always_inline int on_enqueue(__u64 skb)
{
	__u32 tag;
	struct slot *s = slot_of(skb, &tag);

	if (!s)
		return 0;
	s->tag = tag;
	s->stamp = stamp_now();
	s->batch = 0;
	return 0;
}

SEC("raw_tp/qdisc_enqueue")
int enqueue__raw_tp(__u64 *ctx)
{
	/* It would load without BTF, where nothing can read what it stamps. */
	REQUIRE(bpf_core_field_exists(((struct sk_buff *)0)->next));
	return on_enqueue(ctx[2]);
}

/* Before commit 70713dddf3d2 (v5.14) there is no such tracepoint. What meets no queue leaves a stamp, too. */
SEC("fentry/__dev_queue_xmit")
int enqueue__fentry(__u64 *ctx)
{
	__u64 skb = 0;

	bpf_probe_read_kernel(&skb, sizeof(skb), &ctx[0]);
	return on_enqueue(skb);
}

/* on_dequeue measures how long a packet has waited, and notes that it was given out in a batch. */
static __always_inline void on_dequeue(struct sk_buff *skb, struct netdev_queue *queue, __u32 batch)
{
	__u32 tag, age, type, now = stamp_now();
	struct slot *s = slot_of((__u64)skb, &tag);
	struct event *e;

	if (!s)
		return;
	type = s->batch ? NETIF_TYPE_XMIT : NETIF_TYPE_QDISC;
	age = now - s->stamp;
	if (s->tag != tag || (type == NETIF_TYPE_XMIT && s->batch != batch) || is_short(age))
		goto out;
	/* Not the packet's device: what a veth has given back has the receiver's. */
	e = measured(&events, sizeof(*e), BPF_CORE_READ(queue, dev, nd_net.net), type, stamp_ns(age));
	if (!e)
		goto out;
	skb_flow(skb, &e->hdr.flow);
	latency_fill(&e->latency, stamp_ns(age));
	e->type = type;
	e->pad = 0;
	bpf_ringbuf_submit(e, 0);
out:
	s->tag = tag;
	s->stamp = now;
	s->batch = batch;
}

/* A queueing discipline gives out packets, or has none to give. */
SEC("raw_tp/qdisc_dequeue")
int dequeue__raw_tp(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[3];
	struct Qdisc *q = (void *)ctx[0];
	__u32 i = ctx[0] >> 8 & 4095, tag, *batch;
	struct slot *s;
	int n;

	batch = bpf_map_lookup_elem(&batches, &i);
	if (!batch)
		return 0;
	s = slot_of(ctx[3], &tag);
	/* Not what came back: the device has taken what was given out before, unless that still waits for it. */
	if (!skb ? !BPF_CORE_READ(q, gso_skb.qlen) : !s || s->tag != tag || !s->batch || s->batch != *batch)
		*batch = *batch + 1 ?: 1;
	for (n = 0; n < MAX_DEQUEUED && n < (int)ctx[2] && skb; n++) {
		on_dequeue(skb, (void *)ctx[1], *batch);
		skb = BPF_CORE_READ(skb, next);
	}
	return 0;
}
