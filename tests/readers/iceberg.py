"""Iceberg tables by engines that are not ours: reads, describes, writes.

    iceberg.py < requests > answers

A request is one line, a JSON object: `command`; `catalog`, PyIceberg's
properties of the catalog, and its `name`; mostly `table`, "namespace.name"; and
what the command says. An answer is lines, then `end`, or `failed` and the
reason as a JSON string. Cells are those of reader.py, both ways. Requests share
nothing but the time it takes to start.

    read      engine, tables      each table as reader.py prints it; with `snapshot`,
                                  as it was then, under the schema of then; Spark
                                  is asked at `spark`, a socket of spark.py
    count     engine, conditions  for each condition, the rows that fulfil it
    plan      conditions          for each, the data files PyIceberg would open
    describe                      all of the table's metadata, as JSON
    misplaced                     where rows are in another partition than
                                  PyIceberg's transforms say, and how many rows
    tables    namespace           the names of its tables; null: no such namespace
    files     location            every object below it, whosever
    remove    locations           these objects, whatever refers to them
    create    columns, partition, properties   a table; columns are [name, type]
    append    columns, rows       as a foreign writer
    set_properties  properties    of the table
    rewrite                       its own rows in new files, as compaction does
    evolve    changes             the schema: [add, column, type], [rename, column,
                                  name], [type, column, type], [drop, column]
    unset     property            forgets a property of the table
    roll_back snapshot            main is that snapshot; the schema stays
    drop                          the table with its files
    glue      action, arguments   a call of a Glue catalog's own, and its answer
    hive      action, arguments   a call of a Hive metastore; {"is": type, …} is a struct
    uploads   location            what is being uploaded to that place of a bucket
    forbid    location            nobody may write there any more
    bucket    location            makes the bucket
    objects   location            the keys of all objects there
    delete    location, key       one of them
    mirror    location, directory copies all of them into files
    rows      location            rows of the Parquet files there, not in hidden places
"""

import json

import iceberg_engines
import reader
from iceberg_store import bucket, delete, files, forbid, mirror, objects, remove, rows, uploads
from iceberg_values import arrow_column, parsed, print_json, printed
from pyarrow import ExtensionArray, field as arrow_field, parquet, schema as arrow_schema
from pyarrow import table as arrow_table, types as pyarrow_types
from pyiceberg import types
from pyiceberg.catalog import load_catalog
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import NoSuchNamespaceError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.manifest import DataFileContent, clear_manifest_cache
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import parse_transform


# --- reading ------------------------------------------------------------------


def read(catalog, request):
    snapshot_id = request.get("snapshot")
    for name in request["tables"]:
        table = catalog.load_table(name)
        found = iceberg_engines.read(request, table)
        files = [(entry, file) for entry, file in live_files(table, snapshot_id) if file.content == DataFileContent.DATA]
        print_json(
            {
                "columns": found.column_names,
                "types": {
                    field.name: printed(field.field_type)
                    for field in iceberg_engines.schema_at(table, snapshot_id).fields
                },
                "parquet": footers(table, files),
                "files": [{"path": file.file_path, "bytes": file.file_size_in_bytes} for _, file in files],
            }
        )
        columns = [reader.cells(column.combine_chunks()) for column in reader.flat(found)]
        for row in zip(*columns) if columns else ([] for _ in range(found.num_rows)):
            print_json(list(row))
        print(flush=True)


def footers(table, files):
    """The schema in the footers of the data files that came last, which must be
    the same in all of them: older ones may be of an older schema. A table without
    files has none."""
    schemas = []
    last = max((entry.sequence_number or 0 for entry, _ in files), default=0)
    newest = [file for entry, file in files if (entry.sequence_number or 0) == last]
    for file in newest[:20]:
        with table.io.new_input(file.file_path).open() as stream:
            schemas.append(reader.schema_of(parquet.ParquetFile(stream)))
    if any(schema != schemas[0] for schema in schemas):
        raise RuntimeError(f"the files of {table.name()} have different schemas")
    return schemas[0] if schemas else {}


def count(catalog, request):
    table = catalog.load_table(request["table"])
    print_json(iceberg_engines.counts(request, table))


def plan(catalog, request):
    table = catalog.load_table(request["table"])
    scans = [table.scan(row_filter=condition) for condition in request["conditions"]]
    print_json([sorted(task.file.file_path for task in scan.plan_files()) for scan in scans])


# --- describing ---------------------------------------------------------------


def live_files(table, snapshot_id=None):
    """(manifest entry, data file) of all live files, delete files too."""
    snapshot = table.snapshot_by_id(snapshot_id) if snapshot_id else table.current_snapshot()
    if snapshot is None:
        return []
    manifests = snapshot.manifests(table.io)
    entries = [entry for manifest in manifests for entry in manifest.fetch_manifest_entry(table.io)]
    return [(entry, entry.data_file) for entry in entries]


