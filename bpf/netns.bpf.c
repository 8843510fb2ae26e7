// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* netns: all network namespaces with their counters in one pass, and who lives in them. */
#include "include/packet.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Room for the MIBs of future kernels; user space checks the indexes that it wants against it. */
#define MAX_TCP_MIB 16
#define MAX_UDP_MIB 16
#define MAX_LINUX_MIB 192
#define MAX_CPUS 4096 /* power of two */

/* TCP sockets of one network namespace. */
struct socket_totals {
	__u64 established;
	__u64 time_wait;
	__u64 tx_queue; /* bytes, of those that are established */
	__u64 rx_queue;
};

/* Listening TCP sockets of one network namespace. */
struct listener_totals {
	__u64 sockets;
	__u64 queue; /* connections that wait to be accepted */
	__u64 limit; /* the sum of the backlogs of listen(2), capped by net.core.somaxconn */
	__u64 full;  /* sockets whose queue takes no more connections */
};

/* The TCP sockets of one network namespace: a cache line, which each socket that is met touches. */
struct tcp_totals {
	struct socket_totals sockets;
	struct listener_totals listeners;
};

/* One network namespace. Counters are sums over all CPUs, indexed as the running kernel's enums say. */
struct netns_record {
	struct netns_id id;
	__u64 net;      /* address of struct net */
	__u64 hashinfo; /* address of the table of its TCP sockets */
	__u32 ehash_size;
	__u32 lhash2_size;
	__u32 may_track;   /* bool: connection tracking may be on */
	__u32 has_devices; /* bool: there is a network device other than lo */
	__u64 tcp[MAX_TCP_MIB];
	__u64 linux_mib[MAX_LINUX_MIB];
	__u64 udp[MAX_UDP_MIB];
	__u64 udp6[MAX_UDP_MIB];
};

/* One process, or one thread that has left the namespace of its process. */
struct task_record {
	struct netns_id netns;
	__u64 start_ns; /* CLOCK_MONOTONIC */
	__u32 tgid;
	__u32 pad;
	/* Of the process with all its threads; 0 for a thread. */
	__u64 fds, sockets;
	__u64 read_calls, write_calls;
	__u64 read_bytes, write_bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, __u64);   /* address of struct net */
	__type(value, __u32); /* index in records and totals */
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct netns_record);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct tcp_totals);
} totals SEC(".maps");

struct scratch {
	__u64 v[MAX_LINUX_MIB];
	struct netns_record zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} anchor SEC(".maps");

const volatile __u32 possible_cpus = 1;
const volatile __u32 max_records = 256; /* max_entries of records and totals */

__u64 cpu_offset[MAX_CPUS];
__u32 found;   /* namespaces met by the last pass */
__u32 skipped; /* of those, how many found no room in records */

const volatile bool count_sockets = false;
const volatile bool count_fds = false;
const volatile bool count_io = false;

/* v6.2; a program of a type that may not call them does not load */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;

struct netns_id initial; /* init_net, the namespace that the kernel booted with */

EXPORT(struct task_record, task_record);
EXPORT(struct event_hdr, event_hdr);

/*
 * setup finds the kernel's __per_cpu_offset, which is no exported symbol: the address of a
 * per-CPU map's value on a CPU minus that map's per-CPU base pointer. Privileged programs may
 * store a pointer in a global; read back, it is a number.
 */
SEC("raw_tp")
int setup__raw_tp(__u64 *ctx)
{
	volatile __u64 *offset = cpu_offset;
	struct bpf_array *map;
	__u32 zero = 0, cpu;
	__u64 base;

	offset[0] = (__u64)&anchor;
	map = (void *)offset[0];
	base = (__u64)BPF_CORE_READ(map, pptrs[0]);
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		void *value;

		if (cpu >= possible_cpus)
			break;
		value = bpf_map_lookup_percpu_elem(&anchor, &zero, cpu);
		if (!value)
			return 1;
		offset[cpu] = (__u64)value;
		offset[cpu] -= base;
	}
	return 0;
}

struct sum_ctx {
	struct netns_record *rec;
	__u64 tcp, linux_mib, udp, udp6; /* per-CPU base pointers */
};

