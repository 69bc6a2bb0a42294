//! `spec`: the JSON schema of a config file, on stdout.

use proto::Fault;
use proto::v1::ErrorCode;

use crate::cli::Flags;
use crate::config::validate::{ICEBERG, PARQUET, SOURCE};
use crate::output;

/// Prints the schema of source.json, or of the destination.json of
/// `--destination-type`.
pub fn run(flags: &Flags) -> Result<(), Fault> {
    let kind = flags.destination_type.as_deref().map(str::to_ascii_lowercase);
    let schema = match kind.as_deref() {
        None | Some("") => &SOURCE,
        Some("parquet" | "s3") => &PARQUET,
        Some("iceberg") => &ICEBERG,
        Some(other) => {
            let message = format!("there is no --destination-type {other:?}");
            return Err(
                Fault::new(ErrorCode::InvalidConfig, message).remedy("use parquet or iceberg")
            );
        }
    };
    output::text(schema.text)
}
