// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* kernellatency: how long the network layer of the kernel takes over packets of TCP, received and sent. */
#include "include/slots.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum kernel_type {
	KERNEL_TYPE_RX = 0, /* from the device to the connection */
	KERNEL_TYPE_TX,     /* from the connection to the device */
};
EXPORT(enum kernel_type, kernel_type);

/* Where a packet was when the time was up, as far as a program can tell; the stack may tell more. */
enum kernel_section {
	KERNEL_SECTION_UNKNOWN = 0,
	KERNEL_SECTION_SOCKET, /* in the backlog of a socket that a process holds */
	KERNEL_SECTION_QDISC,  /* in the queue of a device */
};
EXPORT(enum kernel_section, kernel_section);

#define MAX_FRAMES 24

struct event {
	struct event_hdr hdr;
	struct latency latency;
	__u32 type;    /* enum kernel_type */
	__u32 section; /* enum kernel_section */
	__u32 frames;  /* valid elements of stack */
	__u32 pad;
	__u64 stack[MAX_FRAMES];
};

EVENTS(128 * 1024);
CHAIN(tcp_probe);
CHAIN(net_dev_queue);

/* Packets that were counted on their way out and come by once more: at the queue of another device, or out of it. */
struct counted {
	__u64 skb;
	__s64 stamp;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct counted);
} counted SEC(".maps");

/* When the kernel's ticks began, on the clock of bpf_ktime_get_ns(). Both stand still while the machine sleeps. */
__u64 tick_zero_ns;

/* slow_packet counts a latency and makes its event. */
static __always_inline void slow_packet(void *ctx, struct sk_buff *skb, struct net *net, enum kernel_type type,
					enum kernel_section section, __u64 ns)
{
	struct event *e = measured(&events, sizeof(*e), net, type, ns);
	long n;

	if (!e)
		return;
	skb_flow(skb, &e->hdr.flow);
	latency_fill(&e->latency, ns);
	e->type = type;
	e->section = section;
	/* Skip the frames of the tracing itself: bpf_trace_run, the tracepoint's stub and the program. */
	n = bpf_get_stack(ctx, e->stack, sizeof(e->stack), 3);
	e->frames = n > 0 ? n / sizeof(__u64) : 0;
	e->pad = 0;
	bpf_ringbuf_submit(e, 0);
}

/* A device has handed a packet to the network layer. */
SEC("tp_btf/netif_receive_skb")
int receive__tp_btf(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	__u32 tag;
	struct slot *s = slot_of(ADDRESS(skb), &tag);

	if (s) {
		s->tag = tag;
		s->stamp = stamp_now();
	}
	return 0;
}

/* A segment has come to its connection: tcp_rcv_established(), also from the backlog of the socket. */
static __always_inline void on_delivery(__u64 *ctx, struct sock *sk, struct sk_buff *skb)
{
	__u32 tag, age;
	struct slot *s = slot_of(ADDRESS(skb), &tag);

	if (!s || s->tag != tag)
		return;
	s->tag = 0;
	age = stamp_now() - s->stamp;
	if (is_short(age))
		return;
	slow_packet(ctx, skb, sock_net(sk), KERNEL_TYPE_RX,
		    BPF_CORE_READ(sk, sk_lock.owned) ? KERNEL_SECTION_SOCKET : KERNEL_SECTION_UNKNOWN, stamp_ns(age));
}

SEC("tp_btf/tcp_probe")
int deliver__tp_btf(__u64 *ctx)
{
	on_delivery(ctx, (void *)ctx[0], (void *)ctx[1]);
	NEXT(ctx, tcp_probe);
}

/*
 * sent_long_ago tells whether a packet was sent two ticks ago or more, by the stamp that TCP gives each: since commit
 * d3edd06ea8ea (v4.20) the time in ns when it may leave.
 */
static __always_inline bool sent_long_ago(__s64 stamp, __u64 *ns)
{
	__u64 ticks_ns = bpf_jiffies64() * tick_ns, now;

	/* The ticks may be behind by one: less than one by them is less than two. */
	if (!stamp || (__s64)(ticks_ns + tick_zero_ns - stamp) < (__s64)tick_ns)
		return false;
	now = bpf_ktime_get_ns();
	if (!tick_zero_ns)
		tick_zero_ns = now - ticks_ns;
	*ns = now - stamp;
	return *ns >= MIN_TICKS * tick_ns;
}

/* The stamp of others may be of another clock; 60 s is longer than any queue. */
#define MAX_NS (60 * NSEC_PER_SEC)

/*
 * on_sent measures a packet of a connection that is in the namespace of the device. Which device that is, the packet
 * does not say once a veth has given it back: then it has the receiver's.
 */
static __always_inline void on_sent(void *ctx, struct sk_buff *skb, struct net_device *dev, enum kernel_section section,
				    __u64 ns)
{
	struct net *net = BPF_CORE_READ(dev, nd_net.net);
	struct sock *sk = BPF_CORE_READ(skb, sk);
	struct counted *c, this = { .skb = (__u64)skb, .stamp = BPF_CORE_READ(skb, tstamp) };
	__u32 i = this.skb >> 6 & 4095;
	struct segment s;
	struct flow f = {};

	if (ns > MAX_NS || !sk || net != sock_net(sk))
		return;
	skb_flow(skb, &f);
	if (f.proto != IPPROTO_TCP || !segment_of(skb, &s))
		return;
	/* The stamp of an acknowledgment may be that of the last segment before it. */
	if (!s.payload && !(s.flags & (TCP_FLAG_SYN | TCP_FLAG_FIN)))
		return;
	c = bpf_map_lookup_elem(&counted, &i);
	if (!c || (c->skb == this.skb && c->stamp == this.stamp))
		return;
	if (ns >= MIN_TICKS * tick_ns)
		*c = this;
	slow_packet(ctx, skb, net, KERNEL_TYPE_TX, section, ns);
}

/* A packet is handed to a device, or to its queue. */
SEC("tp_btf/net_dev_queue")
int send__tp_btf(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	__s64 stamp = skb->tstamp;
	__u64 ns;

	if (sent_long_ago(stamp, &ns))
		on_sent(ctx, skb, skb->dev, KERNEL_SECTION_UNKNOWN, ns);
	else if (full_histograms && stamp)
		on_sent(ctx, skb, skb->dev, KERNEL_SECTION_UNKNOWN, bpf_ktime_get_ns() - stamp);
	NEXT(ctx, net_dev_queue);
}

/* Packets leave the queue of a device, often several at once. */
SEC("raw_tp/qdisc_dequeue")
int dequeue__raw_tp(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[3];
	struct netdev_queue *queue = (void *)ctx[1];
	__u64 ns;
	int i;

	for (i = 0; i < MAX_DEQUEUED && i < (int)ctx[2] && skb; i++) {
		if (sent_long_ago(BPF_CORE_READ(skb, tstamp), &ns))
			on_sent(ctx, skb, BPF_CORE_READ(queue, dev), KERNEL_SECTION_QDISC, ns);
		skb = BPF_CORE_READ(skb, next);
	}
	return 0;
}