static __always_inline void add(__u64 *dst, struct scratch *s, __u32 max, __u64 base, __u64 offset, __u32 bytes)
{
	__u32 i;

	if (bytes > max * sizeof(__u64))
		bytes = max * sizeof(__u64);
	if (!base || bpf_probe_read_kernel(s->v, bytes, (void *)(base + offset)))
		return;
#pragma clang loop unroll(disable)
	for (i = 0; i < max; i++) {
		if (i >= bytes / sizeof(__u64))
			break;
		dst[i] += s->v[i];
	}
}

static long sum_cpu(__u32 cpu, struct sum_ctx *c)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	__u64 offset = cpu_offset[cpu & (MAX_CPUS - 1)];

	if (!s)
		return 1;
	add(c->rec->tcp, s, MAX_TCP_MIB, c->tcp, offset, bpf_core_type_size(struct tcp_mib));
	add(c->rec->linux_mib, s, MAX_LINUX_MIB, c->linux_mib, offset, bpf_core_type_size(struct linux_mib));
	add(c->rec->udp, s, MAX_UDP_MIB, c->udp, offset, bpf_core_type_size(struct udp_mib));
	add(c->rec->udp6, s, MAX_UDP_MIB, c->udp6, offset, bpf_core_type_size(struct udp_mib));
	return 0;
}

struct walk_ctx {
	__u64 start, node;
	const void *ops;
};

static __always_inline void describe_hashinfo(struct net *net, struct netns_record *rec)
{
	struct inet_hashinfo *h;

	if (bpf_core_field_exists(net->ipv4.tcp_death_row.hashinfo)) {
		h = BPF_CORE_READ(net, ipv4.tcp_death_row.hashinfo);
	} else {
		struct netns_ipv4___pointer *ipv4 = (void *)&net->ipv4;

		h = BPF_CORE_READ(ipv4, tcp_death_row, hashinfo);
	}
	rec->hashinfo = (__u64)h;
	rec->ehash_size = BPF_CORE_READ(h, ehash_mask) + 1;
	rec->lhash2_size = BPF_CORE_READ(h, lhash2_mask) + 1;
}

/* may_track: connection tracking hooks into PRE_ROUTING; where there is no hook at all, it is off. */
static __always_inline bool may_track(struct net *net)
{
	if (!bpf_core_field_exists(net->nf.hooks_ipv4))
		return true;
	return BPF_CORE_READ(net, nf.hooks_ipv4[0]) || BPF_CORE_READ(net, nf.hooks_ipv6[0]);
}

static __always_inline bool has_devices(struct net *net)
{
	__u64 head = (__u64)net + bpf_core_field_offset(struct net, dev_base_head);
	struct list_head *first = BPF_CORE_READ(net, dev_base_head.next);
	struct net_device *lo = BPF_CORE_READ(net, loopback_dev);

	/* lo is registered first. */
	if (lo && (__u64)first == (__u64)lo + bpf_core_field_offset(struct net_device, dev_list))
		first = BPF_CORE_READ(first, next);
	return (__u64)first != head;
}

static long visit(__u32 i, struct walk_ctx *w)
{
	struct net *net = (void *)(w->node - bpf_core_field_offset(struct net, list));
	struct list_head *node = (void *)w->node;
	struct scratch *s;
	__u32 zero = 0, slot;

	w->node = (__u64)BPF_CORE_READ(node, next);
	/* The list's head, net_namespace_list, lies in no struct net; init_net, registered first, follows it. */
	if (BPF_CORE_READ(net, ns.ops) != w->ops) {
		net = (void *)(w->node - bpf_core_field_offset(struct net, list));
		netns_id(net, &initial);
		goto out;
	}
	slot = found++;
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (slot >= max_records || !s) {
		skipped++;
	} else {
		struct netns_record *rec = bpf_map_lookup_elem(&records, &slot);
		struct tcp_totals *t = bpf_map_lookup_elem(&totals, &slot);
		struct sum_ctx c = {};

		if (!rec || !t)
			return 1;
		__builtin_memset(t, 0, sizeof(*t));
		bpf_probe_read_kernel(rec, sizeof(*rec), &s->zero);
		netns_id(net, &rec->id);
		rec->net = (__u64)net;
		rec->may_track = may_track(net);
		rec->has_devices = has_devices(net);
		if (count_sockets && bpf_map_update_elem(&slots, &rec->net, &slot, BPF_ANY))
			skipped++;
		if (count_sockets)
			describe_hashinfo(net, rec);
		c.rec = rec;
		c.tcp = (__u64)BPF_CORE_READ(net, mib.tcp_statistics);
		c.linux_mib = (__u64)BPF_CORE_READ(net, mib.net_statistics);
		c.udp = (__u64)BPF_CORE_READ(net, mib.udp_statistics);
		c.udp6 = (__u64)BPF_CORE_READ(net, mib.udp_stats_in6);
		bpf_loop(possible_cpus, sum_cpu, &c, 0);
	}
out:
	return !w->node || w->node == w->start;
}

