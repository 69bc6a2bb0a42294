// Arrow record batches into a writer-svc: Flight's DoPut, as writer.proto describes it.

import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import { Message, Table, tableToIPC } from "apache-arrow";

import { message } from "./services.mjs";

/**
 * One DoPut: stages the batches, of this schema and without dictionaries, and returns the
 * StagedChunk that the writer answers. Nobody sees their rows before a Commit names it.
 */
export async function stage(writer, request, schema, batches) {
  const messages = flightData(request, schema, batches);
  const call = writer.doPut();
  try {
    // A refusal comes as soon as it is known, and ends what is still being sent.
    return await pipeline(Readable.from(messages), call, async (answers) => {
      let staged;
      for await (const { app_metadata } of answers) {
        staged = message("StagedChunk").deserialize(app_metadata);
      }
      return staged;
    });
  } finally {
    // Where the batches fail, the writer would wait for more of them.
    call.cancel();
  }
}

/** The messages of a DoPut, in their order. */
async function* flightData(request, schema, batches) {
  const cmd = message("StageRequest").serialize(request);
  const [first] = parts(new Table(schema));
  yield { flight_descriptor: { type: "CMD", cmd }, ...first };
  let rows = 0;
  let count = 0;
  for await (const batch of batches) {
    const [, data] = parts(new Table([batch]));
    yield data;
    rows += batch.numRows;
    count += 1;
  }
  // Without this last message the writer would discard what came before it.
  const end = { rows, batches: count, complete: true };
  yield { app_metadata: message("EndOfStream").serialize(end) };
}

/**
 * The messages of a table's IPC stream (its schema, its batches) as Flight has them: the
 * stream frames each as 0xffffffff, the header's length, the header, the body that the
 * header knows the length of.
 */
function* parts(table) {
  const stream = tableToIPC(table, "stream");
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  let at = 0;
  // The end of a stream is a header of no length.
  for (let length; (length = view.getInt32(at + 4, true)); ) {
    const data_header = stream.subarray(at + 8, at + 8 + length);
    const body = at + 8 + length;
    at = body + Message.decode(data_header).bodyLength;
    yield { data_header, data_body: stream.subarray(body, at) };
  }
}
