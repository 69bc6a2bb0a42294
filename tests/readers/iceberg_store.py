"""Commands of iceberg.py about the objects of a store, whatever a table knows of them."""

import json
import os

import boto3
from botocore.exceptions import ClientError
from iceberg_values import print_json
from pyarrow import dataset
from pyarrow.fs import FileSelector, FileType
from pyiceberg.io import load_file_io


def files(catalog, request):
    io = load_file_io(catalog.properties, request["location"])
    scheme, host, path = io.parse_location(request["location"])
    below = FileSelector(path, recursive=True, allow_not_found=True)
    found = io.fs_by_scheme(scheme, host).get_file_info(below)
    print_json(sorted(info.path for info in found if info.type == FileType.File))


def remove(catalog, request):
    for location in request["locations"]:
        load_file_io(catalog.properties, location).delete(location)


def store(request):
    """A client of the S3 store, and bucket and prefix of the location."""
    properties = request["catalog"]
    client = boto3.client(
        "s3",
        endpoint_url=properties["s3.endpoint"],
        region_name=properties["s3.region"],
        aws_access_key_id=properties["s3.access-key-id"],
        aws_secret_access_key=properties["s3.secret-access-key"],
        verify=properties.get("authority"),
    )
    bucket, _, prefix = request["location"].removeprefix("s3://").partition("/")
    return client, bucket, prefix


def uploads(catalog, request):
    client, bucket, prefix = store(request)
    begun = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])
    print_json(sorted(upload["Key"] for upload in begun))


def forbid(catalog, request):
    client, bucket, prefix = store(request)
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject"}
    statement["Resource"] = f"arn:aws:s3:::{bucket}/{prefix}/*"
    try:
        policy = json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])
    except ClientError:
        # There is none.
        policy = {"Version": "2012-10-17", "Statement": []}
    policy["Statement"].append(statement)
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def bucket(catalog, request):
    client, name, _ = store(request)
    client.create_bucket(Bucket=name)


def keys(request):
    client, name, prefix = store(request)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=prefix)
    return sorted(item["Key"] for page in pages for item in page.get("Contents", []))


def objects(catalog, request):
    print_json(keys(request))


def delete(catalog, request):
    client, name, _ = store(request)
    client.delete_object(Bucket=name, Key=request["key"])


def mirror(catalog, request):
    client, name, prefix = store(request)
    for key in keys(request):
        path = os.path.join(request["directory"], key.removeprefix(prefix).lstrip("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        client.download_file(name, key, path)


def rows(catalog, request):
    io = load_file_io(catalog.properties, request["location"])
    scheme, host, path = io.parse_location(request["location"])
    found = dataset.dataset(path, format="parquet", filesystem=io.fs_by_scheme(scheme, host))
    print_json(found.count_rows())
