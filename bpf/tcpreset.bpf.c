// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* tcpreset: TCP resets sent and received, by namespace, class and reason. */
#include "include/kprobe.h"
#include "include/packet.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum reset_type {
	RESET_TYPE_NOSOCK = 1, /* sent: no socket matches */
	RESET_TYPE_ACTIVE,     /* sent: the local side gives up */
	RESET_TYPE_PROCESS,    /* sent: in answer to a segment for an existing socket */
	RESET_TYPE_RCV_SYN,    /* received during the three-way handshake */
	RESET_TYPE_RCV_ESTAB,  /* received on an established connection */
	RESET_TYPE_RCV_TW,     /* received during the four-way close */
};

struct reset_key {
	struct netns_id netns;
	__u32 type; /* enum reset_type */
	__u32 reason;
};

struct event {
	struct event_hdr hdr;
	__u32 type; /* enum reset_type */
	__u32 reason;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct reset_key);
	__type(value, __u64);
} resets SEC(".maps");

EVENTS(256 * 1024);

EXPORT(enum reset_type, reset_type);

/* sk is NULL if there is none. */
static __always_inline struct event *on_reset(struct net *net, struct sock *sk, enum reset_type type, __u32 reason)
{
	struct reset_key key = { .type = type, .reason = reason };
	struct event *e;

	if (net)
		netns_id(net, &key.netns);
	count(&resets, &key);
	e = event_reserve(&events, sizeof(*e));
	if (!e)
		return NULL;
	e->hdr.netns = key.netns;
	__builtin_memset(&e->hdr.flow, 0, sizeof(e->hdr.flow));
	event_socket(&e->hdr, sk);
	e->type = type;
	e->reason = reason;
	return e;
}

/*
 * A reset that answers a segment shows that segment, from its sender to here; every other reset
 * shows the local socket and its peer.
 */
static __always_inline int on_sent(struct sock *sk, struct sk_buff *skb, __u32 reason)
{
	enum reset_type type = !sk ? RESET_TYPE_NOSOCK : !skb ? RESET_TYPE_ACTIVE : RESET_TYPE_PROCESS;
	struct event *e;

	e = on_reset(sk ? sock_net(sk) : skb_net(skb), sk, type, reason);
	if (!e)
		return 0;
	if (skb) {
		skb_flow(skb, &e->hdr.flow);
		if (sk)
			e->hdr.flow.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	} else {
		sock_flow(sk, &e->hdr.flow);
	}
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* commit edefba66d929 (v6.10) and its neighbours let the tracepoint tell all three classes; older ones are silent without a socket. */
SEC("raw_tp/tcp_send_reset")
int sent__raw_tp(__u64 *ctx)
{
	REQUIRE(bpf_core_type_exists(enum sk_rst_reason));
	return on_sent((void *)ctx[0], (void *)ctx[1], ctx[2]);
}

/* on_answer: tcp_v4_send_reset() and its twin never answer a reset with a reset. */
static __always_inline int on_answer(struct sock *sk, struct sk_buff *skb)
{
	struct flow f = {};

	skb_flow(skb, &f);
	if (f.tcp_flags & TCP_FLAG_RST)
		return 0;
	return on_sent(sk, skb, 0);
}

SEC("fentry/tcp_v4_send_reset")
int sent__fentry_v4(__u64 *ctx)
{
	return on_answer((void *)ctx[0], (void *)ctx[1]);
}

SEC("fentry/tcp_v6_send_reset")
int sent__fentry_v6(__u64 *ctx)
{
	return on_answer((void *)ctx[0], (void *)ctx[1]);
}

SEC("fentry/tcp_send_active_reset")
int sent__fentry_active(__u64 *ctx)
{
	return on_sent((void *)ctx[0], NULL, 0);
}

SEC("kprobe/tcp_v4_send_reset")
int sent__kprobe_v4(struct pt_regs *ctx)
{
	return on_answer((void *)kprobe_arg(ctx, 0), (void *)kprobe_arg(ctx, 1));
}

SEC("kprobe/tcp_v6_send_reset")
int sent__kprobe_v6(struct pt_regs *ctx)
{
	return on_answer((void *)kprobe_arg(ctx, 0), (void *)kprobe_arg(ctx, 1));
}

SEC("kprobe/tcp_send_active_reset")
int sent__kprobe_active(struct pt_regs *ctx)
{
	return on_sent((void *)kprobe_arg(ctx, 0), NULL, 0);
}

/* The only variant: every kernel with BTF has this tracepoint. */
SEC("raw_tp/tcp_receive_reset")
int received__raw_tp(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct event *e;

	e = on_reset(sock_net(sk), sk,
		     state == TCP_SYN_SENT || state == TCP_SYN_RECV ? RESET_TYPE_RCV_SYN : RESET_TYPE_RCV_ESTAB, 0);
	if (!e)
		return 0;
	sock_flow(sk, &e->hdr.flow);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* on_silent: a reset that ends a mini socket never reaches tcp_reset(). */
static __always_inline int on_silent(struct sock *sk, struct flow *f, __u8 state)
{
	struct event *e;

	e = on_reset(sock_net(sk), sk, state == TCP_TIME_WAIT ? RESET_TYPE_RCV_TW : RESET_TYPE_RCV_SYN, 0);
	if (!e)
		return 0;
	e->hdr.flow = *f;
	flow_reverse(&e->hdr.flow);
	e->hdr.flow.state = state;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Such segments are dropped on behalf of the TIME_WAIT socket or, when half-open, of the listener. */
SEC("raw_tp/kfree_skb")
int silent__raw_tp(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct flow f = {};
	struct sock *sk;
	__u8 state;

	REQUIRE(bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk));
	sk = (void *)ctx[3];
	if (!sk)
		return 0;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (state != TCP_TIME_WAIT && state != TCP_LISTEN)
		return 0;
	skb_flow(skb, &f);
	if (f.proto != IPPROTO_TCP || !(f.tcp_flags & TCP_FLAG_RST))
		return 0;
	return on_silent(sk, &f, state == TCP_LISTEN ? TCP_SYN_RECV : state);
}

static __always_inline int on_mini_socket(struct sock *sk, struct sk_buff *skb, __u8 state)
{
	struct flow f = {};

	skb_flow(skb, &f);
	if (!(f.tcp_flags & TCP_FLAG_RST))
		return 0;
	return on_silent(sk, &f, state);
}

/* Arguments after the first two differ between kernels. */
SEC("fentry/tcp_timewait_state_process")
int silent__fentry_tw(__u64 *ctx)
{
	return on_mini_socket((void *)ctx[0], (void *)ctx[1], TCP_TIME_WAIT);
}

SEC("fentry/tcp_check_req")
int silent__fentry_req(__u64 *ctx)
{
	return on_mini_socket((void *)ctx[0], (void *)ctx[1], TCP_SYN_RECV);
}

SEC("kprobe/tcp_timewait_state_process")
int silent__kprobe_tw(struct pt_regs *ctx)
{
	return on_mini_socket((void *)kprobe_arg(ctx, 0), (void *)kprobe_arg(ctx, 1), TCP_TIME_WAIT);
}

SEC("kprobe/tcp_check_req")
int silent__kprobe_req(struct pt_regs *ctx)
{
	return on_mini_socket((void *)kprobe_arg(ctx, 0), (void *)kprobe_arg(ctx, 1), TCP_SYN_RECV);
}
