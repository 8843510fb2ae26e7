/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * slots.h: stamps of packets, by the address of the packet.
 *
 * A hash map would cost more than all the rest. Packets in flight have addresses of their own, and the kernel
 * hands out the same few over and over, so an array in which each address has its place forgets next to none.
 */
#pragma once

#include "path.h"

#define SLOT_BITS 16

struct slot {
	__u32 tag; /* what of the address does not follow from the slot; 0: empty */
	__u32 stamp;
	__u32 batch; /* of netiftxlat */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << SLOT_BITS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

/* Programs may not calculate with a pointer that the verifier knows, but take the difference of two. */
__u64 anchor;

#define ADDRESS(pointer) ((__u64)(pointer) - (__u64)&anchor)

/*
 * slot_of finds the slot of an address, and what tells it from others with that slot. Addresses are multiples of 8
 * and differ in their lower 48 bits, which an odd factor maps one to one.
 */
static __always_inline struct slot *slot_of(__u64 address, __u32 *tag)
{
	__u64 mixed = (address >> 3) * 0x9E3779B97F4A7C15ULL;
	__u32 i = mixed >> 32 & ((1 << SLOT_BITS) - 1);

	*tag = mixed;
	return bpf_map_lookup_elem(&slots, &i);
}
