#!/usr/bin/env bash
# The openssl command: tests make their own certificates with it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"

command -v openssl >/dev/null && exit 0
say "no openssl command found"
apt_install openssl ||
  die "could not install it: run 'apt-get install openssl' as root, then try again"
