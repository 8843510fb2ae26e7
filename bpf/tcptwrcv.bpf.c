// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/*
 * tcptwrcv: segments that arrive for a connection in TIME_WAIT and are processed there, by namespace.
 *
 * Resets are left to tcpreset (TCP_RCV_RST_TW). The kernel keeps an orphan in FIN_WAIT2 as a
 * TIME_WAIT socket, too: what arrives there is part of an ordinary close.
 */
#include "include/kprobe.h"
#include "include/packet.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct segment_key {
	struct netns_id netns;
};

struct event {
	struct event_hdr hdr;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct segment_key);
	__type(value, __u64);
} segments SEC(".maps");

EVENTS(128 * 1024);

static __always_inline bool in_time_wait(struct sock *sk)
{
	struct inet_timewait_sock *tw = (void *)sk;

	return BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_TIME_WAIT &&
	       BPF_CORE_READ(tw, tw_substate) == TCP_TIME_WAIT;
}

/* The segment is shown as the socket sees it: the source is local. */
static __always_inline int on_segment(struct sock *sk, struct flow *f)
{
	struct segment_key key = {};
	struct event *e;

	netns_id(sock_net(sk), &key.netns);
	count(&segments, &key);
	e = event_reserve(&events, sizeof(*e));
	if (!e)
		return 0;
	e->hdr.netns = key.netns;
	e->hdr.flow = *f;
	flow_reverse(&e->hdr.flow);
	e->hdr.flow.state = TCP_TIME_WAIT;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline int before_processing(struct sock *sk, struct sk_buff *skb)
{
	struct flow f = {};

	if (!in_time_wait(sk))
		return 0;
	skb_flow(skb, &f);
	if (f.tcp_flags & TCP_FLAG_RST)
		return 0;
	return on_segment(sk, &f);
}

/* Arguments after the first two differ between kernels. */
SEC("fentry/tcp_timewait_state_process")
int processed__fentry(__u64 *ctx)
{
	return before_processing((void *)ctx[0], (void *)ctx[1]);
}

SEC("kprobe/tcp_timewait_state_process")
int processed__kprobe(struct pt_regs *ctx)
{
	return before_processing((void *)kprobe_arg(ctx, 0), (void *)kprobe_arg(ctx, 1));
}

/*
 * The socket drops what it has processed. So it is seen afterwards, when a FIN may have brought an
 * orphan from FIN_WAIT2 to TIME_WAIT a moment ago: a FIN is not taken. Nor is seen the SYN that
 * opens the connection anew, which is not dropped.
 */
SEC("raw_tp/kfree_skb")
int processed__last_raw_tp(__u64 *ctx)
{
	struct sock *sk;
	__u32 reason;
	struct flow f = {};

	REQUIRE(bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk));
	reason = ctx[2];
	sk = (void *)ctx[3];
	if (!sk || !in_time_wait(sk))
		return 0;
	/* tcp_v4_rcv() drops these before the socket has a look. */
	if (reason == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_TCP_CSUM) ||
	    reason == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_XFRM_POLICY))
		return 0;
	skb_flow((void *)ctx[0], &f);
	if (f.proto != IPPROTO_TCP || f.tcp_flags & (TCP_FLAG_RST | TCP_FLAG_FIN))
		return 0;
	return on_segment(sk, &f);
}
