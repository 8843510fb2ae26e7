/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * kernel.h: the kernel types that the programs touch, and only the fields that they touch.
 *
 * Every record is relocated against the running kernel's BTF (CO-RE), so that order and gaps
 * do not matter here. A field that some kernel lacks must be guarded by bpf_core_field_exists();
 * where a program cannot do its work without it, REQUIRE() makes the program refuse to load, so
 * that the loader takes the next variant of the hook.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

/* include/uapi/linux/bpf.h */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};

enum {
	BPF_F_NO_PREALLOC = 1U << 0,
	BPF_F_MMAPABLE = 1U << 10,
	BPF_SK_STORAGE_GET_F_CREATE = 1,
};

/* include/uapi/linux/in.h, in6.h, if_ether.h: fixed by the protocols */
enum {
	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86DD,
	IPPROTO_HOPOPTS = 0,
	IPPROTO_ICMP = 1,
	IPPROTO_IGMP = 2,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_ICMPV6 = 58,
	IPPROTO_DSTOPTS = 60,
	IPPROTO_SCTP = 132,
	IPPROTO_UDPLITE = 136,
	AF_INET6 = 10,
};

/* include/uapi/linux/stat.h */
enum {
	S_IFMT = 0170000,
	S_IFSOCK = 0140000,
};

/* flags byte of the TCP header, RFC 9293 section 3.1 */
enum {
	TCP_FLAG_FIN = 0x01,
	TCP_FLAG_SYN = 0x02,
	TCP_FLAG_RST = 0x04,
	TCP_FLAG_ACK = 0x10,
};

/* include/net/tcp_states.h: part of the user space ABI (ss, /proc/net/tcp) */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
};

/* include/linux/tcp.h, enum tcp_chrono: why the queue of a socket is not empty */
enum {
	TCP_CHRONO_BUSY = 1, /* for no other reason */
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next, *prev;
};

struct proc_ns_operations;

struct ns_common {
	unsigned int inum;
	const struct proc_ns_operations *ops;
};

struct tcp_mib {
	unsigned long mibs[16];
};

struct udp_mib {
	unsigned long mibs[10];
};

struct linux_mib {
	unsigned long mibs[128];
};

struct hlist_nulls_node {
	struct hlist_nulls_node *next;
};

/* The last node of a chain is odd: it holds the bucket's number (include/linux/list_nulls.h). */
struct hlist_nulls_head {
	struct hlist_nulls_node *first;
};

struct inet_ehash_bucket {
	struct hlist_nulls_head chain;
};

struct inet_listen_hashbucket {
	struct hlist_nulls_head nulls_head;
};

struct inet_hashinfo {
	struct inet_ehash_bucket *ehash;
	unsigned int ehash_mask;
	unsigned int lhash2_mask;
	struct inet_listen_hashbucket *lhash2;
};

struct inet_timewait_death_row {
	struct inet_hashinfo *hashinfo;
};

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
};

/* commit fbb8295248e1 (v5.17) made tcp_death_row a pointer, commit e9bd0cca09d1 (v6.1) undid it. */
struct netns_ipv4___pointer {
	struct inet_timewait_death_row *tcp_death_row;
};

struct netns_mib {
	struct tcp_mib *tcp_statistics;
	struct linux_mib *net_statistics;
	struct udp_mib *udp_statistics;
	struct udp_mib *udp_stats_in6;
};

struct nf_hook_entries;

struct netns_nf {
	struct nf_hook_entries *hooks_ipv4[1]; /* the first, NF_INET_PRE_ROUTING, is all that is looked at */
	struct nf_hook_entries *hooks_ipv6[1];
};

struct net_device;

struct net {
	struct list_head list;
	struct list_head dev_base_head;
	struct net_device *loopback_dev;
	struct ns_common ns;
	struct netns_mib mib;
	struct netns_ipv4 ipv4;
	struct netns_nf nf;
	/*
	 * commit 3d368ab87cf6 (v5.12) made it a plain u64; before, it is an atomic64_t that
	 * stays 0 until somebody asks, which does not match this declaration: not used there.
	 */
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	struct list_head dev_list;
	possible_net_t nd_net;
};

struct dst_entry {
	struct net_device *dev;
};

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

