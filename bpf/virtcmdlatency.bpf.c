// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* virtcmdlatency: how long commands to the control queue of virtio-net devices take. */
#include "include/kprobe.h"
#include "include/latency.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* include/uapi/linux/virtio_net.h: struct virtio_net_ctrl_hdr */
struct command {
	__u64 sent_ns;
	__u32 class;
	__u32 cmd;
};

struct event {
	struct event_hdr hdr;
	struct latency latency;
	__u32 class;
	__u32 cmd;
};

/* The command that a thread waits for; the driver busy-waits or sleeps, so that a CPU may be at several. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, struct command);
} waiting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct histogram);
} latencies SEC(".maps");

EVENTS(64 * 1024);

static __always_inline int on_send(__u8 class, __u8 cmd)
{
	struct command c = { .class = class, .cmd = cmd, .sent_ns = bpf_ktime_get_ns() };
	__u64 task = bpf_get_current_pid_tgid();
	struct limit *l;

	if (!bpf_map_update_elem(&waiting, &task, &c, BPF_ANY))
		return 0;
	l = this_cpu_limit();
	if (l)
		l->loss.map_full++;
	return 0;
}

static __always_inline int on_done(void)
{
	__u64 now = bpf_ktime_get_ns(), task = bpf_get_current_pid_tgid(), ns;
	struct command *found, c;
	struct histogram *h;
	struct event *e;
	__u32 zero = 0;

	found = bpf_map_lookup_elem(&waiting, &task);
	if (!found)
		return 0;
	c = *found;
	bpf_map_delete_elem(&waiting, &task);
	h = bpf_map_lookup_elem(&latencies, &zero);
	if (!h)
		return 0;
	ns = now - c.sent_ns;
	histogram_add(h, ns);
	if (ns <= threshold_ns)
		return 0;
	e = event_reserve(&events, sizeof(*e));
	if (!e)
		return 0;
	of_node(&e->hdr);
	latency_fill(&e->latency, ns);
	e->class = c.class;
	e->cmd = c.cmd;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/*
 * Kernels that have virtnet_send_command_reply() send all commands by it; the other is a wrapper there, which some
 * do without. Class and command are the second and third argument of either.
 */
SEC("fentry/virtnet_send_command_reply,virtnet_send_command")
int command__fentry(__u64 *ctx)
{
	return on_send(ctx[1], ctx[2]);
}

SEC("fexit/virtnet_send_command_reply,virtnet_send_command")
int command__fexit(__u64 *ctx)
{
	return on_done();
}

/* Where the driver is a module without BTF, before Linux 5.11. */
SEC("kprobe/virtnet_send_command_reply,virtnet_send_command")
int command__kprobe(struct pt_regs *ctx)
{
	return on_send(kprobe_arg(ctx, 1), kprobe_arg(ctx, 2));
}

SEC("kretprobe/virtnet_send_command_reply,virtnet_send_command")
int command__kretprobe(struct pt_regs *ctx)
{
	return on_done();
}
