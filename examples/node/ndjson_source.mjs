// A source of its own: a file of JSON lines that grows, into a Tidewater writer.
//
//     TIDEWATER_TOKEN=… node ndjson_source.mjs --writer localhost:50052 \
//         --destination destination.json --file events.ndjson --columns columns.json \
//         --table events [--key-column id]
//
// destination.json is a Destination (tidewater/v1/writer.proto) as JSON, by its proto names:
// {"parquet": {"local_path": "/data/lake"}}. columns.json has the type of each column, one
// of `TYPES` below: {"id": "int64", "at": "timestamp"}. The first run loads the file; every
// later one adds the lines behind the byte that the destination has come to. That position
// lies with the data, in the same commit, so this program keeps nothing.
//
// The way of the rows:
//
//     Prepare ─► what the table holds ─► DoPut: batches, staged and seen by nobody
//                                    ─► Commit: all of them in one step, with the position

import { randomUUID } from "node:crypto";
import { createReadStream, statSync } from "node:fs";

import * as arrow from "apache-arrow";

import { Fault, json, run, Service } from "./services.mjs";
import { stage } from "./stage.mjs";

/** The lines in so many bytes make a batch. */
const BYTES_OF_A_BATCH = 1 << 20;

const is = (kind) => (value) => (typeof value === kind ? value : undefined);
const text = (read) => (value) => (typeof value === "string" ? read(value) : undefined);

/**
 * What columns.json calls a type → Arrow's type, what makes its value of one of JSON
 * (undefined where it is none), and the field's metadata, if it has any. The writer keeps
 * Arrow's types as they are.
 */
const TYPES = {
  bool: [new arrow.Bool(), is("boolean")],
  int64: [new arrow.Int64(), int64],
  float64: [new arrow.Float64(), is("number")],
  text: [new arrow.Utf8(), is("string")],
  base64: [new arrow.Binary(), text(base64)],
  date: [new arrow.DateDay(), text(date)],
  timestamp: [new arrow.TimestampMicrosecond("UTC"), text(timestamp)],
  uuid: [new arrow.FixedSizeBinary(16), text(uuid), { "ARROW:extension:name": "arrow.uuid" }],
};

/** A number that JSON.parse has kept as it is, or a text. */
function int64(value) {
  const whole = typeof value === "string" ? /^-?\d+$/.test(value) : Number.isSafeInteger(value);
  if (!whole) return undefined;
  const integer = BigInt(value);
  return BigInt.asIntN(64, integer) === integer ? integer : undefined;
}

function base64(value) {
  const bytes = Buffer.from(value, "base64");
  return bytes.toString("base64") === value ? bytes : undefined;
}

/** A day that there is ("2026-02-31" is none), as Date has it. */
function date(value) {
  const day = new Date(value);
  return day.toJSON()?.slice(0, 10) === value ? day : undefined;
}

/** Microseconds since 1970 of "2026-02-01T12:00:00.000123Z": Date would lose some. */
function timestamp(value) {
  const [, day, time, fraction = ""] = /^(.{10})(T.{8})(?:\.(\d{1,6}))?Z$/.exec(value) ?? [];
  const milliseconds = day && date(day) ? Date.parse(`${day}${time}Z`) : NaN;
  if (Number.isNaN(milliseconds)) return undefined;
  return BigInt(milliseconds) * 1000n + BigInt(fraction.padEnd(6, "0"));
}

function uuid(value) {
  const is = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(value);
  return is ? Buffer.from(value.replaceAll("-", ""), "hex") : undefined;
}

/** The columns of a table, as columns.json has them: names and types. */
class Columns {
  constructor(types) {
    const fields = Object.entries(types).map(([name, type]) => {
      if (!Object.hasOwn(TYPES, type)) {
        throw new Fault(`column ${name}: no type ${type}, but ${Object.keys(TYPES).join(", ")}`);
      }
      const [arrowType, , metadata = {}] = TYPES[type];
      return new arrow.Field(name, arrowType, true, new Map(Object.entries(metadata)));
    });
    this.types = types;
    this.schema = new arrow.Schema(fields);
  }

