"""Gives the stream "a" of streams.json the filter that waits (tables.sql)."""
import json
import sys

path = sys.argv[1]
with open(path) as file:
    catalog = json.load(file)
for stream in catalog["selected_streams"]["public"]:
    if stream["stream_name"] == "a":
        stream["filter"] = 'hold != "open"'
with open(path, "w") as file:
    json.dump(catalog, file)
