/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * kprobe.h: arguments and return value of a function under a kprobe, in one object for x86-64 and arm64.
 *
 * The compiler's target says nothing about the machine here, so the registers are found where the running
 * kernel's own struct pt_regs has them.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct pt_regs;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* arch/x86/include/asm/ptrace.h; the order of arguments is that of the System V ABI */
struct pt_regs___x86 {
	unsigned long di, si, dx, cx, r8, ax;
};

/* arch/arm64/include/asm/ptrace.h: arguments are in x0 to x7, the return value is in x0 */
struct pt_regs___arm64 {
	__u64 regs[31];
};

#pragma clang attribute pop

/* kprobe_arg returns the n-th argument, 0 to 4; n must be a constant. */
static __always_inline __u64 kprobe_arg(struct pt_regs *ctx, int n)
{
	struct pt_regs___arm64 *arm64 = (void *)ctx;
	struct pt_regs___x86 *x86 = (void *)ctx;

	if (bpf_core_field_exists(x86->di)) {
		switch (n) {
		case 0:
			return BPF_CORE_READ(x86, di);
		case 1:
			return BPF_CORE_READ(x86, si);
		case 2:
			return BPF_CORE_READ(x86, dx);
		case 3:
			return BPF_CORE_READ(x86, cx);
		default:
			return BPF_CORE_READ(x86, r8);
		}
	}
	switch (n) {
	case 0:
		return BPF_CORE_READ(arm64, regs[0]);
	case 1:
		return BPF_CORE_READ(arm64, regs[1]);
	case 2:
		return BPF_CORE_READ(arm64, regs[2]);
	case 3:
		return BPF_CORE_READ(arm64, regs[3]);
	default:
		return BPF_CORE_READ(arm64, regs[4]);
	}
}

/* kretprobe_value returns what the function returns. */
static __always_inline __u64 kretprobe_value(struct pt_regs *ctx)
{
	struct pt_regs___arm64 *arm64 = (void *)ctx;
	struct pt_regs___x86 *x86 = (void *)ctx;

	if (bpf_core_field_exists(x86->ax))
		return BPF_CORE_READ(x86, ax);
	return BPF_CORE_READ(arm64, regs[0]);
}
