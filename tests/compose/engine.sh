# shellcheck shell=bash
# A Docker engine, and images to build from; sourced. Where there is none, root
# gets one of Debian's for as long as the caller runs; where no registry can be
# reached, base images are made of Debian's packages and the toolchain that is
# here.

engine=

# engine_start: DOCKER_HOST is one that answers.
engine_start() {
  if docker info >/dev/null 2>&1; then
    return
  fi
  [[ $(id -u) -eq 0 ]] || die "no Docker engine answers: start one, or run this as root"
  command -v dockerd >/dev/null && command -v docker-compose >/dev/null ||
    apt_install docker.io docker-compose iptables debootstrap || die "could not install Docker"
  engine=$TIDEWATER_PARTS/docker
  mkdir -p "$engine"
  forward=$(cat /proc/sys/net/ipv4/ip_forward)
  rules=$(mktemp)
  iptables-save >"$rules"
  say "starting a Docker engine"
  dockerd --data-root "$engine/data" --exec-root "$engine/exec" --pidfile "$engine/pid" \
    -H "unix://$engine/docker.sock" >"$engine/log" 2>&1 &
  export DOCKER_HOST=unix://$engine/docker.sock
  for _ in {1..120}; do
    docker info >/dev/null 2>&1 && return
    sleep 0.5
  done
  die "the Docker engine did not start: see $engine/log"
}

# engine_stop: the engine that was started, and what it changed of the network.
engine_stop() {
  [[ -n $engine ]] || return 0
  kill "$(cat "$engine/pid")" && wait || true
  iptables-restore <"$rules"
  rm -f "$rules"
  echo "$forward" >/proc/sys/net/ipv4/ip_forward
  ip link delete docker0 2>/dev/null || true
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# base <image>: whether it is here or a registry has it.
base() { has_image "$1" || docker pull --quiet "$1" >/dev/null 2>&1; }

# engine_images: sets *_IMAGE for docker-compose.yml.
engine_images() {
  export RUNTIME_IMAGE=${RUNTIME_IMAGE:-debian:bookworm-slim} BUILD_IMAGE=${BUILD_IMAGE:-rust:1.95-bookworm}
  if base "$RUNTIME_IMAGE" && base "$BUILD_IMAGE"; then
    return
  fi
  say "no registry can be reached: making the images that others are built from"
  export RUNTIME_IMAGE=tidewater-base:bookworm BUILD_IMAGE=tidewater-base:rust
  local work
  work=$(mktemp -d)
  if ! has_image "$RUNTIME_IMAGE"; then
    command -v debootstrap >/dev/null || apt_install debootstrap || die "could not install debootstrap"
    debootstrap --variant=minbase bookworm "$work/root" >"$work/log" 2>&1 ||
      die "debootstrap failed: $(tail -3 "$work/log")"
    tar -C "$work/root" -c . | docker import - "$RUNTIME_IMAGE" >/dev/null
  fi
  if ! has_image "$BUILD_IMAGE"; then
    local sysroot
    sysroot=$(rustc --print sysroot)
    mkdir -p "$work/rust/toolchain"
    cp -a "$sysroot/bin" "$sysroot/lib" "$work/rust/toolchain/"
    # What signs the connections of this network.
    cp -L /etc/ssl/certs/ca-certificates.crt "$work/rust/"
    cat >"$work/rust/Dockerfile" <<DOCKERFILE
FROM $RUNTIME_IMAGE
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev binutils
COPY toolchain /usr/local/
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV CARGO_HOME=/usr/local/cargo CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt
DOCKERFILE
    docker build --quiet -t "$BUILD_IMAGE" "$work/rust" >/dev/null
  fi
  export POSTGRES_IMAGE=tidewater-base:postgres S3_IMAGE=tidewater-base:seaweedfs
  local here
  here=$(dirname "${BASH_SOURCE[0]}")
  docker build --quiet --build-arg RUNTIME_IMAGE -t "$POSTGRES_IMAGE" "$here/postgres" >/dev/null
  cp -r "$here/s3" "$work/s3"
  cp "$TIDEWATER_PARTS/iceberg/bin/weed" "$work/s3/"
  docker build --quiet --build-arg RUNTIME_IMAGE -t "$S3_IMAGE" "$work/s3" >/dev/null
  rm -rf "$work"
}
