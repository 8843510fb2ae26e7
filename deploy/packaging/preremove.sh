#!/bin/sh
# dpkg says "remove", rpm the number of versions that stay: 0. An upgrade goes on running.
set -e
case "$1" in
remove | 0)
	if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
		systemctl disable --now netexporter.service
	fi
	;;
esac
