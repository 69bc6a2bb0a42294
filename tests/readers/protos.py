"""Says what a client made of older protos would find changed in newer ones.

    protos.py OLD NEW      directories that hold tidewater/v1/*.proto

One line for each change that breaks: of messages, fields (number, name, type,
cardinality, oneof), values of enums, and calls. What is only there in NEW breaks
nothing, unless it takes a number or a name that OLD had. Nothing printed: compatible.
"""

import glob
import os
import sys
import tempfile

from google.protobuf import descriptor_pb2
from grpc_tools import protoc


def compiled(directory):
    with tempfile.NamedTemporaryFile() as out:
        files = sorted(glob.glob(os.path.join(directory, "tidewater/v1/*.proto")))
        if not files or protoc.main(["protoc", f"-I{directory}", f"--descriptor_set_out={out.name}", *files]):
            sys.exit(f"{directory}: no protos that can be compiled")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read())


def facts(files):
    """What is on the wire, or in a generated client: place -> what is there."""
    found = {}

    def enum(prefix, descriptor):
        for value in descriptor.value:
            found[f"{prefix}{descriptor.name} value {value.number}"] = value.name

    def message(prefix, descriptor):
        name = prefix + descriptor.name
        found[f"{name}"] = "message"
        for field in descriptor.field:
            oneof = ""
            if field.HasField("oneof_index") and not field.proto3_optional:
                oneof = descriptor.oneof_decl[field.oneof_index].name
            found[f"{name} field {field.number}"] = (
                f"{field.name} {field.Type.Name(field.type)} {field.type_name} "
                f"{field.Label.Name(field.label)} optional={field.proto3_optional} oneof={oneof}"
            )
            found[f"{name} name {field.name}"] = field.number
        for nested in descriptor.nested_type:
            message(f"{name}.", nested)
        for nested in descriptor.enum_type:
            enum(f"{name}.", nested)

    for file in files.file:
        prefix = f"{file.package}."
        for descriptor in file.message_type:
            message(prefix, descriptor)
        for descriptor in file.enum_type:
            enum(prefix, descriptor)
        for service in file.service:
            for method in service.method:
                found[f"{prefix}{service.name}/{method.name}"] = (
                    f"{method.input_type} {method.client_streaming} "
                    f"{method.output_type} {method.server_streaming}"
                )
    return found


def reserved(files):
    """What a message has set aside: numbers and names of fields that are gone."""
    found = set()

    def message(prefix, descriptor):
        name = prefix + descriptor.name
        for span in descriptor.reserved_range:
            found.update(f"{name} field {number}" for number in range(span.start, span.end))
        found.update(f"{name} name {gone}" for gone in descriptor.reserved_name)
        for nested in descriptor.nested_type:
            message(f"{name}.", nested)

    for file in files.file:
        for descriptor in file.message_type:
            message(f"{file.package}.", descriptor)
    return found


def main():
    old, new = (compiled(directory) for directory in sys.argv[1:3])
    now, aside = facts(new), reserved(new)
    for place, was in facts(old).items():
        if place not in now and place not in aside:
            print(f"{place}: {was} is gone, and not reserved")
        elif place in now and now[place] != was:
            print(f"{place}: was {was}, is {now[place]}")


if __name__ == "__main__":
    main()
