#!/bin/sh
# Compiles every <name>.bpf.c into a committed object and its Go mirror. One little-endian object
# serves x86-64 and arm64: no program touches pt_regs.
# SPDX-License-Identifier: Apache-2.0
set -eu
for source in *.bpf.c; do
	name=${source%.bpf.c}
	bpf2go -go-package bpf -target bpfel -no-strip=false -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter" \
		"$(printf '%s' "$name" | cut -c1 | tr '[:lower:]' '[:upper:]')$(printf '%s' "$name" | cut -c2-)" "$source"
done