def describe(catalog, request):
    table = catalog.load_table(request["table"])
    metadata, schema = table.metadata, table.schema()
    snapshot = table.current_snapshot()
    print_json(
        {
            "metadata_location": table.metadata_location,
            "location": table.location(),
            "uuid": str(metadata.table_uuid),
            "format_version": metadata.format_version,
            "properties": table.properties,
            "schema": [field_json(field) for field in schema.fields],
            "identifier_fields": [schema.find_column_name(at) for at in sorted(schema.identifier_field_ids)],
            "partition": [partition_json(field, schema) for field in table.spec().fields],
            "snapshots": [snapshot_json(one) for one in metadata.snapshots],
            "current_snapshot_id": metadata.current_snapshot_id,
            "metadata_log": [entry.metadata_file for entry in metadata.metadata_log],
            "manifests": [manifest_json(one) for one in snapshot.manifests(table.io)] if snapshot else [],
            "files": [file_json(entry, file, table) for entry, file in live_files(table)],
        }
    )


def field_json(field):
    return {
        "id": field.field_id,
        "name": field.name,
        "type": printed(field.field_type),
        "required": field.required,
        "doc": field.doc,
    }


def partition_json(field, schema):
    return {
        "id": field.field_id,
        "name": field.name,
        "source": schema.find_column_name(field.source_id),
        "transform": str(field.transform),
    }


def snapshot_json(snapshot):
    summary = dict(snapshot.summary.additional_properties) if snapshot.summary else {}
    return {
        "id": snapshot.snapshot_id,
        "parent": snapshot.parent_snapshot_id,
        "sequence_number": snapshot.sequence_number,
        "timestamp_ms": snapshot.timestamp_ms,
        "operation": snapshot.summary.operation.value if snapshot.summary else None,
        "summary": summary,
    }


def manifest_json(manifest):
    return {
        "path": manifest.manifest_path,
        "content": manifest.content.name.lower(),
        "spec_id": manifest.partition_spec_id,
        "sequence_number": manifest.sequence_number,
        "added_snapshot_id": manifest.added_snapshot_id,
        "added": manifest.added_files_count,
        "existing": manifest.existing_files_count,
        "deleted": manifest.deleted_files_count,
    }


def file_json(entry, file, table):
    schema, spec = table.schema(), table.specs()[file.spec_id]

    def by_name(values, text=lambda kind, value: value):
        # Those of position deletes are no columns of the table.
        known = ((at, value) for at, value in (values or {}).items() if schema.find_column_name(at))
        fields = ((schema.find_column_name(at), schema.find_type(at), value) for at, value in known)
        return {name: text(kind, value) for name, kind, value in fields}

    def bound(kind, value):
        return value_text(kind, from_bytes(kind, value))

    kinds = spec.partition_type(schema).fields
    return {
        "path": file.file_path,
        "content": file.content.name.lower(),
        "records": file.record_count,
        "bytes": file.file_size_in_bytes,
        "sequence_number": entry.sequence_number,
        "partition": {field.name: value_text(field.field_type, file.partition[at]) for at, field in enumerate(kinds)},
        "values": by_name(file.value_counts),
        "nulls": by_name(file.null_value_counts),
        "nans": by_name(file.nan_value_counts),
        "lower": by_name(file.lower_bounds, bound),
        "upper": by_name(file.upper_bounds, bound),
    }


def value_text(kind, value):
    """A value in a manifest as the text of its cell. Partition values and bounds
    come as Iceberg stores them: days, microseconds."""
    if value is None:
        return None
    if isinstance(kind, types.DateType):
        return "".join(reader.date_text(value))
    if isinstance(kind, types.TimeType):
        return reader.time_text(value)
    if isinstance(kind, (types.TimestampType, types.TimestamptzType)):
        return reader.timestamp_text(value, "+00" if isinstance(kind, types.TimestamptzType) else "")
    if isinstance(kind, types.BooleanType):
        return "t" if value else "f"
    if isinstance(kind, types.FloatType):
        return reader.float_bits(value, ">f")
    if isinstance(kind, types.DoubleType):
        return reader.float_bits(value, ">d")
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return format(value, "f") if isinstance(kind, types.DecimalType) else str(value)


def misplaced(catalog, request):
    """Every row of every file against the file's partition values."""
    table = catalog.load_table(request["table"])
    schema, faults, seen = table.schema(), [], 0
    for _, file in live_files(table):
        spec = table.specs()[file.spec_id]
        with table.io.new_input(file.file_path).open() as stream:
            rows = parquet.ParquetFile(stream).read()
        seen += rows.num_rows
        for at, field in enumerate(spec.fields):
            kind = schema.find_type(field.source_id)
            transform = field.transform.transform(kind)
            cells = stored(rows.column(schema.find_column_name(field.source_id)).combine_chunks())
            # By their text: no NaN equals another.
            found = {repr(transform(cell)) for cell in cells}
            if found != {repr(file.partition[at])}:
                faults.append(f"{field.name}: {found} in {file.partition[at]!r}")
    print_json({"faults": faults, "rows": seen})


