# One image for the three services: a stage that builds, a small one that runs.
# BUILD_IMAGE and RUNTIME_IMAGE are what differs between registries.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY proto proto
COPY source-svc source-svc
COPY writer-svc writer-svc
COPY orchestrator orchestrator
COPY tests tests
RUN cargo build --release --locked -p source-svc -p writer-svc -p orchestrator \
    && mkdir /out \
    && cp target/release/source-svc target/release/writer-svc target/release/orchestrator /out/ \
    && strip --strip-debug /out/*

FROM ${RUNTIME_IMAGE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home tidewater \
    && install -d -o tidewater /data
COPY --from=build /out/ /usr/local/bin/
USER tidewater
WORKDIR /configs
