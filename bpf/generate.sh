#!/bin/sh
# Compiles every <name>.bpf.c into a committed object and its Go mirror. One little-endian object
# serves x86-64 and arm64: include/kprobe.h finds the registers of either. net_softirq becomes NetSoftirq in Go.
# SPDX-License-Identifier: Apache-2.0
set -eu
for source in *.bpf.c; do
	name=${source%.bpf.c}
	bpf2go -go-package bpf -target bpfel -no-strip=false -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter" \
		-output-stem "$name" "$(printf '%s' "$name" | sed 's/\(^\|_\)\(.\)/\U\2/g')" "$source"
done
