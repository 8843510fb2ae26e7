/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* packet.h: namespace and flow of a packet or a socket, IPv4 and IPv6. */
#pragma once

#include "event.h"

static __always_inline void netns_id(struct net *net, struct netns_id *id)
{
	id->inode = BPF_CORE_READ(net, ns.inum);
	if (bpf_core_field_exists(net->net_cookie))
		id->cookie = BPF_CORE_READ(net, net_cookie);
}

static __always_inline struct net *sock_net(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net);
}

/* sock_cgroup returns the id of the cgroup (v2) in which a socket was made, 0 if it is not told. */
static __always_inline __u64 sock_cgroup(struct sock *sk)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct cgroup *cgroup;

	/* These are smaller than a struct sock. */
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV || !bpf_core_field_exists(sk->sk_cgrp_data))
		return 0;
	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup)) {
		cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	} else {
		struct sock_cgroup_data___tagged *data = (void *)&sk->sk_cgrp_data;

		cgroup = (void *)BPF_CORE_READ(data, val);
		if ((__u64)cgroup & 3)
			return 0;
	}
	return cgroup ? BPF_CORE_READ(cgroup, kn, id) : 0;
}

/*
 * event_socket notes whose an event in the host's namespace is, which the namespace does not tell.
 * sk may be NULL, or a socket of another namespace that a packet still carries.
 */
static __always_inline void event_socket(struct event_hdr *hdr, struct sock *sk)
{
	struct net *net;

	if (!host_netns || hdr->netns.inode != host_netns || !sk)
		return;
	net = sock_net(sk);
	if (BPF_CORE_READ(net, ns.inum) == host_netns)
		hdr->cgroup = sock_cgroup(sk);
}

/* is_net tells whether p points to a struct net: what else lies there has no such ns.ops. */
static __always_inline bool is_net(struct net *p)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const void *ops = BPF_CORE_READ(task, group_leader, nsproxy, net_ns, ns.ops);

	/* A task on its way out has no nsproxy any more: nothing to compare with. */
	return p && (!ops || BPF_CORE_READ(p, ns.ops) == ops);
}

/*
 * skb_net returns the namespace in which a packet is, or NULL.
 *
 * The device comes before skb->sk: a packet that crosses a veth pair keeps the sender's socket
 * until ip_rcv(). But skb->dev shares its memory with what sockets keep there once they have
 * queued the packet (dev_scratch, rbnode), so what it leads to must prove to be a namespace.
 */
static __always_inline struct net *skb_net(struct sk_buff *skb)
{
	struct net_device *dev = BPF_CORE_READ(skb, dev);
	struct net *net = NULL;
	struct dst_entry *dst;
	struct sock *sk;

	if (dev)
		net = BPF_CORE_READ(dev, nd_net.net);
	if (is_net(net))
		return net;
	sk = BPF_CORE_READ(skb, sk);
	if (sk) {
		net = sock_net(sk);
		if (is_net(net))
			return net;
	}
	/* SKB_DST_NOREF is the lowest bit, include/linux/skbuff.h */
	dst = (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~1UL);
	if (dst) {
		net = BPF_CORE_READ(dst, dev, nd_net.net);
		if (is_net(net))
			return net;
	}
	return NULL;
}

/* l4_of finds the transport header of an IPv6 packet behind its extension headers, RFC 8200 section 4. */
static __always_inline unsigned char *l4_of(unsigned char *p, __u8 *proto)
{
	__u8 ext[2];
	int i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		switch (*proto) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
			if (bpf_probe_read_kernel(ext, sizeof(ext), p))
				return NULL;
			p += (ext[1] + 1) * 8;
			break;
		case IPPROTO_FRAGMENT:
			if (bpf_probe_read_kernel(ext, sizeof(ext), p))
				return NULL;
			p += 8;
			break;
		default:
			return p;
		}
		*proto = ext[0];
	}
	return p;
}

/* skb_flow fills f, which must be zeroed, from the headers of a packet. */
static __always_inline void skb_flow(struct sk_buff *skb, struct flow *f)
{
	unsigned char *head = BPF_CORE_READ(skb, head), *l4;
	__u16 l3_off = BPF_CORE_READ(skb, network_header);
	__u16 protocol = bpf_ntohs(BPF_CORE_READ(skb, protocol));
	__u8 ip[40];
	__be16 ports[2];

	if (protocol && protocol != ETH_P_IP && protocol != ETH_P_IPV6)
		return;
	/* skb_reset_network_header() has not run yet: nothing to read. */
	if (!l3_off || l3_off == (__u16)~0)
		return;
	if (bpf_probe_read_kernel(ip, 20, head + l3_off))
		return;
	switch (ip[0] >> 4) {
	case 4:
		f->family = 4;
		f->proto = ip[9];
		__builtin_memcpy(f->saddr, ip + 12, 4);
		__builtin_memcpy(f->daddr, ip + 16, 4);
		/* Only the first fragment has the ports. */
		if (((ip[6] & 0x1f) << 8 | ip[7]) != 0)
			return;
		l4 = head + l3_off + (ip[0] & 0xf) * 4;
		break;
	case 6:
		if (bpf_probe_read_kernel(ip, sizeof(ip), head + l3_off))
			return;
		f->family = 6;
		f->proto = ip[6];
		__builtin_memcpy(f->saddr, ip + 8, 16);
		__builtin_memcpy(f->daddr, ip + 24, 16);
		l4 = l4_of(head + l3_off + 40, &f->proto);
		break;
	default:
		return;
	}
	switch (f->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		if (!l4 || bpf_probe_read_kernel(ports, sizeof(ports), l4))
			return;
		f->sport = bpf_ntohs(ports[0]);
		f->dport = bpf_ntohs(ports[1]);
		if (f->proto == IPPROTO_TCP)
			bpf_probe_read_kernel(&f->tcp_flags, 1, l4 + 13);
	}
}

/* sock_flow fills f, which must be zeroed, from a TCP socket's own point of view: source is local. */
static __always_inline void sock_flow(struct sock *sk, struct flow *f)
{
	/* skc_num is 0 already once inet_put_port() has run, inet_sport stays. */
	f->sport = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	f->dport = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	f->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	f->proto = IPPROTO_TCP;
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		f->family = 6;
		BPF_CORE_READ_INTO(&f->saddr, sk, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8);
		BPF_CORE_READ_INTO(&f->daddr, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
	} else {
		__be32 local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		__be32 peer = BPF_CORE_READ(sk, __sk_common.skc_daddr);

		f->family = 4;
		__builtin_memcpy(f->saddr, &local, sizeof(local));
		__builtin_memcpy(f->daddr, &peer, sizeof(peer));
	}
}

/* flow_reverse turns the view of the sender into that of the receiver. */
static __always_inline void flow_reverse(struct flow *f)
{
	struct flow orig = *f;

	__builtin_memcpy(f->saddr, orig.daddr, sizeof(f->saddr));
	__builtin_memcpy(f->daddr, orig.saddr, sizeof(f->daddr));
	f->sport = orig.dport;
	f->dport = orig.sport;
}
