#!/usr/bin/env bash
# An SSH server that tests start themselves, apart from any that the system
# runs: Debian's packages, unpacked and not installed, so no service starts and
# no account is made. $TIDEWATER_PARTS/openssh/{usr,lib,…}; libnss_wrapper gives
# the server accounts and host names of its own.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"

packages=(openssh-server openssh-client libwrap0 libnss-wrapper)
openssh=$TIDEWATER_PARTS/openssh

# libraries <directory>: where its packages have their libraries.
libraries() { dirname "$(find "$1/usr/lib" -name libnss_wrapper.so)"; }

# runs <directory>: sshd finds its libraries. It has no harmless call that
# succeeds, but an unknown option makes it say which version it is.
runs() {
  local said
  said=$(LD_LIBRARY_PATH=$(libraries "$1") "$1/usr/sbin/sshd" -? 2>&1) || true
  [[ $said == *OpenSSH_* ]]
}

[[ -x $openssh/usr/sbin/sshd ]] && exit 0
lock openssh
[[ -x $openssh/usr/sbin/sshd ]] && exit 0

say "unpacking ${packages[*]} into $openssh (apt)"
rm -rf "$TIDEWATER_PARTS"/.openssh-tmp.*
tmp=$(mktemp -d "$TIDEWATER_PARTS/.openssh-tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# apt's lists may be missing or old; bringing them needs root.
download() { (cd "$tmp" && apt-get download "${packages[@]}") >"$tmp/log" 2>&1; }
if download || { apt_update && download; }; then
  mkdir "$tmp/root"
  for package in "$tmp"/*.deb; do
    dpkg -x "$package" "$tmp/root"
  done
  chmod -R go+rX "$tmp/root"
  # What sshd is linked with and a minimal Debian lacks.
  if runs "$tmp/root" || { apt_install libgssapi-krb5-2 libssl3 && runs "$tmp/root"; }; then
    mv -T "$tmp/root" "$openssh"
    exit 0
  fi
else
  cat "$tmp/log" >&2
fi
say "going on without an SSH server of our own: the tests of the tunnel will fail"
