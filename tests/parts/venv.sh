#!/usr/bin/env bash
# The Python environment of the engines that read what was written:
# $TIDEWATER_PARTS/venv with duckdb, pyarrow and pandas.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"

packages=(duckdb==1.5.5 pyarrow==26.0.1 pandas==2.3.3 pytz==2026.6)
venv=$TIDEWATER_PARTS/venv

# Its own list of what it has, so that a changed list makes it anew.
complete() { [[ -x $venv/bin/python && $(cat "$venv/.packages" 2>/dev/null) == "${packages[*]}" ]]; }

complete && exit 0
lock venv
complete && exit 0

# The first Python 3.11 or newer that can make environments with pip in them.
python=
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
find_python || { say "no Python 3 with venv found" && apt_install python3 python3-venv && find_python; } ||
  die "could not install one: run 'apt-get install python3-venv' as root, then try again"

say "installing ${packages[*]} into $venv (pip)"
# Built in place, since an environment knows its own path; complete when its
# list of packages is there.
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "${packages[@]}" ||
  die "pip could not install ${packages[*]}: see above; is the package index reachable?"
"$venv/bin/python" -c 'import duckdb, pandas, pyarrow.parquet'
printf '%s' "${packages[*]}" >"$venv/.packages"