struct sock_common {
	union {
		struct {
			__be32 skc_daddr;
			__be32 skc_rcv_saddr;
		};
	};
	union {
		struct {
			__be16 skc_dport;
			__u16 skc_num;
		};
	};
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	union {
		struct hlist_nulls_node skc_nulls_node;
	};
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

/* Before commit 8520e224f547 (v5.15, 5.10.226) what is not a cgroup has one of the lowest two bits: for net_cls, net_prio. */
struct sock_cgroup_data___tagged {
	__u64 val;
};

struct bpf_local_storage;

typedef struct {
	int owned;
} socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	struct sock_cgroup_data sk_cgrp_data;
	socket_lock_t sk_lock;
	__u16 sk_protocol;
	struct bpf_local_storage *sk_bpf_storage;
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

struct inet_timewait_sock {
	volatile unsigned char tw_substate; /* TCP_FIN_WAIT2 or TCP_TIME_WAIT; skc_state is TCP_TIME_WAIT in both */
};

struct hlist_node {
	struct hlist_node *next;
};

struct inet_connection_sock {
	/* commit cae3873c5b3a (v5.19) put listening sockets into lhash2 by their skc_nulls_node instead. */
	struct hlist_node icsk_listen_portaddr_node;
	struct {
		__u32 lrcvtime; /* when the last data segment arrived, in jiffies */
	} icsk_ack;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 snd_wnd;
	__u32 write_seq;
	__u32 mss_cache;
	__u32 packets_out;
	/* what it does, enum tcp_chrono, and since when, in jiffies: commit 05b055e89121 (v4.10) */
	__u32 chrono_start;
	__u8 chrono_type : 2;
	__u8 is_mptcp : 1;
};

struct proto {
	void *sendpage; /* until commit dc97391e6610 (v6.5) */
};

struct sk_buff {
	union {
		struct {
			struct sk_buff *next;
			union {
				struct net_device *dev;
			};
		};
	};
	struct sock *sk;
	__s64 tstamp;
	unsigned long _skb_refdst;
	unsigned int len;
	__be16 protocol;
	__u16 transport_header;
	__u16 network_header;
	unsigned char *head;
	unsigned char *data;
};

struct sk_buff_head {
	__u32 qlen;
};

struct netdev_queue {
	struct net_device *dev;
};

struct Qdisc {
	struct sk_buff_head gso_skb; /* what a device did not take */
};

struct nsproxy {
	struct net *net_ns;
};

struct inode {
	__u16 i_mode;
};

struct file_operations;

struct file {
	struct inode *f_inode;
	const struct file_operations *f_op;
	void *private_data;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
	unsigned long *open_fds;
};

struct files_struct {
	struct fdtable *fdt;
};

struct task_io_accounting {
	__u64 syscr;
	__u64 syscw;
	__u64 read_bytes;
	__u64 write_bytes;
};

struct signal_struct {
	struct list_head thread_head;
	struct task_io_accounting ioac; /* of threads that have ended */
};

struct upid {
	int nr;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct task_struct {
	int pid;
	int tgid;
	struct pid *thread_pid;
	struct nsproxy *nsproxy;
	struct task_struct *group_leader;
	struct files_struct *files;
	struct signal_struct *signal;
	struct list_head thread_node;
	struct task_io_accounting ioac;
	__u64 start_time;
	char comm[16];
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_map {
	__u32 max_entries;
};

struct bpf_array {
	struct bpf_map map;
	void *pptrs[0];
};

/* The arguments of a tracepoint show by the fields of its record. */
struct trace_event_raw_kfree_skb {
	void *rx_sk; /* commit c53795d48ee8 (v6.11) */
};

#pragma clang attribute pop

enum skb_drop_reason {
	SKB_NOT_DROPPED_YET = 0, /* the enum came with commit c504e5c2f964 (v5.17) */
	/* Values that move are relocated: bpf_core_enum_value(). */
	SKB_DROP_REASON_TCP_CSUM = 1,
	SKB_DROP_REASON_XFRM_POLICY,
};

enum sk_rst_reason {
	SK_RST_REASON_NOT_SPECIFIED = 0, /* commit 5cb2cb3eb0ba (v6.10) */
};

/*
 * REQUIRE makes the program fail to load where cond, a CO-RE predicate, is false: the verifier
 * meets a call to a function that no kernel has (the number that loaders put in place of a
 * relocation which they cannot resolve). The loader then takes the hook's next variant.
 */
static void *(*const unsupported_by_this_kernel)(void) = (void *)0xbad2310;

#define REQUIRE(cond)                                 \
	do {                                          \
		if (!(cond))                          \
			unsupported_by_this_kernel(); \
	} while (0)