  /** The rows as a record batch; what a row does not name is null there. */
  batch(rows) {
    const { fields } = this.schema;
    const children = fields.map((field) => this.#column(field, rows));
    const type = new arrow.Struct(fields);
    const data = arrow.makeData({ type, length: rows.length, nullCount: 0, children });
    return new arrow.RecordBatch(this.schema, data);
  }

  #column({ name, type }, rows) {
    const [, read] = TYPES[this.types[name]];
    // The builder of timestamps takes milliseconds.
    const built = arrow.DataType.isTimestamp(type) ? new arrow.Int64() : type;
    const builder = arrow.makeBuilder({ type: built, nullValues: [null] });
    for (const row of rows) {
      const given = Object.hasOwn(row, name) ? row[name] : null;
      const value = given === null ? null : read(given);
      if (value === undefined) {
        throw new Fault(`column ${name}: ${JSON.stringify(given)} is no ${this.types[name]}`);
      }
      builder.append(value);
    }
    return builder.finish().flush().clone(type);
  }
}

/** The lines of a file from the byte `position` on, which moves with what is read. */
class Lines {
  constructor(path, position) {
    if (statSync(path).size < position) {
      throw new Fault(`${path} is shorter than what the table has of it: is it another file?`);
    }
    this.path = path;
    this.position = position;
  }

  /** Their rows. A last line without an end is still being written, and waits. */
  async *batches(columns) {
    const options = { start: this.position, highWaterMark: BYTES_OF_A_BATCH };
    let begun = Buffer.alloc(0);
    for await (const bytes of createReadStream(this.path, options)) {
      const read = Buffer.concat([begun, bytes]);
      const end = read.lastIndexOf("\n") + 1;
      begun = read.subarray(end);
      if (end === 0) continue;
      yield this.#batch(columns, read.subarray(0, end));
      this.position += end;
    }
  }

  #batch(columns, bytes) {
    try {
      const lines = new TextDecoder("utf-8", { fatal: true }).decode(bytes).trimEnd().split("\n");
      return columns.batch(lines.map(row));
    } catch (error) {
      throw new Fault(`${this.path}, behind byte ${this.position}: ${error.message}`);
    }
  }
}

function row(line) {
  const row = JSON.parse(line);
  const isObject = typeof row === "object" && row !== null && !Array.isArray(row);
  if (!isObject) throw new Fault(`${line} is no object`);
  return row;
}

/** Brings the table to what the file has; what was done, for people. */
async function replicate(flags) {
  const destination = json(flags.destination);
  const columns = new Columns(json(flags.columns));
  const table = {
    database: flags.database,
    name: flags.table,
    key_columns: flags["key-column"],
    normalization: true,
    stream: `${flags.database}.${flags.table}`,
  };
  const writer = await Service.at(flags.writer, "writer-svc", flags);
  const prepared = await writer.call("Writer", "Prepare", {
    destination,
    table,
    columns: Object.keys(columns.types),
  });
  const held = prepared.last_commit;
  const position = held ? held.position : "0";
  if (!/^\d+$/.test(position)) {
    throw new Fault(`${prepared.location} is another program's: it is at "${position}"`);
  }
  const lines = new Lines(flags.file, Number(position));

  const load_id = randomUUID();
  const request = {
    destination,
    table,
    load_id,
    settings_hash: "1",
    processed_at: String(Date.now() * 1000),
    op_type: "r",
  };
  const staged = await stage(writer, request, columns.schema, lines.batches(columns));
  // What is staged and not committed is seen by nobody, and goes with the next Prepare.
  if (held && staged.rows === "0") return `${prepared.location}: up to date`;

  const done = await writer.call("Writer", "Commit", {
    destination,
    table,
    commit_id: randomUUID(),
    load_id,
    mode: held ? "MODE_APPEND" : "MODE_REPLACE",
    staged: [staged],
    position: String(lines.position),
    // Where another program has committed meanwhile, ours is refused.
    expected_commit_id: held?.commit_id ?? "",
  });
  return `${done.location}: ${staged.rows} rows, up to byte ${lines.position}`;
}

await run(
  async (flags) => console.log(await replicate(flags)),
  ["writer", "destination", "file", "columns", "table"],
  {
    database: { type: "string", default: "example" }, // at the destination
    "key-column": { type: "string", multiple: true, default: [] }, // once for each, in order
  },
);
