"""Asks DuckDB about the Parquet files that a sync wrote.

argv: the directory of the tables. stdin: {"table": "SQL over {table}", ...}.
stdout: the same keys with the first column of the first row as text. In the
SQL, {name} stands for the files of table `name`.
"""

import json
import pathlib
import re
import sys

import duckdb

directory = pathlib.Path(sys.argv[1])


def files(match):
    return f"read_parquet('{directory / match.group(1)}/**/*.parquet')"


answers = {}
for name, sql in json.load(sys.stdin).items():
    rows = duckdb.sql(re.sub(r"\{(\w+)\}", files, sql)).fetchall()
    answers[name] = str(rows[0][0])
json.dump(answers, sys.stdout)
