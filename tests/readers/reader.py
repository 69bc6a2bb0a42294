"""Reads Parquet tables with an engine that is not ours and prints every value.

    reader.py < requests > answers            each table once
    reader.py watch ENGINE DIRECTORY COLUMN   again and again until stdin ends

A request is one line, a JSON object: `engine`, which is `duckdb` or `pyarrow`,
and `directories`. An answer is lines, then `end`, or `failed` and the reason as
a JSON string. For each directory one JSON line with its
schema, one JSON line per row (a list of cells), and an empty line. A cell is
null, a string or a list of cells. The strings are PostgreSQL's own text output
under DateStyle=ISO, TimeZone=UTC, bytea_output=hex; floats are their bits in
hexadecimal. So equal text means equal bits.

`watch` prints one JSON line per attempt: the rows and the distinct values of
COLUMN seen, or {"missing": true} when a listed file was gone by the time it
was opened, or {"error": ...}.
"""

import glob
import json
import os
import select
import struct
import sys
import traceback
import uuid

import pyarrow
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet


# --- PostgreSQL's text of one value ------------------------------------------


def float_bits(value, form):
    """Floats are compared by their bits: PostgreSQL does not always print the
    shortest digits that read back to the same value."""
    return "NaN" if value != value else "0x" + struct.pack(form, value).hex()


def civil(days):
    """(year, month, day) of days since 1970-01-01, proleptic Gregorian."""
    days += 719468
    era, day_of_era = divmod(days, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    return year, month, day_of_year - (153 * shifted + 2) // 5 + 1


def date_text(days):
    """The date and its " BC" or "", apart because the time goes between."""
    year, month, day = civil(days)
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d}", era


def time_text(micros):
    seconds, fraction = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return text + (f".{fraction:06d}".rstrip("0") if fraction else "")


def timestamp_text(micros, zone):
    days, rest = divmod(micros, 86_400_000_000)
    date, era = date_text(days)
    return f"{date} {time_text(rest)}{zone}{era}"


# --- Arrow columns to lists of cells ------------------------------------------


def integers(array, width):
    return array.cast(pyarrow.int32() if width == 32 else pyarrow.int64()).to_pylist()


