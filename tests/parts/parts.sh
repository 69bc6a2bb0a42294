# shellcheck shell=bash
# Shared by the scripts beside it; sourced, never run. A part is a program that
# tests and demo need and that cargo cannot bring: it is installed under
# $TIDEWATER_PARTS, complete or not at all, by one process at a time.

if [[ -z "${TIDEWATER_PARTS:-}" ]]; then
  if [[ $(id -u) -eq 0 ]]; then
    # A server never runs as root: its files must be readable by others.
    TIDEWATER_PARTS=/var/cache/tidewater
  else
    TIDEWATER_PARTS=$HOME/.cache/tidewater
  fi
fi
export TIDEWATER_PARTS

# Tells the user what happens; stdout belongs to the program that was asked for.
say() { printf '%s\n' "tidewater: $*" >&2; }

die() {
  say "$*"
  exit 1
}

# lock <name>: holds the part's lock until this process ends.
lock() {
  umask 022
  mkdir -p "$TIDEWATER_PARTS"
  exec 9>"$TIDEWATER_PARTS/.$1.lock"
  if ! flock --nonblock 9; then
    say "waiting for another installation of $1"
    flock 9
  fi
}

# as_root <command…>: as root or by sudo; false when neither is possible.
as_root() {
  if [[ $(id -u) -eq 0 ]]; then
    "$@"
  else
    command -v sudo >/dev/null && sudo "$@"
  fi
}

# apt_update: brings apt's lists up to date, quietly.
apt_update() { command -v apt-get >/dev/null && as_root apt-get update -qq >/dev/null 2>&1; }

# apt_install <package…>: as root or by sudo; false when neither is possible.
apt_install() {
  command -v apt-get >/dev/null || return 1
  [[ $(id -u) -eq 0 ]] || command -v sudo >/dev/null || return 1
  say "installing $* (apt)"
  # apt's own chatter only when it fails.
  local log
  log=$(mktemp)
  if {
    as_root apt-get update -qq || true
    as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
  } >"$log" 2>&1; then
    rm -f "$log"
  else
    cat "$log" >&2
    rm -f "$log"
    return 1
  fi
}