/*
 * walk fills records with all namespaces. BPF_PROG_RUN holds rcu_read_lock() around a raw_tp
 * program, which is what for_each_net_rcu() asks for.
 */
SEC("raw_tp")
int walk__raw_tp(__u64 *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct net *net = BPF_CORE_READ(task, nsproxy, net_ns);
	struct walk_ctx w = {};

	found = 0;
	skipped = 0;
	w.ops = BPF_CORE_READ(net, ns.ops);
	w.start = (__u64)net + bpf_core_field_offset(struct net, list);
	w.node = w.start;
	bpf_loop(1 << 20, visit, &w, 0);
	return 0;
}

/* The most nodes of the hash table that one run of sockets looks at: it bounds the time under RCU. */
#define MAX_NODES 4096
#define BUCKETS 128 /* that are read at once, a power of two */
#define GROUP 8     /* chains of sockets that are begun together */

/* Arguments of sockets and listeners, which are those of a run. */
struct sockets_args {
	__u64 hashinfo;
	__u64 first; /* bucket */
};

EXPORT(struct sockets_args, sockets_args);

__u32 next_bucket; /* where the next run goes on */

/* What a run works on, here because the stack is too small; there is one run at a time. */
__u64 buckets[BUCKETS];    /* the first node of each */
__u64 chains[2 * BUCKETS]; /* those that are not empty, and nodes that end a chain */
__u64 prefetched;

struct ehash_ctx {
	__u64 ehash, node;
	__u64 net; /* of the socket before, whose slot is kept */
	__u32 slot;
	__u32 bucket, size, nodes;
	__u32 chains, group;
};

/* Sockets are chained by this node; an odd number ends a chain. */
#define SOCKET_NODE bpf_core_field_offset(struct sock, __sk_common.skc_nulls_node)
#define SOCKET_STATE bpf_core_field_offset(struct sock, __sk_common.skc_state)

/* What a socket adds to its namespace. */
struct socket_facts {
	__u64 net;
	__u64 next;           /* node of the chain */
	__u32 unsent, unread; /* bytes; the sequence number of a FIN has been read without being there */
	__u8 state;           /* as users see it: an orphan in FIN_WAIT2 is kept as one in TIME_WAIT */
};

static __always_inline void read_socket(__u64 addr, struct socket_facts *f)
{
	struct tcp_sock *tp = (void *)addr;
	struct sock *sk = (void *)addr;
	struct inet_timewait_sock *tw = (void *)addr;

	f->next = (__u64)BPF_CORE_READ(sk, __sk_common.skc_nulls_node.next);
	f->net = (__u64)sock_net(sk);
	f->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (f->state == TCP_TIME_WAIT)
		f->state = BPF_CORE_READ(tw, tw_substate);
	if (f->state != TCP_ESTABLISHED)
		return;
	f->unsent = BPF_CORE_READ(tp, write_seq) - BPF_CORE_READ(tp, snd_una);
	f->unread = BPF_CORE_READ(tp, rcv_nxt) - BPF_CORE_READ(tp, copied_seq);
}

/*
 * load_u64 loads a number where a member may be a pointer, on which the verifier allows no arithmetic.
 * The structure is one that has nothing but numbers.
 */
static __always_inline __u64 load_u64(__u64 addr)
{
	struct tcp_mib *numbers = bpf_rdonly_cast((void *)addr, bpf_core_type_id_kernel(struct tcp_mib));

	return numbers->mibs[0];
}

