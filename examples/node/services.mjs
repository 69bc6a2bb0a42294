// Connections to Tidewater's services: who answers, TLS, the token.
//
// A service proves that it knows the token before it is sent it, as every client
// should ask: another program may listen on the port.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

// Fields keep their names, so that the JSON of a SourceConfig or a Destination is one as it
// is. Integers of 64 bits are texts: a number of JavaScript has no place for them.
const protos = loadSync(
  ["tidewater/v1/source.proto", "tidewater/v1/writer.proto", "flight.proto"],
  {
    includeDirs: [here("../../proto"), here(".")],
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
  },
);

const packages = grpc.loadPackageDefinition(protos);

/** What encodes and decodes a message of tidewater.v1. */
export const message = (name) => protos[`tidewater.v1.${name}`];

/** What is wrong in a way that its text says all about. */
export class Fault extends Error {}

/** The flags that every program here has. */
const FLAGS = {
  ca: { type: "string" }, // PEM file of the services' authority: use TLS
  cert: { type: "string" }, // PEM file of this program's certificate
  key: { type: "string" }, // PEM file of its key
};

/** Runs a program that needs the flags `needed` and knows `optional` ones. */
export async function run(main, needed, optional = {}) {
  try {
    const options = { ...FLAGS, ...optional };
    for (const name of needed) options[name] = { type: "string" };
    const { values } = parseArgs({ options });
    const missing = needed.filter((name) => values[name] === undefined);
    if (missing.length) throw new Fault(`--${missing.join(", --")}: missing`);
    await main(values);
  } catch (error) {
    console.error(explain(error));
    process.exitCode = 1;
  }
}

/** The JSON in a file. */
export function json(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new Fault(`${path}: ${error.message}`);
  }
}

/** What went wrong, and what to do about it. */
export function explain(error) {
  const [detail] = error.metadata?.get?.("grpc-status-details-bin") ?? [];
  if (detail) {
    const { code, remedy } = message("ErrorDetail").deserialize(detail);
    return `${error.details} (${code})${remedy && `\n  -> ${remedy}`}`;
  }
  // Without a code it is neither a call's, nor the system's, nor a flag's: a defect.
  const expected = error instanceof Fault || error.code !== undefined;
  return expected ? (error.details ?? error.message) : error.stack;
}

/** A service that has proved to be what it should, and the calls that it takes. */
export class Service {
  #stubs;
  #metadata = new grpc.Metadata();

  /** The service `name` ("writer-svc") at "host:port". */
  static async at(address, name, { ca, cert, key }) {
    const service = new Service(address, { ca, cert, key });
    const token = process.env.TIDEWATER_TOKEN ?? "";
    const nonce = randomBytes(32);
    const said = await service.call("Identity", "Identify", { nonce }, 10_000);
    if (said.service !== name) throw new Fault(`${address} is a ${said.service}, not a ${name}`);
    if (token) {
      const proof = createHmac("sha256", token)
        .update(nonce)
        .update(`${said.service}\0${said.version}`)
        .digest();
      if (said.proof.length !== proof.length || !timingSafeEqual(said.proof, proof)) {
        throw new Fault(`the ${name} at ${address} does not know the token`);
      }
      service.#metadata.set("authorization", `Bearer ${token}`);
    }
    return service;
  }

  constructor(address, { ca, cert, key }) {
    const pem = (path) => (path ? readFileSync(path) : null);
    const credentials = ca
      ? grpc.credentials.createSsl(pem(ca), pem(key), pem(cert))
      : grpc.credentials.createInsecure();
    // All by one channel: what gets the token is what has proved to know it.
    const channelOverride = new grpc.Channel(address, credentials, {});
    const stub = (Client) => new Client(address, credentials, { channelOverride });
    const { Identity, Source, Writer } = packages.tidewater.v1;
    const { FlightService } = packages.arrow.flight.protocol;
    this.#stubs = {
      Identity: stub(Identity),
      Source: stub(Source),
      Writer: stub(Writer),
      FlightService: stub(FlightService),
    };
  }

  /** The answer to one request. */
  call(stub, method, request, milliseconds) {
    const options = milliseconds ? { deadline: Date.now() + milliseconds } : {};
    return new Promise((resolve, reject) => {
      this.#stubs[stub][method](request, this.#metadata, options, (error, answer) =>
        error ? reject(error) : resolve(answer),
      );
    });
  }

  /** A DoPut: a stream to write FlightData to and to read PutResults from. */
  doPut() {
    return this.#stubs.FlightService.DoPut(this.#metadata);
  }
}
