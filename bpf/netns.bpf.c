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

/* One network namespace. Counters are sums over all CPUs, indexed as the running kernel's enums say. */
struct netns_record {
	struct netns_id id;
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
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct netns_record);
} records SEC(".maps");

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
const volatile __u32 max_records = 256; /* max_entries of records */

__u64 cpu_offset[MAX_CPUS];
__u32 found;   /* namespaces met by the last pass */
__u32 skipped; /* of those, how many found no room in records */

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
		struct sum_ctx c = {};

		if (!rec)
			return 1;
		bpf_probe_read_kernel(rec, sizeof(*rec), &s->zero);
		netns_id(net, &rec->id);
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
	rec.tgid = task->tgid;
	bpf_probe_read_kernel(rec.comm, sizeof(rec.comm), task->comm);
	bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
	return 0;
}
