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
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << SLOT_BITS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

/* Programs may not calculate with a pointer, but take the difference of two. */
__u64 anchor;

/*
 * slot_of finds the slot of a packet, and what tells it from others with that slot. Addresses are multiples of 8
 * and differ in their lower 48 bits, which an odd factor maps one to one.
 */
static __always_inline struct slot *slot_of(struct sk_buff *skb, __u32 *tag)
{
	__u64 address = (__u64)skb - (__u64)&anchor;
	__u64 mixed = (address >> 3) * 0x9E3779B97F4A7C15ULL;
	__u32 i = mixed >> 32 & ((1 << SLOT_BITS) - 1);

	*tag = mixed;
	return bpf_map_lookup_elem(&slots, &i);
}

static __always_inline void stamp_packet(struct sk_buff *skb)
{
	__u32 tag;
	struct slot *s = slot_of(skb, &tag);

	if (s) {
		s->tag = tag;
		s->stamp = stamp_now();
	}
}

/* packet_age ends the wait of a packet. It returns false if the packet has no stamp. */
static __always_inline bool packet_age(struct sk_buff *skb, __u32 *age)
{
	__u32 tag;
	struct slot *s = slot_of(skb, &tag);

	if (!s || s->tag != tag)
		return false;
	*age = stamp_now() - s->stamp;
	s->tag = 0;
	return true;
}