/* A socket is several cold cache lines: plain loads wait for all of them at once. */
static __always_inline void load_socket(__u64 addr, struct socket_facts *f)
{
	struct sock *sk = bpf_rdonly_cast((void *)addr, bpf_core_type_id_kernel(struct sock));
	struct tcp_sock *tp = bpf_rdonly_cast((void *)addr, bpf_core_type_id_kernel(struct tcp_sock));
	struct inet_timewait_sock *tw =
		bpf_rdonly_cast((void *)addr, bpf_core_type_id_kernel(struct inet_timewait_sock));

	f->next = load_u64(addr + SOCKET_NODE);
	f->net = (__u64)sk->__sk_common.skc_net.net;
	f->state = sk->__sk_common.skc_state;
	if (f->state == TCP_TIME_WAIT)
		f->state = tw->tw_substate;
	if (f->state != TCP_ESTABLISHED)
		return;
	f->unsent = tp->write_seq - tp->snd_una;
	f->unread = tp->rcv_nxt - tp->copied_seq;
}

static __always_inline void count_socket(struct ehash_ctx *c, struct socket_facts *f)
{
	struct tcp_totals *t;
	__u32 key;

	if (f->net != c->net) {
		__u32 *slot = bpf_map_lookup_elem(&slots, &f->net);

		if (!slot)
			return; /* of a namespace that is newer than this pass */
		c->net = f->net;
		c->slot = *slot;
	}
	key = c->slot;
	t = bpf_map_lookup_elem(&totals, &key);
	if (!t)
		return;
	switch (f->state) {
	case TCP_TIME_WAIT:
		t->sockets.time_wait++;
		break;
	case TCP_ESTABLISHED:
		t->sockets.established++;
		t->sockets.tx_queue += f->unsent;
		if ((__s32)f->unread > 0)
			t->sockets.rx_queue += f->unread;
		break;
	}
}

/* read_buckets reads the next buckets and puts the few together that are not empty. */
static __always_inline bool read_buckets(struct ehash_ctx *c)
{
	__u32 n = c->size - c->bucket, i;

	if (c->bucket >= c->size || c->nodes >= MAX_NODES)
		return false;
	if (n > BUCKETS)
		n = BUCKETS;
	if (bpf_probe_read_kernel(buckets, n * sizeof(__u64), (void *)(c->ehash + c->bucket * sizeof(__u64))))
		return false;
	c->chains = 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < BUCKETS; i++) {
		if (i >= n)
			break;
		chains[c->chains & (BUCKETS - 1)] = buckets[i];
		c->chains += ~buckets[i] & 1;
	}
	for (i = 0; i < GROUP; i++) /* an odd number for the rest of the last group */
		chains[(c->chains + i) & (2 * BUCKETS - 1)] = 1;
	c->bucket += n;
	return true;
}

static __always_inline void prefetch_read(struct ehash_ctx *c)
{
}

/* The first socket of a chain of the group, 0 if there is none. */
static __always_inline __u64 first_socket(struct ehash_ctx *c, __u32 i)
{
	__u64 node = chains[(c->group + i) & (2 * BUCKETS - 1)];

	return node & 1 ? 0 : node - SOCKET_NODE;
}

/*
 * prefetch_load waits once for the cold cache lines of the first sockets of a group of chains, not
 * once for each: first for what every socket has, then for what load_socket() reads of those that
 * are established.
 */
static __always_inline void prefetch_load(struct ehash_ctx *c)
{
	__u64 sum = 0, sk;
	__u32 i;

#pragma clang loop unroll(full)
	for (i = 0; i < GROUP; i++) {
		sk = first_socket(c, i);
		if (sk)
			sum += load_u64(sk + SOCKET_STATE) + load_u64(sk + SOCKET_NODE);
	}
#pragma clang loop unroll(full)
	for (i = 0; i < GROUP; i++) {
		sk = first_socket(c, i);
		if (!sk || (__u8)load_u64(sk + SOCKET_STATE) != TCP_ESTABLISHED)
			continue;
		sum += load_u64(sk + bpf_core_field_offset(struct tcp_sock, write_seq));
		sum += load_u64(sk + bpf_core_field_offset(struct tcp_sock, snd_una));
		sum += load_u64(sk + bpf_core_field_offset(struct tcp_sock, rcv_nxt));
		sum += load_u64(sk + bpf_core_field_offset(struct tcp_sock, copied_seq));
	}
	prefetched = sum;
}

/*
 * WALK defines visit_buckets_<how>(), which visits the sockets in some buckets. Loops within loops
 * are all bpf_loop(): unrolled branches multiply the paths that the verifier follows.
 */
