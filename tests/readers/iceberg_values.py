"""PostgreSQL's text of values, as reader.py prints it, back to Arrow columns."""

import json
import re
import struct
import uuid
from decimal import Decimal

import pyarrow
from pyiceberg import types

MICROS_OF_A_DAY = 86_400_000_000


def print_json(value):
    print(json.dumps(value), flush=True)


def float_of(text, form):
    if text == "NaN":
        return float("nan")
    return struct.unpack(form, bytes.fromhex(text.removeprefix("0x")))[0]


def days_of(text):
    """Days since 1970-01-01, proleptic Gregorian, of `2024-02-29` or `0044-03-15 BC`."""
    year, month, day = (int(part) for part in text.removesuffix(" BC").split("-"))
    if text.endswith(" BC"):
        year = 1 - year
    shifted = year - (month <= 2)
    era, year_of_era = divmod(shifted, 400)
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


def micros_of(text):
    """Microseconds of `12:34:56.789`."""
    hours, minutes, seconds = text.split(":")
    whole, _, fraction = seconds.partition(".")
    return (int(hours) * 3600 + int(minutes) * 60 + int(whole)) * 1_000_000 + int(fraction.ljust(6, "0"))


def timestamp_of(text):
    date, time, era = re.fullmatch(r"(\S+) ([\d:.]+)(?:\+00)?( BC)?", text).groups()
    return days_of(date + (era or "")) * MICROS_OF_A_DAY + micros_of(time)


# Iceberg's type → (its Arrow type, the type values are first put in, value of a text)
SCALARS = {
    types.BooleanType: lambda kind: (pyarrow.bool_(), pyarrow.bool_(), lambda text: text == "t"),
    types.IntegerType: lambda kind: (pyarrow.int32(), pyarrow.int32(), int),
    types.LongType: lambda kind: (pyarrow.int64(), pyarrow.int64(), int),
    types.FloatType: lambda kind: (pyarrow.float32(), pyarrow.float32(), lambda text: float_of(text, ">f")),
    types.DoubleType: lambda kind: (pyarrow.float64(), pyarrow.float64(), lambda text: float_of(text, ">d")),
    types.DecimalType: lambda kind: (
        pyarrow.decimal128(kind.precision, kind.scale),
        pyarrow.decimal128(kind.precision, kind.scale),
        Decimal,
    ),
    types.DateType: lambda kind: (pyarrow.date32(), pyarrow.int32(), days_of),
    types.TimeType: lambda kind: (pyarrow.time64("us"), pyarrow.int64(), micros_of),
    types.TimestampType: lambda kind: (pyarrow.timestamp("us"), pyarrow.int64(), timestamp_of),
    types.TimestamptzType: lambda kind: (pyarrow.timestamp("us", "UTC"), pyarrow.int64(), timestamp_of),
    types.UUIDType: lambda kind: (pyarrow.uuid(), pyarrow.binary(16), lambda text: uuid.UUID(text).bytes),
    types.FixedType: lambda kind: (pyarrow.binary(len(kind)), pyarrow.binary(len(kind)), bytes_of),
    types.BinaryType: lambda kind: (pyarrow.binary(), pyarrow.binary(), bytes_of),
    types.StringType: lambda kind: (pyarrow.string(), pyarrow.string(), str),
}


def bytes_of(text):
    return bytes.fromhex(text.removeprefix("\\x"))


def arrow_type(kind):
    if isinstance(kind, types.ListType):
        return pyarrow.list_(arrow_type(kind.element_type))
    return SCALARS[type(kind)](kind)[0]


def arrow_column(cells, kind):
    """An Arrow array of Iceberg's type `kind` from cells as reader.py prints them."""
    if isinstance(kind, types.ListType):
        items = arrow_column([item for cell in cells for item in cell or []], kind.element_type)
        offsets = [0]
        for cell in cells:
            offsets.append(offsets[-1] + len(cell or []))
        absent = pyarrow.array([cell is None for cell in cells], pyarrow.bool_())
        return pyarrow.ListArray.from_arrays(pyarrow.array(offsets, pyarrow.int32()), items, mask=absent)
    final, first, value = SCALARS[type(kind)](kind)
    array = pyarrow.array([None if cell is None else value(cell) for cell in cells], first)
    if isinstance(final, pyarrow.BaseExtensionType):
        return pyarrow.ExtensionArray.from_storage(final, array)
    return array.cast(final)


def parsed(text):
    """Iceberg's type of `decimal(10,2)`, `list<int>`, … Lists get their
    element's field id from the catalog."""
    if text.startswith("list<"):
        return types.ListType(element_id=1, element_type=parsed(text[5:-1]), element_required=False)
    # The names are those of the specification, which a field of a schema takes.
    return types.NestedField.model_validate({"id": 1, "name": "x", "type": text, "required": False}).field_type


def printed(kind):
    """The inverse of `parsed`."""
    if isinstance(kind, types.ListType):
        return f"list<{printed(kind.element_type)}>"
    return str(kind).replace(", ", ",")
