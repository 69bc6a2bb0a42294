// Lists what a source-svc finds in a PostgreSQL database.
//
//     TIDEWATER_TOKEN=… node discover.mjs --source localhost:50051 --config source.json
//
// The file is a SourceConfig (tidewater/v1/source.proto) as JSON, by its proto names.

import { json, run, Service } from "./services.mjs";

async function main(flags) {
  const config = json(flags.config);
  const source = await Service.at(flags.source, "source-svc", flags);
  const found = await source.call("Source", "Discover", { config }, 120_000);
  for (const { namespace, name, columns, primary_key } of found.relations) {
    const typed = columns.map((column) => `${column.name} ${column.type}`);
    console.log(`${namespace}.${name} (${typed.join(", ")}) key (${primary_key.join(", ")})`);
  }
}

await run(main, ["source", "config"]);
