#!/usr/bin/env bash
# Installs packages of Debian or Ubuntu: what the other scripts need and do not find.
set -euo pipefail

if ! command -v apt-get >/dev/null; then
    echo "$0: this machine has no apt-get: install $* by its own means" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    echo "$0: only root installs packages, and this machine has no sudo: as root, run apt-get install $*" >&2
    exit 1
fi
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
echo "Installing $*"
as_root apt-get update -qq
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
