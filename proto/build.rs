//! Compiles the protos without a system `protoc`: protox parses them, and
//! tonic-prost-build generates from its descriptors.

use prost::Message;

const FILES: [&str; 3] =
    ["tidewater/v1/common.proto", "tidewater/v1/source.proto", "tidewater/v1/writer.proto"];

/// Messages whose derived Debug would print a secret; `src/redact.rs` has theirs.
const SECRET: [&str; 8] = [
    "tidewater.v1.SourceConfig",
    "tidewater.v1.Ssl",
    "tidewater.v1.SshConfig",
    "tidewater.v1.ReadChunkRequest",
    "tidewater.v1.ReplicateTable",
    "tidewater.v1.JdbcCatalog",
    "tidewater.v1.RestCatalog",
    "tidewater.v1.S3",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=tidewater");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .skip_debug(SECRET)
        .bytes(".tidewater.v1.ReadChunkRequest.stage")
        .bytes(".tidewater.v1.ReadChunkResponse.staged")
        .bytes(".tidewater.v1.ReplicateTable.stage")
        .bytes(".tidewater.v1.StagedTable.staged")
        .compile_fds(descriptors)?;
    Ok(())
}
