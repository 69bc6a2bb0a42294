"""Every row of every table, as PyIceberg reads it, is the database's.

compare.py <postgres> <catalog> <s3> <directory of secrets>
"""
import pathlib
import sys

import psycopg2
from pyiceberg.catalog.sql import SqlCatalog

source, catalog, s3, secrets = sys.argv[1:]
secret = {name: pathlib.Path(secrets, name).read_text().strip() for name in ("postgres", "s3")}
tables = SqlCatalog(
    "olake_iceberg",
    uri=f"postgresql+psycopg2://postgres:{secret['postgres']}@{catalog}/postgres",
    **{
        "s3.endpoint": f"http://{s3}:8333",
        "s3.access-key-id": "tidewater",
        "s3.secret-access-key": secret["s3"],
        "s3.region": "us-east-1",
        "s3.force-virtual-addressing": False,
    },
)
database = psycopg2.connect(host=source, user="postgres", password=secret["postgres"])
for name in ("a", "b"):
    table = tables.load_table(("postgres_postgres_public", name))
    cursor = database.cursor()
    cursor.execute(f"SELECT * FROM {name} ORDER BY id")
    columns = [column.name for column in cursor.description]
    expected = [tuple(row) for row in cursor]
    read = table.scan().to_arrow().select(columns).sort_by("id")
    found = [tuple(row.values()) for row in read.to_pylist()]
    if found != expected:
        at = next((i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), min(len(found), len(expected)))
        sys.exit(f"{name}: {len(found)} rows, {len(expected)} in the database; row {at}: {found[at:at+1]} {expected[at:at+1]}")
    print(f"{name}: {len(found)} rows equal the database's")
