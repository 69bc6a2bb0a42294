# shellcheck shell=bash
# Python environments for parts; sourced after parts.sh, never run.

# The first Python 3.11 or newer that can make environments with pip in them.
find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$(command -v "$candidate")
      return 0
    fi
  done
  return 1
}

# environment <name> <what to run to see that it works> <package…>: makes
# $TIDEWATER_PARTS/<name>, unless it is there with these very packages.
environment() {
  local name=$1 works=$2 python= packages
  shift 2
  local directory=$TIDEWATER_PARTS/$name
  packages=$*
  # Its own list of what it has, so that a changed list makes it anew.
  complete() { [[ -x $directory/bin/python && $(cat "$directory/.packages" 2>/dev/null) == "$packages" ]]; }
  complete && return 0
  lock "$name"
  complete && return 0
  find_python || { say "no Python 3 with venv found" && apt_install python3 python3-venv && find_python; } ||
    die "could not install one: run 'apt-get install python3-venv' as root, then try again"

  say "installing $packages into $directory (pip)"
  # Built in place, since an environment knows its own path; complete when its
  # list of packages is there.
  rm -rf "$directory"
  "$python" -m venv "$directory"
  "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$@" ||
    die "pip could not install $packages: see above; is the package index reachable?"
  "$directory/bin/python" -c "$works"
  printf '%s' "$packages" >"$directory/.packages"
}
