#!/usr/bin/env bash
# A C compiler and linker: rustc links with it, and zstd is compiled by it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"

if command -v cc >/dev/null && command -v ar >/dev/null; then
  exit 0
fi
say "no C compiler found"
apt_install build-essential ||
  die "could not install one: run 'apt-get install build-essential' as root, then try again"
