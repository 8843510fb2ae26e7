// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* socketlatency: how long what has arrived stays unread, and what was written unsent. TCP. */
#include "include/path.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum socket_type {
	SOCKET_TYPE_READ = 0,
	SOCKET_TYPE_WRITE,
};
EXPORT(enum socket_type, socket_type);

struct event {
	struct event_hdr hdr;
	struct latency latency;
	__u32 type; /* enum socket_type */
	__u32 pad;
};

/* What the kernel does not keep itself. A socket has it only once something waits. Stamps are 0 where nothing does. */
struct state {
	__u32 unread; /* since when bytes are unread: they came, or the process has read others before them */
	__u32 unsent; /* since when bytes are unsent: they were written, or others before them have been sent */
	__u32 pid;    /* who wrote them */
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct state);
} states SEC(".maps");

EVENTS(64 * 1024);
CHAIN(tcp_probe);
CHAIN(net_dev_queue);

/* A program has seen a write: from now on none goes unseen. */
bool writes_seen;

static __always_inline struct state *state_of(struct sock *sk)
{
	return sk->sk_bpf_storage ? bpf_sk_storage_get(&states, sk, NULL, 0) : NULL;
}

static __always_inline struct state *new_state(struct sock *sk)
{
	return bpf_sk_storage_get(&states, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

/* some returns a stamp that is not 0, which says that there is none. */
static __always_inline __u32 some(__u32 stamp)
{
	return stamp ? stamp : 1;
}

/*
 * A segment has come for an established connection and is about to be taken in. If it meets unread bytes, the kernel
 * is about to forget when those came, for it keeps the time of the last arrival only. In most cases there are none.
 */
static __always_inline void on_arrival(struct sock *sk, struct tcp_sock *tp)
{
	__u32 last = tp->inet_conn.icsk_ack.lrcvtime;
	struct state *s;

	if (tp->rcv_nxt == tp->copied_seq) {
		s = full_histograms ? new_state(sk) : state_of(sk);
		if (s)
			s->unread = full_histograms ? some(stamp_now()) : 0;
		return;
	}
	if (full_histograms || last == stamp_now())
		return;
	s = new_state(sk);
	if (s && !s->unread)
		s->unread = some(last);
}

SEC("tp_btf/tcp_probe")
int arrival__tp_btf(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	struct tcp_sock *tp = tcp_sock_of(sk);

	if (tp)
		on_arrival(sk, tp);
	NEXT(ctx, tcp_probe);
}

/* A process has looked at unread bytes. */
SEC("tp_btf/tcp_rcv_space_adjust")
int read__tp_btf(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	struct tcp_sock *tp = tcp_sock_of(sk);
	__u32 now = stamp_now(), age;
	struct state *s;
	struct event *e;
	bool more;

	if (!tp)
		return 0;
	s = state_of(sk);
	if (s && s->unread)
		age = now - s->unread;
	else if (full_histograms)
		return 0;
	else
		age = now - tp->inet_conn.icsk_ack.lrcvtime;
	more = tp->rcv_nxt != tp->copied_seq;
	if (!s && more && !is_short(age))
		s = new_state(sk);
	if (s)
		s->unread = more ? some(now) : 0;
	if (is_short(age))
		return 0;
	e = measured(&events, sizeof(*e), sk->__sk_common.skc_net.net, SOCKET_TYPE_READ, stamp_ns(age));
	if (!e)
		return 0;
	sock_flow(sk, &e->hdr.flow);
	latency_fill(&e->latency, stamp_ns(age));
	e->type = SOCKET_TYPE_READ;
	e->pad = 0;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/*
 * A process is about to write. The kernel keeps the time when the queue of what is unsent or unacknowledged became
 * not empty; what is written into an empty one needs no stamp of ours, unless the peer's window will keep it there
 * and the event should name the process.
 */
static __always_inline int on_write(struct sock *sk)
{
	struct tcp_sock *tp = tcp_sock_of(sk);
	struct state *s;

	if (!tp)
		return 0;
	if (!writes_seen)
		writes_seen = true;
	if (!full_histograms && !sk->sk_bpf_storage && !BPF_CORE_READ_BITFIELD(tp, chrono_type) &&
	    tp->snd_wnd >= tp->mss_cache)
		return 0;
	s = new_state(sk);
	if (!s)
		return 0;
	if (tp->write_seq == tp->snd_nxt)
		s->unsent = some(stamp_now());
	else if (!s->unsent)
		s->unsent = some(full_histograms ? stamp_now() : tp->chrono_start);
	s->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(s->comm, sizeof(s->comm));
	return 0;
}

SEC("tp_btf/tcp_sendmsg_locked")
int write__tp_btf(__u64 *ctx)
{
	return on_write((void *)ctx[0]);
}

SEC("fentry/tcp_sendmsg_locked")
int write__fentry(__u64 *ctx)
{
	return on_write((void *)ctx[0]);
}

/* States in which a socket is one of those, and sends data. */
#define SENDING (1 << TCP_ESTABLISHED | 1 << TCP_CLOSE_WAIT | 1 << TCP_FIN_WAIT1 | 1 << TCP_LAST_ACK | 1 << TCP_CLOSING)

/* TCP has given a packet to a device, or to its queue. */
static __always_inline void on_sent(struct sk_buff *skb)
{
	struct sock *sk = skb->sk;
	__u32 now, age, since = 0;
	struct tcp_sock *tp;
	struct segment seg;
	struct state *s;
	struct event *e;
	__u8 chrono;
	bool seen;

	if (!sk || !(1 << (sk->__sk_common.skc_state & 31) & SENDING) || sk->sk_protocol != IPPROTO_TCP)
		return;
	tp = tcp_sock_of(sk);
	if (!tp)
		return;
	chrono = BPF_CORE_READ_BITFIELD(tp, chrono_type);
	now = stamp_now();
	s = state_of(sk);
	/* Nothing has been in the queue for long. Of other types the time says since when it is so. */
	if (!s && (full_histograms || !chrono || (chrono == TCP_CHRONO_BUSY && is_short(now - tp->chrono_start))))
		return;
	/* Not an acknowledgment or a segment that is sent again: the kernel moves snd_nxt afterwards. */
	if (!writes_seen || !segment_of(skb, &seg) || !seg.payload || seg.seq != tp->snd_nxt)
		return;
	if (s)
		since = s->unsent;
	if (!full_histograms) {
		/* MPTCP writes past tcp_sendmsg_locked(), and before commit dc97391e6610 (v6.5) sendfile() did. */
		seen = !bpf_core_field_exists(((struct proto *)0)->sendpage);
		if (bpf_core_field_exists(tp->is_mptcp))
			seen = seen && !BPF_CORE_READ_BITFIELD(tp, is_mptcp);
		if (!since && (seen ? !s : !tp->packets_out))
			since = some(tp->chrono_start);
		if (since && !seen && chrono == TCP_CHRONO_BUSY && (__s32)(since - tp->chrono_start) < 0)
			since = some(tp->chrono_start);
	}
	if (!s && seg.seq + seg.payload != tp->write_seq)
		s = new_state(sk);
	if (s)
		s->unsent = seg.seq + seg.payload != tp->write_seq ? some(now) : 0;
	age = now - since;
	if (!since || is_short(age))
		return;
	e = measured(&events, sizeof(*e), sk->__sk_common.skc_net.net, SOCKET_TYPE_WRITE, stamp_ns(age));
	if (!e)
		return;
	sock_flow(sk, &e->hdr.flow);
	__builtin_memset(&e->latency, 0, sizeof(e->latency));
	e->latency.ns = stamp_ns(age);
	if (s) {
		e->latency.pid = s->pid;
		__builtin_memcpy(e->latency.comm, s->comm, sizeof(s->comm));
	}
	e->type = SOCKET_TYPE_WRITE;
	e->pad = 0;
	bpf_ringbuf_submit(e, 0);
}

SEC("tp_btf/net_dev_queue")
int sent__tp_btf(__u64 *ctx)
{
	on_sent((void *)ctx[0]);
	NEXT(ctx, net_dev_queue);
}
