"""A source of its own: a table of a SQLite database into a Tidewater writer.

    TIDEWATER_TOKEN=… python sqlite_source.py --writer localhost:50052 \\
        --destination destination.json --sqlite shop.db --table orders

The file is a Destination (tidewater/v1/writer.proto) as JSON, by its proto names:
{"parquet": {"local_path": "/data/lake"}}. The first run loads the table; every later
one adds the rows above the largest rowid that the destination holds. That position
lies with the data, in the same commit, so this program keeps nothing.

The way of the rows:

    Prepare ─► what the table holds ─► DoPut: batches, staged and seen by nobody
                                   ─► Commit: all of them in one step, with the position
"""

import argparse
import pathlib
import sqlite3
import time
import uuid
from collections.abc import Iterator

import grpc
import pyarrow as pa
from google.protobuf import json_format
from pyarrow import flight

import services
from tidewater.v1 import writer_pb2, writer_pb2_grpc

ROWS_OF_A_BATCH = 10_000

# SQLite's declared types → Arrow's. The writer keeps Arrow's types as they are.
TYPES = {
    "INTEGER": pa.int64(),
    "REAL": pa.float64(),
    "TEXT": pa.string(),
    "BLOB": pa.binary(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
}


class Table:
    """A table of SQLite: its columns, its key, its rows."""

    def __init__(self, database: sqlite3.Connection, name: str):
        self.database, self.name = database, name
        columns = database.execute("SELECT name, type, pk FROM pragma_table_info(?)", [name])
        columns = columns.fetchall()
        if not columns:
            raise SystemExit(f"there is no table {name}")
        self.schema = pa.schema([(column, TYPES[kind]) for column, kind, _ in columns])
        key = sorted((place, column) for column, _, place in columns if place)
        self.key = [column for _, column in key]

    def last_rowid(self) -> int:
        """The largest rowid there is."""
        query = f'SELECT coalesce(max(rowid), 0) FROM "{self.name}"'
        return self.database.execute(query).fetchone()[0]

    def batches(self, above: int, to: int) -> Iterator[pa.RecordBatch]:
        """The rows with a rowid in (above, to]."""
        names = ", ".join(f'"{name}"' for name in self.schema.names)
        rows = self.database.execute(
            f'SELECT {names} FROM "{self.name}" WHERE rowid > ? AND rowid <= ? ORDER BY rowid',
            [above, to],
        )
        while some := rows.fetchmany(ROWS_OF_A_BATCH):
            columns = zip(self.schema, zip(*some))
            arrays = [array(field.type, values) for field, values in columns]
            yield pa.record_batch(arrays, schema=self.schema)


def array(kind: pa.DataType, values: tuple) -> pa.Array:
    """SQLite's values as Arrow has them: its dates and times are ISO texts."""
    if pa.types.is_date(kind):
        return pa.array(values, pa.string()).cast(kind)
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.string()).cast(pa.timestamp("us")).cast(kind)
    if pa.types.is_boolean(kind):
        return pa.array([None if value is None else bool(value) for value in values])
    return pa.array(values, kind)


def stage(
    trust: services.Trust,
    address: str,
    request: writer_pb2.StageRequest,
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
) -> writer_pb2.StagedChunk:
    """One DoPut: stages the batches and returns what the writer says of them."""
    client, options = trust.flight(address)
    descriptor = flight.FlightDescriptor.for_command(request.SerializeToString())
    outbox, answers = client.do_put(descriptor, schema, options=options)
    end = writer_pb2.EndOfStream(complete=True)
    for batch in batches:
        outbox.write_batch(batch)
        end.rows += batch.num_rows
        end.batches += 1
    # Without this last message the writer would discard what came before it.
    outbox.write_metadata(end.SerializeToString())
    outbox.done_writing()
    answer = answers.read()
    outbox.close()
    return writer_pb2.StagedChunk.FromString(answer.to_pybytes())


def replicate(
    trust: services.Trust,
    address: str,
    destination: writer_pb2.Destination,
    database: str,
    table: Table,
) -> str:
    """Brings the destination to what the source has; what was done, for people."""
    writer = writer_pb2_grpc.WriterStub(trust.channel(address, "writer-svc"))
    target = writer_pb2.Table(
        database=database,
        name=table.name,
        key_columns=table.key,
        normalization=True,
        stream=f"{database}.{table.name}",
    )
    prepared = writer.Prepare(
        writer_pb2.PrepareRequest(
            destination=destination, table=target, columns=table.schema.names
        ),
        metadata=trust.metadata(),
    )
    is_new = not prepared.HasField("last_commit")
    above = 0 if is_new else int(prepared.last_commit.position)
    to = table.last_rowid()
    if not is_new and above == to:
        return f"{prepared.location}: up to date"

    load_id, commit_id = str(uuid.uuid4()), str(uuid.uuid4())
    staged = stage(
        trust,
        address,
        writer_pb2.StageRequest(
            destination=destination,
            table=target,
            load_id=load_id,
            settings_hash="1",
            processed_at=time.time_ns() // 1000,
            op_type="r",
        ),
        table.schema,
        table.batches(above, to),
    )
    commit = writer_pb2.CommitRequest(
        destination=destination,
        table=target,
        commit_id=commit_id,
        load_id=load_id,
        mode=writer_pb2.CommitRequest.MODE_REPLACE if is_new else writer_pb2.CommitRequest.MODE_APPEND,
        staged=[staged],
        position=str(to),
        # Where another program has committed meanwhile, ours is refused.
        expected_commit_id=prepared.last_commit.commit_id,
    )
    done = writer.Commit(commit, metadata=trust.metadata())
    return f"{done.location}: {staged.rows} rows, up to rowid {to}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writer", required=True, metavar="HOST:PORT")
    parser.add_argument("--destination", required=True, metavar="FILE")
    parser.add_argument("--sqlite", required=True, metavar="FILE")
    parser.add_argument("--table", required=True)
    parser.add_argument("--database", default="example", help="at the destination")
    services.flags(parser)
    arguments = parser.parse_args()

    destination = json_format.Parse(
        pathlib.Path(arguments.destination).read_text(), writer_pb2.Destination()
    )
    table = Table(sqlite3.connect(f"file:{arguments.sqlite}?mode=ro", uri=True), arguments.table)
    trust = services.Trust(arguments)
    try:
        print(replicate(trust, arguments.writer, destination, arguments.database, table))
    except grpc.RpcError as error:
        raise SystemExit(services.explain(error))
    except flight.FlightError as error:
        raise SystemExit(str(error))


if __name__ == "__main__":
    main()
