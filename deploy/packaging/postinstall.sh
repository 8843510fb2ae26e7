#!/bin/sh
# It is not started by itself: what it listens on and where it sends to is for the administrator to decide first.
set -e
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# After an upgrade, what runs is the new one.
	systemctl try-restart netexporter.service
fi
