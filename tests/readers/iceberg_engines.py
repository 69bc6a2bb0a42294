"""Reads an Iceberg table with one of four engines into an Arrow table.

PyIceberg reads through the catalog; DuckDB, ClickHouse and Spark read the
metadata file that the catalog names. What an engine's own types lose in its answer, and
the table's schema can say, is put back from the schema (a time zone, string or
bytes); what the engine itself loses is not.
"""

import functools
import json
import os
import re
import socket
import sysconfig

import pyarrow
import pyarrow.compute
from pyiceberg import types

from iceberg_values import arrow_type


def schema_at(table, snapshot_id):
    """The schema that a snapshot is read under; the table's without one."""
    if snapshot_id is None:
        return table.schema()
    return table.schemas()[table.snapshot_by_id(snapshot_id).schema_id]


def with_pyiceberg(table, snapshot_id):
    return table.scan(snapshot_id=snapshot_id).to_arrow()


# --- DuckDB -------------------------------------------------------------------


def sql_text(text):
    return "'" + text.replace("'", "''") + "'"


@functools.cache
def duckdb_database():
    """One for all reads: DuckDB hashes its extensions whenever it loads them,
    which takes longer than to read a table. It remembers nothing of files."""
    import duckdb

    # Extensions are loaded from where pip put them, and no others.
    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    packages = sysconfig.get_paths()["purelib"]
    for name in ("avro", "httpfs", "iceberg"):
        file = f"duckdb_extension_{name}/extensions/v{duckdb.__version__}/{name}.duckdb_extension"
        connection.execute(f"LOAD {sql_text(os.path.join(packages, file))}")
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET GLOBAL arrow_large_buffer_size = true")
    connection.execute("SET GLOBAL enable_external_file_cache = false")
    return connection


def duckdb_connection(properties):
    connection = duckdb_database().cursor()
    endpoint = properties.get("s3.endpoint")
    if endpoint:
        scheme, _, address = endpoint.partition("://")
        settings = {
            "KEY_ID": properties["s3.access-key-id"],
            "SECRET": properties["s3.secret-access-key"],
            "REGION": properties["s3.region"],
            "ENDPOINT": address,
            "URL_STYLE": "path",
        }
        listed = ", ".join(f"{name} {sql_text(value)}" for name, value in settings.items())
        connection.execute(f"CREATE OR REPLACE SECRET store (TYPE s3, USE_SSL {scheme == 'https'}, {listed})")
    return connection


def duckdb_source(table, snapshot_id=None):
    at = "" if snapshot_id is None else f", snapshot_from_id = {snapshot_id}"
    return f"iceberg_scan({sql_text(table.metadata_location)}{at})"


def with_duckdb(table, properties, snapshot_id):
    query = f"SELECT * FROM {duckdb_source(table, snapshot_id)}"
    return duckdb_connection(properties).sql(query).to_arrow_table()


# --- ClickHouse ---------------------------------------------------------------

# Dates beyond Date32 end at its limits instead of ending the query; strings
# come as bytes; nothing is remembered of a file that may be made anew.
CLICKHOUSE_SETTINGS = (
    "SETTINGS session_timezone = 'UTC', date_time_overflow_behavior = 'saturate',"
    " output_format_arrow_string_as_string = 0, use_iceberg_metadata_files_cache = 0, use_parquet_metadata_cache = 0"
)


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def clickhouse_source(table, properties):
    base, name = table.metadata_location.rsplit("/metadata/", 1)
    pinned = f"SETTINGS iceberg_metadata_file_path = {quoted('metadata/' + name)}"
    if base.startswith("s3://") or base.startswith("s3a://"):
        place = properties["s3.endpoint"] + "/" + base.partition("://")[2] + "/"
        keys = [properties["s3.access-key-id"], properties["s3.secret-access-key"]]
        return f"icebergS3({', '.join(quoted(text) for text in [place, *keys])}, {pinned})"
    # Java writes file:/path, too.
    path = "/" + base.removeprefix("file:").lstrip("/")
    return f"icebergLocal({quoted(path + '/')}, {pinned})"


