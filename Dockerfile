# One image for the three services: a stage that builds, a small one that runs.
# BUILD_IMAGE and RUNTIME_IMAGE are what differs between registries.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS dependencies
WORKDIR /src
# Dependencies first, below empty crates: compiled anew only when a manifest
# changes.
COPY Cargo.toml Cargo.lock ./
COPY proto/Cargo.toml proto/
COPY source-svc/Cargo.toml source-svc/
COPY writer-svc/Cargo.toml writer-svc/
COPY orchestrator/Cargo.toml orchestrator/
COPY tests/Cargo.toml tests/
RUN for crate in proto source-svc writer-svc orchestrator tests; do \
      for file in src/lib.rs $(sed -n 's/^path = "\(.*\.rs\)"$/\1/p' $crate/Cargo.toml); do \
        mkdir -p "$(dirname $crate/$file)" && touch "$crate/$file"; \
      done; \
    done \
    && for crate in source-svc writer-svc orchestrator; do echo 'fn main() {}' > $crate/src/main.rs; done \
    && for file in demo bench e2e; do mkdir -p tests/$file && echo 'fn main() {}' > tests/$file/main.rs; done \
    && echo 'fn main() {}' > proto/build.rs \
    && cargo build --release --locked -p source-svc -p writer-svc -p orchestrator

FROM dependencies AS build
COPY proto proto
COPY source-svc source-svc
COPY writer-svc writer-svc
COPY orchestrator orchestrator
RUN find proto source-svc writer-svc orchestrator -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p source-svc -p writer-svc -p orchestrator \
    && mkdir /out \
    && cp target/release/source-svc target/release/writer-svc target/release/orchestrator /out/ \
    && strip --strip-debug /out/*

FROM ${RUNTIME_IMAGE}
# openssl makes the certificates of a deployment that brings none.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates openssl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home tidewater \
    && install -d -o tidewater /data /certificates
COPY --from=build /out/ /usr/local/bin/
USER tidewater
WORKDIR /configs