#define WALK(how)                                                      \
	static long visit_socket_##how(__u32 i, struct ehash_ctx *c)   \
	{                                                              \
		struct socket_facts f = {};                            \
                                                                       \
		if (!c->node || c->node & 1)                           \
			return 1;                                      \
		how##_socket(c->node - SOCKET_NODE, &f);               \
		c->node = f.next;                                      \
		c->nodes++;                                            \
		count_socket(c, &f);                                   \
		return 0;                                              \
	}                                                              \
                                                                       \
	static long visit_chain_##how(__u32 i, struct ehash_ctx *c)    \
	{                                                              \
		c->node = chains[(c->group + i) & (2 * BUCKETS - 1)];  \
		if (!(c->node & 1))                                    \
			bpf_loop(MAX_NODES, visit_socket_##how, c, 0); \
		return 0;                                              \
	}                                                              \
                                                                       \
	static long visit_group_##how(__u32 i, struct ehash_ctx *c)    \
	{                                                              \
		c->group = i * GROUP;                                  \
		if (c->group >= c->chains)                             \
			return 1;                                      \
		prefetch_##how(c);                                     \
		bpf_loop(GROUP, visit_chain_##how, c, 0);              \
		return 0;                                              \
	}                                                              \
                                                                       \
	static long visit_buckets_##how(__u32 i, struct ehash_ctx *c)  \
	{                                                              \
		if (!read_buckets(c))                                  \
			return 1;                                      \
		bpf_loop(BUCKETS / GROUP, visit_group_##how, c, 0);    \
		return 0;                                              \
	}

WALK(read)
WALK(load)

static __always_inline void start_walk(struct ehash_ctx *c, struct inet_hashinfo *h)
{
	c->ehash = (__u64)BPF_CORE_READ(h, ehash);
	c->size = BPF_CORE_READ(h, ehash_mask) + 1;
}

/*
 * sockets adds the TCP sockets in a part of a hash table to the records of the last walk: as many
 * buckets as may be looked at without holding up RCU. It is run until next_bucket has reached the
 * table's size.
 */
SEC("raw_tp")
int sockets__raw_tp(__u64 *ctx)
{
	struct ehash_ctx c = { .bucket = ctx[1] };

	start_walk(&c, (void *)ctx[0]);
	bpf_loop(MAX_NODES / BUCKETS, visit_buckets_read, &c, 0);
	next_bucket = c.bucket;
	return 0;
}

SEC("syscall")
int sockets__syscall(struct sockets_args *args)
{
	struct ehash_ctx c = { .bucket = args->first };

	bpf_rcu_read_lock();
	start_walk(&c, (void *)args->hashinfo);
	bpf_loop(MAX_NODES / BUCKETS, visit_buckets_load, &c, 0);
	bpf_rcu_read_unlock();
	next_bucket = c.bucket;
	return 0;
}

#define LISTEN_BUCKETS 16384 /* the most that one run of listeners looks at */
#define HEADS 16             /* that are read at once, a power of two */

/*
 * The upper halves of what the stack holds in eight bytes are unknown to the verifier: what counts
 * up lies there, or it would follow each value.
 */
struct lhash2_ctx {
	__u64 lhash2, node;
	__u32 size, bucket;
	__u32 pad, nodes;
	__u64 heads[HEADS];
};

static __always_inline void count_listener(struct sock *sk)
{
	__u64 net = (__u64)sock_net(sk);
	__u32 *slot = bpf_map_lookup_elem(&slots, &net), queue, limit, key;
	struct tcp_totals *t;

	/* A socket that was closed meanwhile may have come to life elsewhere: SLAB_TYPESAFE_BY_RCU. */
	if (!slot || BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN)
		return;
	key = *slot;
	t = bpf_map_lookup_elem(&totals, &key);
	if (!t)
		return;
	queue = BPF_CORE_READ(sk, sk_ack_backlog);
	limit = BPF_CORE_READ(sk, sk_max_ack_backlog);
	t->listeners.sockets++;
	t->listeners.queue += queue;
	t->listeners.limit += limit;
	t->listeners.full += queue > limit; /* sk_acceptq_is_full() of include/net/sock.h */
}

static long visit_listener(__u32 i, struct lhash2_ctx *c)
{
	struct hlist_nulls_node *node = (void *)c->node;

	if (!c->node || c->node & 1)
		return 1;
	count_listener((void *)(c->node - bpf_core_field_offset(struct sock, __sk_common.skc_nulls_node)));
	c->nodes++;
	c->node = (__u64)BPF_CORE_READ(node, next);
	return 0;
}

/* Buckets hold a lock, too, whose size depends on the kernel's configuration. */
#define LISTEN_SIZE bpf_core_type_size(struct inet_listen_hashbucket)

static long visit_listen_bucket(__u32 i, struct lhash2_ctx *c)
{
	c->node = c->heads[i & (HEADS - 1)];
	if (!(c->node & 1))
		bpf_loop(MAX_NODES, visit_listener, c, 0);
	return 0;
}

static long visit_listen_buckets(__u32 i, struct lhash2_ctx *c)
{
	__u32 offset = bpf_core_field_offset(struct inet_listen_hashbucket, nulls_head), zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	__u64 empty = 1;
	int b;

	if (!s || c->bucket >= c->size || c->nodes >= MAX_NODES)
		return 1;
	if (bpf_probe_read_kernel(s->v, HEADS * LISTEN_SIZE, (void *)(c->lhash2 + c->bucket * LISTEN_SIZE)))
		return 1;
	for (b = 0; b < HEADS; b++) {
		c->heads[b] = *(__u64 *)((char *)s->v + b * LISTEN_SIZE + offset);
		empty &= c->heads[b];
	}
	if (!empty)
		bpf_loop(HEADS, visit_listen_bucket, c, 0);
	c->bucket += HEADS;
	return 0;
}

/*
 * listeners adds the listening TCP sockets, all of which are in one table that the hash tables of
 * namespaces share (inet_pernet_hashinfo_alloc() of net/ipv4/inet_hashtables.c). It is run until
 * next_bucket has reached the table's size.
 */
SEC("raw_tp")
int listeners__raw_tp(__u64 *ctx)
{
	struct inet_hashinfo *h = (void *)ctx[0];
	struct lhash2_ctx c = { .bucket = ctx[1] };

	REQUIRE(!bpf_core_field_exists(struct inet_connection_sock, icsk_listen_portaddr_node));
	REQUIRE(HEADS * LISTEN_SIZE <= sizeof(((struct scratch *)0)->v));
	c.lhash2 = (__u64)BPF_CORE_READ(h, lhash2);
	c.size = BPF_CORE_READ(h, lhash2_mask) + 1;
	bpf_loop(LISTEN_BUCKETS / HEADS, visit_listen_buckets, &c, 0);
	next_bucket = c.bucket;
	return 0;
}

#define FILES 16 /* descriptors that are looked at together, a power of two */

struct files_ctx {
	__u64 open_fds, fd;
	__u64 fds, sockets;
	__u64 files[FILES];
	__u16 open;
};

/* socket_file_ops of net/socket.c, once a socket has been met: a socket then shows without its inode. */
__u64 socket_ops;

static __always_inline __u64 file_ops(__u64 file)
{
	if (bpf_rdonly_cast)
		return load_u64(file + bpf_core_field_offset(struct file, f_op));
	return (__u64)BPF_CORE_READ((struct file *)file, f_op);
}

static __always_inline bool is_socket(__u64 addr)
{
	struct file *f = (void *)addr;

	if (socket_ops)
		return file_ops(addr) == socket_ops;
	/* A file opened with O_PATH may have the inode of a socket in a file system. */
	if ((BPF_CORE_READ(f, f_inode, i_mode) & S_IFMT) != S_IFSOCK || !BPF_CORE_READ(f, private_data))
		return false;
	socket_ops = file_ops(addr);
	return true;
}

/* prefetch_files waits once for the cold cache lines of some files, as prefetch_load() does for sockets. */
static __always_inline void prefetch_files(struct files_ctx *c)
{
	__u64 sum = 0;
	__u32 i;

#pragma clang loop unroll(full)
	for (i = 0; i < FILES; i++) {
		if (c->open >> i & 1)
			sum += file_ops(c->files[i]);
	}
	prefetched = sum;
}

static long visit_file(__u32 i, struct files_ctx *c)
{
	if (!(c->open >> (i & (FILES - 1)) & 1))
		return 0;
	c->fds++;
	if (is_socket(c->files[i & (FILES - 1)]))
		c->sockets++;
	return 0;
}

static long visit_files(__u32 i, struct files_ctx *c)
{
	if (bpf_probe_read_kernel(&c->open, sizeof(c->open), (void *)(c->open_fds + i * sizeof(c->open))))
		return 1;
	if (!c->open)
		return 0;
	if (bpf_probe_read_kernel(c->files, sizeof(c->files), (void *)(c->fd + i * sizeof(c->files))))
		return 1;
	if (bpf_rdonly_cast)
		prefetch_files(c);
	bpf_loop(FILES, visit_file, c, 0);
	return 0;
}

static __always_inline void add_files(struct task_struct *task, struct task_record *rec)
{
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct files_ctx c = {};

	if (!fdt)
		return;
	c.open_fds = (__u64)BPF_CORE_READ(fdt, open_fds);
	c.fd = (__u64)BPF_CORE_READ(fdt, fd);
	bpf_loop(BPF_CORE_READ(fdt, max_fds) / FILES, visit_files, &c, 0);
	rec->fds = c.fds;
	rec->sockets = c.sockets;
}

static __always_inline void add_io(struct task_io_accounting *io, struct task_record *rec)
{
	/* CONFIG_TASK_XACCT and CONFIG_TASK_IO_ACCOUNTING */
	if (bpf_core_field_exists(io->syscr)) {
		rec->read_calls += BPF_CORE_READ(io, syscr);
		rec->write_calls += BPF_CORE_READ(io, syscw);
	}
	if (bpf_core_field_exists(io->read_bytes)) {
		rec->read_bytes += BPF_CORE_READ(io, read_bytes);
		rec->write_bytes += BPF_CORE_READ(io, write_bytes);
	}
}

struct threads_ctx {
	__u64 head, node;
	struct task_record *rec;
};

static long visit_thread(__u32 i, struct threads_ctx *c)
{
	struct list_head *node = (void *)c->node;
	struct task_struct *thread = (void *)(c->node - bpf_core_field_offset(struct task_struct, thread_node));

	if (!c->node || c->node == c->head)
		return 1;
	add_io(&thread->ioac, c->rec);
	c->node = (__u64)BPF_CORE_READ(node, next);
	return 0;
}

#define MAX_THREADS (1 << 16)

/* add_process_io adds up what do_io_accounting() of fs/proc/base.c shows in /proc/<pid>/io. */
static __always_inline void add_process_io(struct task_struct *task, struct task_record *rec)
{
	struct signal_struct *signal = task->signal;
	struct threads_ctx c = { .rec = rec };

	if (!signal)
		return;
	add_io(&signal->ioac, rec);
	c.head = (__u64)signal + bpf_core_field_offset(struct signal_struct, thread_head);
	c.node = (__u64)BPF_CORE_READ(signal, thread_head.next);
	bpf_loop(MAX_THREADS, visit_thread, &c, 0);
}

/* The number of a process as /proc of who reads has it: a node may be in a PID namespace itself (Kubernetes in Docker).
 * The iterator shows only what that namespace has (init_seq_pidns() of kernel/bpf/task_iter.c). */
static __always_inline __u32 process_number(struct task_struct *task)
{
	struct task_struct *reader = (void *)bpf_get_current_task();
	__u32 level = BPF_CORE_READ(reader, thread_pid, level), number = 0;
	__u64 pid = (__u64)BPF_CORE_READ(task, group_leader, thread_pid);

	pid += bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
	bpf_probe_read_kernel(&number, sizeof(number), (void *)(pid + bpf_core_field_offset(struct upid, nr)));
	return number;
}

SEC("iter/task")
int tasks__iter(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_record rec = {};
	struct net *net;

	if (!task)
		return 0;
	if (task->pid != task->tgid && task->nsproxy == task->group_leader->nsproxy)
		return 0;
	net = BPF_CORE_READ(task, nsproxy, net_ns);
	if (!net) /* a zombie */
		return 0;
	netns_id(net, &rec.netns);
	rec.start_ns = task->start_time;
	rec.tgid = process_number(task);
	if (task->pid == task->tgid) {
		if (count_fds)
			add_files(task, &rec);
		if (count_io)
			add_process_io(task, &rec);
	}
	bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
	return 0;
}
