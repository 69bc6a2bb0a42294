#!/usr/bin/env bash
# The one way in: builds what is missing, then runs it. See `./build.sh help`.
#
# Works from any directory: paths in arguments are relative to the caller's.
# stdout carries only the output of the program that was asked for.
set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
source "$root/tests/parts/parts.sh"

target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$PWD/$target
export CARGO_TARGET_DIR=$target
export TIDEWATER_BIN_DIR=$target/release

usage() {
  cat <<'USAGE'
Tidewater: PostgreSQL tables into Parquet files.

  ./build.sh driver-postgres <command> [flags]   spec, check, discover, sync,
                                                 clear-destination; --help lists
                                                 the flags
  ./build.sh demo                                a database, a sync and its
                                                 result, on this machine
  ./build.sh test [filter]                       all tests, on real servers
  ./build.sh bench full-load [flags]             a full load against PostgreSQL's
                                                 own COPY; --help lists the flags
  ./build.sh bench cdc [flags]                   a backlog of changes against
                                                 pg_recvlogical
  ./build.sh bench scale [flags]                 1, 2 and 4 writers whose storage
                                                 is slow
  ./build.sh soak [flags]                        random changes and kills for as
                                                 long as --minutes says
  ./build.sh compose                             docker-compose.yml for real: with
                                                 a writer killed, two more joining
  ./build.sh build                               all programs, in target/release
  ./build.sh help                                this text

Programs are built with cargo when their sources have changed. demo, test,
bench and soak install what they need besides and say so: a C compiler, PostgreSQL, an
SSH server for the tests, and Python with DuckDB, pyarrow and pandas, under
$TIDEWATER_PARTS (as root /var/cache/tidewater, else ~/.cache/tidewater). test
also brings the readers and servers of Iceberg, Spark among them, and Java where
there is none: 2.1 GB.
USAGE
}

# cargo <arguments…>, in the project: its toolchain and configuration apply
# wherever the caller is.
in_project() {
  if ! command -v cargo >/dev/null; then
    [[ -x $HOME/.cargo/bin/cargo ]] ||
      die "cargo is not installed: install Rust from https://rustup.rs, then try again"
    PATH=$HOME/.cargo/bin:$PATH
  fi
  (cd "$root" && cargo "$@")
}

# build driver|all: the three programs of the driver; all adds demo, bench and
# soak.
# The choice of packages never goes below the driver's: with fewer, dependencies
# get other features and are compiled again.
build() {
  local what="the driver; the first time takes some minutes"
  local programs=("$target"/release/{orchestrator,source-svc,writer-svc})
  local sources=("$root"/{Cargo.toml,Cargo.lock,proto,source-svc,writer-svc,orchestrator})
  local packages=(-p orchestrator -p source-svc -p writer-svc)
  if [[ $1 == all ]]; then
    build driver
    what="demo, bench and soak"
    programs+=("$target"/release/{demo,bench,soak})
    sources+=("$root"/tests/{Cargo.toml,harness,demo,bench,soak})
    packages=(--workspace)
  fi
  local stamp=$target/release/.built-$1
  up_to_date && return 0

  "$root/tests/parts/compiler.sh"
  say "building $what"
  mkdir -p "$target/release"
  local started
  started=$(mktemp "$stamp.XXXXXX")
  # Nothing of cargo's on stdout, and only what goes wrong on stderr.
  if ! in_project build --release --quiet --bins "${packages[@]}" >&2; then
    rm -f "$started"
    die "the build failed: see above"
  fi
  built >"$started.done"
  # As old as the start of the build: what was edited since is newer.
  touch -r "$started" "$started.done"
  mv "$started.done" "$stamp"
  rm -f "$started"
}

# What a build was of: this tree, and these very programs.
built() { printf '%s\n' "$root" && stat -c '%n %Y %s' "${programs[@]}" 2>/dev/null; }

# Asks the file system, not cargo: a command that has nothing to build starts at
# once and prints nothing of ours.
up_to_date() {
  [[ -f $stamp && $(built) == "$(cat "$stamp")" ]] || return 1
  local newer
  newer=$(find "${sources[@]}" -newer "$stamp" -print -quit)
  [[ -z $newer ]]
}

driver_postgres() {
  build driver
  exec "$target/release/orchestrator" "$@"
}

demo() {
  "$root/tests/parts/postgres.sh" one
  "$root/tests/parts/venv.sh"
  build all
  # As cargo would: it runs the project's own commands.
  CARGO_MANIFEST_DIR=$root/tests exec "$target/release/demo" "$@"
}

bench() {
  "$root/tests/parts/postgres.sh" one
  "$root/tests/parts/venv.sh"
  # Iceberg's readers, too: they tell what has become of deletes.
  # So does the S3 store that scale writes to.
  [[ ${1:-} != cdc && ${1:-} != scale ]] || "$root/tests/parts/iceberg.sh"
  build all
  exec "$target/release/bench" "$@"
}

# As test, on every major of PostgreSQL.
soak() {
  "$root/tests/parts/postgres.sh" every
  "$root/tests/parts/venv.sh"
  "$root/tests/parts/iceberg.sh"
  "$root/tests/parts/jvm.sh"
  build all
  CARGO_MANIFEST_DIR=$root/tests exec "$target/release/soak" "$@"
}

# One cargo profile, and all packages at once, so that nothing is compiled
# twice. Unit tests first; those on real servers close the log.
run_tests() {
  "$root/tests/parts/compiler.sh"
  "$root/tests/parts/postgres.sh" all
  "$root/tests/parts/venv.sh"
  "$root/tests/parts/iceberg.sh"
  "$root/tests/parts/jvm.sh"
  "$root/tests/parts/grpc.sh"
  "$root/tests/parts/openssl.sh"
  "$root/tests/parts/openssh.sh"
  in_project build --release --workspace --bins
  in_project test --release --workspace --lib --test '*' --no-run
  say "built after $SECONDS s; running the tests"
  in_project test --release --workspace --lib -- "$@"
  in_project test --release --workspace --test '*' -- "$@"
}

command=${1:-help}
[[ $# -eq 0 ]] || shift
case $command in
  driver-postgres) driver_postgres "$@" ;;
  demo) demo "$@" ;;
  bench) bench "$@" ;;
  soak) soak "$@" ;;
  test) run_tests "$@" ;;
  compose) exec "$root/tests/compose/compose.sh" ;;
  build) build all ;;
  help | -h | --help) usage ;;
  *)
    say "unknown command '$command'"
    usage >&2
    exit 1
    ;;
esac
