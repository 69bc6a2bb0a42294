#!/usr/bin/env bash
# The Python environment of the engines that read what was written:
# $TIDEWATER_PARTS/venv with duckdb, pyarrow and pandas.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

environment venv 'import duckdb, pandas, pyarrow.parquet' \
  duckdb==1.5.5 pyarrow==26.0.1 pandas==2.3.3 pytz==2026.6
