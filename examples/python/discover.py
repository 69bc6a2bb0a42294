"""Lists what a source-svc finds in a PostgreSQL database.

    TIDEWATER_TOKEN=… python discover.py --source localhost:50051 --config source.json

The file is a SourceConfig (tidewater/v1/source.proto) as JSON, by its proto names.
"""

import argparse
import pathlib

import grpc
from google.protobuf import json_format

import services
from tidewater.v1 import source_pb2, source_pb2_grpc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, metavar="HOST:PORT")
    parser.add_argument("--config", required=True, metavar="FILE")
    services.flags(parser)
    arguments = parser.parse_args()

    trust = services.Trust(arguments)
    config = json_format.Parse(pathlib.Path(arguments.config).read_text(), source_pb2.SourceConfig())
    source = source_pb2_grpc.SourceStub(trust.channel(arguments.source, "source-svc"))
    try:
        found = source.Discover(
            source_pb2.DiscoverRequest(config=config), metadata=trust.metadata(), timeout=120
        )
    except grpc.RpcError as error:
        raise SystemExit(services.explain(error))
    for relation in found.relations:
        columns = ", ".join(f"{column.name} {column.type}" for column in relation.columns)
        key = ", ".join(relation.primary_key)
        print(f"{relation.namespace}.{relation.name} ({columns}) key ({key})")


if __name__ == "__main__":
    main()
