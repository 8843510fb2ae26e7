// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* packetloss: packets that the kernel dropped, by namespace and reason; samples with stack. */
#include "include/packet.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Reasons below this have a verdict; those of subsystems are above (include/net/dropreason.h). */
#define MAX_REASONS 256
#define MAX_FRAMES 24

/* What a drop reason says of the packet. */
enum verdict {
	/* a packet that was not at fault itself is lost */
	VERDICT_LOSS = 0,
	/* it was at fault itself, or has come to an ordinary end */
	VERDICT_BENIGN,
	/* the reason does not tell: look where it was dropped, then at the packet */
	VERDICT_LOOK,
	/* likewise, and nobody wants it: TCP answers with a reset, which is probe tcpreset's to report */
	VERDICT_NO_SOCKET,
};
EXPORT(enum verdict, verdict);

/* Set by user space, which knows the running kernel's names of the reasons. */
const volatile __u8 verdicts[MAX_REASONS];

#define MAX_PLACES 64 /* a power of two */

/* A function of the kernel, and what a drop there says of the packet. */
struct place {
	__u64 start, end;
	__u64 verdict; /* enum verdict */
};

/*
 * Where the reason does not tell, or there is none (before commit c504e5c2f964, v5.17), the function
 * may. In the order of their addresses; the first is at 0, the last repeats.
 */
const volatile struct place places[MAX_PLACES];

struct drop_key {
	struct netns_id netns;
	__u32 reason;
	__u32 abnormal; /* bool */
};

struct event {
	struct event_hdr hdr;
	__u64 location; /* return address in the function that dropped the packet */
	__u32 reason;
	__u32 frames; /* valid elements of stack */
	__u64 stack[MAX_FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct drop_key);
	__type(value, __u64);
} drops SEC(".maps");

EVENTS(512 * 1024);

static __always_inline __u8 verdict_at(__u64 location)
{
	__u32 i = 0, step;

	for (step = MAX_PLACES / 2; step; step /= 2)
		if (places[(i + step) & (MAX_PLACES - 1)].start <= location)
			i += step;
	i &= MAX_PLACES - 1;
	return location < places[i].end ? places[i].verdict : VERDICT_LOOK;
}

static __always_inline __u8 verdict_of(__u32 reason, __u64 location)
{
	__u8 verdict = reason < MAX_REASONS ? verdicts[reason] : VERDICT_LOSS;

	return verdict == VERDICT_LOOK ? verdict_at(location) : verdict;
}

static __always_inline bool is_multicast(struct flow *f)
{
	return f->family == 4 ? f->daddr[0] >> 4 == 0xe : f->family == 6 && f->daddr[0] == 0xff;
}

/* is_abnormal tells whether a drop is the loss of a packet that was not at fault itself. */
static __always_inline bool is_abnormal(struct sk_buff *skb, struct sock *rx_sk, __u8 verdict)
{
	struct flow f = {};

	if (verdict == VERDICT_LOSS || verdict == VERDICT_BENIGN)
		return verdict == VERDICT_LOSS;
	skb_flow(skb, &f);
	/* Not IP (ARP, LLDP, vsock), or of a group that nobody here is in. */
	if (!f.family || is_multicast(&f))
		return false;
	/* Control messages come to their ordinary end without a reason, icmpv6_rcv() for one. */
	if (f.proto == IPPROTO_ICMP || f.proto == IPPROTO_IGMP || f.proto == IPPROTO_ICMPV6)
		return false;
	if (f.proto != IPPROTO_TCP)
		return true;
	/* A reset has done its work by arriving, and so has what a TIME_WAIT socket has processed. */
	if (f.tcp_flags & TCP_FLAG_RST)
		return false;
	if (rx_sk && BPF_CORE_READ(rx_sk, __sk_common.skc_state) == TCP_TIME_WAIT)
		return false;
	/* Before rx_sk many a segment that has been dealt with is dropped like any other. */
	if (!bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk))
		return false;
	return verdict != VERDICT_NO_SOCKET;
}

SEC("raw_tp/kfree_skb")
int drop__raw_tp(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct event *e;
	struct drop_key key = {};
	struct sock *rx_sk = NULL;
	struct net *net;
	long n;

	/* What is not there is dead code to the verifier before it checks the bounds of ctx. */
	if (bpf_core_type_exists(enum skb_drop_reason))
		key.reason = ctx[2];
	if (bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk))
		rx_sk = (void *)ctx[3];

	net = rx_sk ? sock_net(rx_sk) : skb_net(skb);
	if (net)
		netns_id(net, &key.netns);
	key.abnormal = is_abnormal(skb, rx_sk, verdict_of(key.reason, ctx[1]));
	count(&drops, &key);
	if (!key.abnormal)
		return 0;

	e = event_reserve(&events, sizeof(*e));
	if (!e)
		return 0;
	e->hdr.netns = key.netns;
	__builtin_memset(&e->hdr.flow, 0, sizeof(e->hdr.flow));
	skb_flow(skb, &e->hdr.flow);
	event_socket(&e->hdr, rx_sk ? rx_sk : BPF_CORE_READ(skb, sk));
	e->location = ctx[1];
	e->reason = key.reason;
	/* Skip the frames of the tracing itself: bpf_trace_run, the tracepoint's stub and the program. */
	n = bpf_get_stack(ctx, e->stack, sizeof(e->stack), 3);
	e->frames = n > 0 ? n / sizeof(__u64) : 0;
	bpf_ringbuf_submit(e, 0);
	return 0;
}