def clickhouse(what, table, properties, form, snapshot_id=None):
    import chdb

    at = "" if snapshot_id is None else f", iceberg_snapshot_id = {snapshot_id}"
    return chdb.query(f"SELECT {what(clickhouse_source(table, properties))} {CLICKHOUSE_SETTINGS}{at}", form)


def with_clickhouse(table, properties, snapshot_id):
    answer = clickhouse(lambda source: f"* FROM {source}", table, properties, "ArrowStream", snapshot_id)
    found = pyarrow.ipc.open_stream(answer.bytes()).read_all()
    schema, columns = schema_at(table, snapshot_id), []
    for name, column in zip(found.column_names, found.columns):
        kind = schema.find_field(name).field_type
        chunks = [restored(chunk, kind) for chunk in column.chunks]
        columns.append(pyarrow.chunked_array(chunks, arrow_type(kind)))
    return pyarrow.table(columns, names=found.column_names)


def restored(array, kind):
    """The array in the Arrow type of Iceberg's `kind`."""
    if isinstance(kind, types.ListType):
        items = restored(array.values, kind.element_type)
        return pyarrow.ListArray.from_arrays(array.offsets, items, mask=array.is_null())
    if isinstance(kind, types.TimeType):
        # Whole seconds.
        micros = pyarrow.compute.multiply(array.cast(pyarrow.int64()), 1_000_000)
        return micros.cast(arrow_type(kind))
    if array.type == arrow_type(kind):
        return array
    return array.cast(arrow_type(kind))


# --- Spark --------------------------------------------------------------------


def spark(table, request, **asked):
    """The answer's first line, and the stream with the rest."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(request["spark"])
        stream = server.makefile("rwb")
    asked |= {"metadata": table.metadata_location, "properties": request["catalog"]}
    stream.write(json.dumps(asked).encode() + b"\n")
    stream.flush()
    head = json.loads(stream.readline())
    if "failed" in head:
        raise RuntimeError(head["failed"])
    return head, stream


def with_spark(table, request, snapshot_id):
    _, stream = spark(table, request, snapshot=snapshot_id)
    with stream:
        found = pyarrow.ipc.open_stream(stream).read_all()
    fields = schema_at(table, snapshot_id).fields
    names = [field.name for field in fields]
    # What Spark cannot tell.
    absent = {
        field.name: pyarrow.nulls(found.num_rows, arrow_type(field.field_type))
        for field in fields
        if field.name not in found.column_names
    }
    return pyarrow.table([absent[name] if name in absent else found[name] for name in names], names=names)


# --- all of them --------------------------------------------------------------


def read(request, table):
    """All rows; of a snapshot, under the schema it was made with."""
    engine, properties, snapshot_id = request["engine"], request["catalog"], request.get("snapshot")
    if engine == "pyiceberg":
        return with_pyiceberg(table, snapshot_id)
    if engine == "duckdb":
        return with_duckdb(table, properties, snapshot_id)
    if engine == "clickhouse":
        return with_clickhouse(table, properties, snapshot_id)
    if engine == "spark":
        return with_spark(table, request, snapshot_id)
    raise ValueError(f"an unknown engine {engine}")


def counts(request, table):
    """For each condition the rows that fulfil it. The engine skips files as it
    likes."""
    engine, properties, conditions = request["engine"], request["catalog"], request["conditions"]
    if engine == "pyiceberg":
        return [table.scan(row_filter=condition).count() for condition in conditions]
    if engine == "duckdb":
        connection, query = duckdb_connection(properties), f"SELECT count(*) FROM {duckdb_source(table)} WHERE "
        return [connection.sql(query + condition).fetchone()[0] for condition in conditions]
    if engine == "spark":
        head, stream = spark(table, request, conditions=conditions)
        stream.close()
        return head["counts"]

    def count(condition):
        # PyIceberg wants timestamps as 2024-02-29T00:00:00+00:00, which ClickHouse refuses.
        spaced = re.sub(r"'([\d-]+)T([\d:.]+)(\+00:00)?'", r"'\1 \2'", condition)
        answer = clickhouse(lambda source: f"count(*) FROM {source} WHERE {spaced}", table, properties, "CSV")
        return int(answer.data())

    return [count(condition) for condition in conditions]
