#!/usr/bin/env bash
# The Python environment of examples/python: $TIDEWATER_PARTS/grpc with grpcio,
# its compiler of protos, and pyarrow.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

environment grpc 'import grpc_tools.protoc, pyarrow.flight' \
  grpcio==1.76.0 grpcio-tools==1.76.0 pyarrow==26.0.1