def cells(array):
    kind = array.type
    types = pyarrow.types
    if isinstance(kind, pyarrow.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return each(array.storage.to_pylist(), lambda v: str(uuid.UUID(bytes=v)))
        return cells(array.storage)
    if types.is_list(kind) or types.is_large_list(kind):
        return lists(array)
    if types.is_boolean(kind):
        return each(array.to_pylist(), lambda v: "t" if v else "f")
    if types.is_integer(kind):
        return each(array.to_pylist(), str)
    if types.is_float32(kind):
        return each(array.to_pylist(), lambda v: float_bits(v, ">f"))
    if types.is_float64(kind):
        return each(array.to_pylist(), lambda v: float_bits(v, ">d"))
    if types.is_decimal(kind):
        return each(array.to_pylist(), lambda v: format(v, "f"))
    if types.is_date32(kind):
        return each(integers(array, 32), lambda v: "".join(date_text(v)))
    if types.is_time64(kind) and kind.unit == "us":
        return each(integers(array, 64), time_text)
    if types.is_timestamp(kind) and kind.unit == "us":
        zone = "+00" if kind.tz else ""
        return each(integers(array, 64), lambda v: timestamp_text(v, zone))
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return each(array.to_pylist(), lambda v: "\\x" + v.hex())
    if types.is_string(kind) or types.is_large_string(kind):
        return array.to_pylist()
    if types.is_null(kind):
        return [None] * len(array)
    raise TypeError(f"a column of unexpected type {kind}")


def each(values, text):
    return [None if value is None else text(value) for value in values]


def lists(array):
    items = cells(array.flatten())
    found, at = [], 0
    for length in array.value_lengths().to_pylist():
        if length is None:
            found.append(None)
        else:
            found.append(items[at : at + length])
            at += length
    return found


# --- the engines --------------------------------------------------------------


def duckdb_connection():
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET arrow_large_buffer_size = true")
    return connection


def with_duckdb(directory):
    pattern = os.path.join(glob.escape(directory), "**", "*.parquet").replace("'", "''")
    query = f"SELECT * FROM read_parquet('{pattern}', hive_partitioning = false, union_by_name = true)"
    relation = duckdb_connection().sql(query)
    types = {name: str(kind) for name, kind in zip(relation.columns, relation.types)}
    return relation.to_arrow_table(), types


def with_pyarrow(directory):
    data = pyarrow.dataset.dataset(directory, format="parquet", partitioning=None)
    schemas = [fragment.physical_schema for fragment in data.get_fragments()]
    table = data.replace_schema(pyarrow.unify_schemas([data.schema, *schemas])).to_table()
    return table, {field.name: str(field.type) for field in table.schema}


ENGINES = {"duckdb": with_duckdb, "pyarrow": with_pyarrow}


def parquet_files(directory):
    return sorted(glob.glob(os.path.join(glob.escape(directory), "**", "*.parquet"), recursive=True))


def parquet_schema(path):
    """{column path: [physical type, logical type]} as the file's footer says."""
    return schema_of(pyarrow.parquet.ParquetFile(path))


def schema_of(file):
    schema = file.schema
    leaves = [schema.column(index) for index in range(len(schema))]
    return {leaf.path: [leaf.physical_type, str(leaf.logical_type)] for leaf in leaves}


def one_schema(files):
    if not files:
        raise RuntimeError("no *.parquet file")
    schema = {}
    for path in files[:50]:
        for leaf, kind in parquet_schema(path).items():
            # A file may be older than a column.
            if schema.setdefault(leaf, kind) != kind:
                raise RuntimeError(f"{path} has another {leaf} than a file before it")
    return schema


def print_table(engine, directory):
    files = parquet_files(directory)
    parquet = one_schema(files)
    table, types = ENGINES[engine](directory)
    head = {
        "columns": table.column_names,
        "types": types,
        "parquet": parquet,
        "files": [{"path": os.path.relpath(path, directory), "bytes": os.path.getsize(path)} for path in files],
    }
    print(json.dumps(head))
    columns = [cells(column.combine_chunks()) for column in flat(table)]
    for row in zip(*columns) if columns else ([] for _ in range(table.num_rows)):
        print(json.dumps(list(row)))
    print(flush=True)


def flat(table):
    for column in table.columns:
        # combine_chunks() of a column without chunks has no array to give.
        yield column if column.num_chunks else pyarrow.chunked_array([pyarrow.array([], column.type)])


# --- watching -----------------------------------------------------------------


def stdin_ended():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def watch(engine, directory, column):
    while True:
        last = stdin_ended()
        listed = os.stat(directory).st_ino
        try:
            print(json.dumps(observe(engine, directory, column)), flush=True)
        except Exception as error:  # what a reader would have met
            text = str(error)
            # A listing without files is no such case, it would pass for an
            # empty table; unless the directory was exchanged in the middle:
            # pyarrow leaves out a name that it cannot stat any more.
            gone = isinstance(error, FileNotFoundError) or "No such file" in text
            if "listed without a file" in text or "No files found" in text:
                gone = os.stat(directory).st_ino != listed
            print(json.dumps({"missing": True} if gone else {"error": text}), flush=True)
        if last:
            return


def observe(engine, directory, column):
    if engine == "duckdb":
        pattern = os.path.join(directory, "**", "*.parquet").replace("'", "''")
        query = f"SELECT \"{column}\"::VARCHAR, count(*) FROM read_parquet('{pattern}', hive_partitioning = false) GROUP BY 1"
        return {"values": dict(duckdb_connection().execute(query).fetchall())}
    data = pyarrow.dataset.dataset(directory, format="parquet", partitioning=None)
    if not data.files:
        raise RuntimeError("the table was listed without a file")
    counts = pyarrow.compute.value_counts(data.to_table(columns=[column])[column].cast("string"))
    return {"values": {entry["values"].as_py(): entry["counts"].as_py() for entry in counts}}


# --- answering ----------------------------------------------------------------


def print_tables(request):
    for directory in request["directories"]:
        print_table(request["engine"], directory)


def serve(answer):
    """Has each request on stdin answered, until it ends."""
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8")
    for line in sys.stdin:
        try:
            answer(json.loads(line))
        except Exception:
            print("failed", json.dumps(traceback.format_exc()), flush=True)
        else:
            print("end", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["watch"]:
        watch(*sys.argv[2:])
    else:
        serve(print_tables)