def stored(column):
    """Values as Iceberg's transforms take them: days and microseconds since 1970."""
    if pyarrow_types.is_date(column.type):
        column = column.cast("int32")
    elif pyarrow_types.is_timestamp(column.type) or pyarrow_types.is_time(column.type):
        column = column.cast("int64")
    elif isinstance(column, ExtensionArray):
        column = column.storage
    return column.to_pylist()


def tables(catalog, request):
    try:
        if request["catalog"]["type"] == "hive":
            # Whose listing does not tell.
            catalog.load_namespace_properties(request["namespace"])
        found = catalog.list_tables(request["namespace"])
    except NoSuchNamespaceError:
        found = None
    print_json(None if found is None else sorted(identifier[-1] for identifier in found))


# --- writing ------------------------------------------------------------------


def create(catalog, request):
    namespace = request["table"].rpartition(".")[0]
    catalog.create_namespace_if_not_exists(namespace)
    fields = [
        types.NestedField(at, name, parsed(kind), required=False)
        for at, (name, kind) in enumerate(request["columns"], 1)
    ]
    schema = Schema(*fields)
    parts = [
        PartitionField(schema.find_field(source).field_id, 1000 + at, parse_transform(transform), f"{source}_{at}")
        for at, (source, transform) in enumerate(request["partition"])
    ]
    spec = PartitionSpec(*parts)
    # Hive has a place of its own for a database that names none.
    place = "/".join([request["catalog"]["warehouse"], *request["table"].split(".")])
    location = place if request["catalog"]["type"] == "hive" else None
    catalog.create_table(request["table"], schema, location, spec, properties=request["properties"])


def append(catalog, request):
    """Columns that the request does not name are null."""
    table = catalog.load_table(request["table"])
    fields, rows = table.schema().fields, request["rows"]
    given = dict(zip(request["columns"], zip(*rows)))
    nulls = [None] * len(rows)
    columns = [arrow_column(list(given.pop(field.name, nulls)), field.field_type) for field in fields]
    if given:
        raise RuntimeError(f"the table has no column {', '.join(given)}")
    arrow = [
        arrow_field(field.name, column.type, nullable=not field.required) for field, column in zip(fields, columns)
    ]
    table.append(arrow_table(columns, schema=arrow_schema(arrow)))


def set_properties(catalog, request):
    with catalog.load_table(request["table"]).transaction() as transaction:
        transaction.set_properties(request["properties"])


def rewrite(catalog, request):
    table = catalog.load_table(request["table"])
    table.overwrite(table.scan().to_arrow(), overwrite_filter=AlwaysTrue())


def evolve(catalog, request):
    with catalog.load_table(request["table"]).update_schema() as update:
        for what, column, *to in request["changes"]:
            if what == "add":
                update.add_column(column, parsed(to[0]))
            elif what == "rename":
                update.rename_column(column, to[0])
            elif what == "type":
                update.update_column(column, field_type=parsed(to[0]))
            elif what == "drop":
                update.delete_column(column)
            else:
                raise ValueError(f"an unknown change {what}")


def unset(catalog, request):
    with catalog.load_table(request["table"]).transaction() as transaction:
        transaction.remove_properties(request["property"])


def roll_back(catalog, request):
    snapshots = catalog.load_table(request["table"]).manage_snapshots()
    snapshots.set_current_snapshot(snapshot_id=request["snapshot"]).commit()


def drop(catalog, request):
    try:
        catalog.purge_table(request["table"])
    except NotImplementedError:
        # By Hive's catalog.
        table = catalog.load_table(request["table"])
        catalog.drop_table(request["table"])
        scheme, host, path = table.io.parse_location(table.location())
        table.io.fs_by_scheme(scheme, host).delete_dir(path)


# --- what only one catalog has ------------------------------------------------


def glue(catalog, request):
    answer = getattr(catalog.glue, request["action"])(**request["arguments"])
    print(json.dumps(answer, default=str), flush=True)


def hive(catalog, request):
    from hive_metastore import ttypes

    def built(value):
        if isinstance(value, list):
            return [built(item) for item in value]
        if isinstance(value, dict) and "is" in value:
            kind = getattr(ttypes, value["is"])
            return kind(**{key: built(item) for key, item in value.items() if key != "is"})
        return value

    with catalog._client as client:
        answer = getattr(client, request["action"])(*built(request["arguments"]))
    print(json.dumps(answer, default=vars), flush=True)


COMMANDS = {
    command.__name__: command
    for command in (
        *(read, count, plan, describe, misplaced, tables, files, remove, create, append, rewrite, drop),
        *(evolve, unset, roll_back, set_properties),
        *(glue, hive, uploads, forbid, bucket, objects, delete, mirror, rows),
    )
}


def answer(request):
    # A file that was made anew under its old name is read anew.
    clear_manifest_cache()
    with load_catalog(request["name"], **request["catalog"]) as catalog:
        COMMANDS[request["command"]](catalog, request)


if __name__ == "__main__":
    reader.serve(answer)
