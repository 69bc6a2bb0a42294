"""Spark with Iceberg's own reader, for all tests of a process.

    spark.py DIRECTORY

Answers at DIRECTORY/socket, one request a connection, until it is told to end
(SIGTERM). A request is one line, a JSON object; the answer's first line is
{"failed": why} or what was asked:

    metadata, properties              {} and then all rows of the table, as an
                                      Arrow stream; with `snapshot`, as it was then
    metadata, properties, conditions  {"counts": rows for each}
    catalog, settings, statements     {} after these statements of SQL, in which
                                      `catalog` is a catalog so set

`metadata` is where a metadata file lies and `properties` are PyIceberg's, of
which those of the store count.

Spark has no time type and refuses tables that have one. It reads them when told
that these columns are something else and not to look; but not their lists, since
the reader of lists looks at every column of a file.
"""

import glob
import json
import os
import signal
import socket
import sys
import traceback

import pyarrow
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

# Of the jars beside the metastore's, those of AWS's SDK, which Iceberg's
# S3FileIO needs: the others are older than Spark's own.
SDK = ("hive/*-2.29.26.jar", "hive/eventstream-*.jar", "hive/reactive-streams-*.jar")


def session(directory):
    """Starts the JVM; all that it writes lies in the directory."""
    jvm = os.path.dirname(os.environ["SPARK_HOME"])
    jars = [jar for pattern in ("iceberg/*.jar", "jdbc/*.jar", *SDK) for jar in glob.glob(os.path.join(jvm, pattern))]
    settings = {
        "spark.driver.extraClassPath": ":".join(jars),
        # What runs for some seconds has no use for the best code.
        "spark.driver.extraJavaOptions": f"-Djava.io.tmpdir={directory} -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "spark.driver.memory": "768m",
        "spark.local.dir": directory,
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": os.path.join(directory, "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


class Reader:
    def __init__(self, spark):
        self.spark, self.jvm, self.stores = spark, spark._jvm, {}

    def file_io(self, location, properties):
        """Iceberg's access to the store of a location."""
        settings = {}
        if location.startswith("s3"):
            settings = {name: value for name, value in properties.items() if name.startswith("s3.")}
            settings["client.region"] = properties["s3.region"]
            settings["s3.path-style-access"] = "true"
        key = json.dumps(settings)
        if key not in self.stores:
            kind = "org.apache.iceberg.aws.s3.S3FileIO" if settings else "org.apache.iceberg.hadoop.HadoopFileIO"
            java = self.jvm.java.util.HashMap()
            for name, value in settings.items():
                java.put(name, value)
            hadoop = self.spark._jsc.hadoopConfiguration()
            self.stores[key] = self.jvm.org.apache.iceberg.CatalogUtil.loadFileIO(kind, java, hadoop)
        return self.stores[key]

    def table(self, location, properties, snapshot_id):
        """The table that a metadata file describes, as a DataFrame."""
        iceberg = self.jvm.org.apache.iceberg
        io = self.file_io(location, properties)
        metadata = iceberg.TableMetadataParser.read(io, location)
        schema = metadata.schema()
        timed = any(has_time(column) for column in schema.columns())
        if timed:
            columns = self.jvm.java.util.ArrayList()
            for column in schema.columns():
                columns.add(self.as_long(column) if has_time(column) else column)
            metadata = metadata.updateSchema(iceberg.Schema(columns, schema.identifierFieldIds()))
        table = iceberg.BaseTable(iceberg.StaticTableOperations(metadata, io), location)
        at = [] if snapshot_id is None else [snapshot_id]
        source, none = iceberg.spark.source.SparkTable(table, *at, False), self.jvm.scala.Option.empty()
        sql = self.jvm.org.apache.spark.sql
        relation = sql.execution.datasources.v2.DataSourceV2Relation.create(source, none, none)
        found = DataFrame(sql.Dataset.ofRows(self.spark._jsparkSession, relation), self.spark)
        if not timed:
            return found
        return found.select([column.name() for column in schema.columns() if is_told(column)])

    def as_long(self, column):
        types = self.jvm.org.apache.iceberg.types.Types
        return getattr(types.NestedField, "from")(column).ofType(types.LongType.get()).build()

    def run(self, catalog, settings, statements):
        """In a session of its own: a catalog is never forgotten."""
        session, name = self.spark.newSession(), "spark.sql.catalog." + catalog
        session.conf.set(name, "org.apache.iceberg.spark.SparkCatalog")
        for key, value in settings.items():
            session.conf.set(f"{name}.{key}", value)
        for statement in statements:
            session.sql(statement).collect()

    def answer(self, request, stream):
        if "statements" in request:
            self.run(request["catalog"], request["settings"], request["statements"])
            stream.write(line({}))
            return
        found = self.table(request["metadata"], request["properties"], request.get("snapshot"))
        if "conditions" in request:
            counts = [found.where(condition).count() for condition in request["conditions"]]
            stream.write(line({"counts": counts}))
            return
        batches, schema = found._collect_as_arrow(), to_arrow_schema(found.schema)
        stream.write(line({}))
        with pyarrow.ipc.new_stream(stream, batches[0].schema if batches else schema) as writer:
            for batch in batches:
                writer.write_batch(batch)


def has_time(column):
    return str(column.type()) in ("time", "list<time>")


def is_told(column):
    return column.type().isPrimitiveType() and not has_time(column)


def line(value):
    return json.dumps(value).encode() + b"\n"


def end(*_):
    raise SystemExit


def serve(reader, listener):
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:
            request = json.loads(stream.readline())
            try:
                reader.answer(request, stream)
            except Exception:
                stream.write(line({"failed": traceback.format_exc()}))


def main(directory):
    signal.signal(signal.SIGTERM, end)
    spark = session(directory)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            # Under its own name it is ready.
            path = os.path.join(directory, "socket")
            listener.bind(path + ".new")
            listener.listen(64)
            os.rename(path + ".new", path)
            serve(Reader(spark), listener)
    finally:
        # The JVM ends with the end of its input, when we are killed as well.
        java = spark.sparkContext._gateway.proc
        java.stdin.close()
        java.wait()


if __name__ == "__main__":
    main(sys.argv[1])
