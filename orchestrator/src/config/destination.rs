//! destination.json: where the tables go. All documented kinds are parsed and
//! validated; what this version cannot write is refused by [`DestinationFile::writable`].

use std::path::Path;

use proto::v1::load_stream::OnUnrepresentable;
use proto::v1::{Destination, Parquet, destination};
use serde_json::Value;

use super::validate::{self, ICEBERG, PARQUET, Schema};
use super::{ConfigError, ConfigFault, read};

/// A validated destination.json.
#[derive(Clone, Debug)]
pub struct DestinationFile {
    /// What the writer service is sent; without a kind when this version
    /// cannot write there: take it from [`Self::writable`].
    pub destination: Destination,
    /// What kind of destination it is.
    pub kind: Kind,
    /// For streams that do not say themselves.
    pub normalization: bool,
    /// For streams that do not say themselves.
    pub on_unrepresentable: OnUnrepresentable,
    /// "host:port" of `server_host` and `grpc_port`, when a port is set.
    pub writer_address: Option<String>,
    /// Whether that address is on this machine.
    pub writer_is_loopback: bool,
    /// `iceberg_db` or `database`; empty: per source schema.
    pub default_database: String,
    /// What was odd but no fault; logged already.
    pub warnings: Vec<String>,
}

/// The kinds of destination that a file can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Parquet files in a directory.
    LocalParquet,
    /// Parquet files in a bucket.
    S3Parquet,
    /// Iceberg tables.
    Iceberg,
}

impl DestinationFile {
    /// The destination, unless this version cannot write to its kind.
    pub fn writable(&self) -> Result<&Destination, ConfigError> {
        let kind = match self.kind {
            Kind::LocalParquet => return Ok(&self.destination),
            Kind::S3Parquet => "Parquet files on S3",
            Kind::Iceberg => "Iceberg tables",
        };
        Err(ConfigError::Unsupported {
            problem: format!(
                "the destination asks for {kind}, but this version writes local Parquet files only"
            ),
            remedy: "use \"type\": \"PARQUET\" with writer.local_path in destination.json".into(),
        })
    }
}

/// Reads, decrypts and validates a destination.json; warnings are logged.
pub fn load(path: &Path, key: Option<&str>) -> Result<DestinationFile, ConfigError> {
    let mut value = read::json(path, key)?;
    validate::drop_nulls(&mut value);
    let invalid = |faults| ConfigError::Invalid { path: path.to_owned(), faults };
    let schema = schema_of(&mut value).map_err(|fault| invalid(vec![fault]))?;
    let mut faults = validate::faults(schema, &value);
    let kind = kind_of(&value, &mut faults);
    let warnings = validate::unknown_keys(schema, &value);
    for warning in &warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    build(&value["writer"], kind, warnings).map_err(|fault| invalid(vec![fault]))
}

/// The schema that belongs to `type`, whatever case it is written in.
fn schema_of(value: &mut Value) -> Result<&'static Schema, ConfigFault> {
    let written = value["type"].clone();
    let upper = written.as_str().map(str::to_ascii_uppercase);
    let schema = match upper.as_deref() {
        Some("PARQUET") => &PARQUET,
        Some("ICEBERG") => &ICEBERG,
        _ => {
            let seen = match &written {
                Value::Null => "is missing".to_owned(),
                other => format!("is {}", validate::seen("type", other)),
            };
            let problem = format!("{seen}; it must be one of \"PARQUET\", \"ICEBERG\"");
            return Err(ConfigFault::new("type", problem));
        }
    };
    value["type"] = upper.into();
    Ok(schema)
}

/// What kind it is, and what that kind needs.
fn kind_of(value: &Value, faults: &mut Vec<ConfigFault>) -> Kind {
    let writer = &value["writer"];
    let set = |key: &str| text(writer, key).is_some();
    let mut need = |key: &str, problem: &str| {
        // A key of a wrong type has its fault already.
        if writer.is_object() && (writer[key].is_null() || writer[key].is_string()) {
            faults.push(ConfigFault::new(format!("writer.{key}"), problem));
        }
    };
    if value["type"] == "ICEBERG" {
        if !set("iceberg_s3_path") && !set("s3_path") {
            need("iceberg_s3_path", "is missing; it must be the warehouse, s3://bucket/prefix");
        }
        let needed = match text(writer, "catalog_type").unwrap_or("glue") {
            "jdbc" => "jdbc_url",
            "hive" => "hive_uri",
            "glue" | "s3tables" => return Kind::Iceberg,
            _ => "rest_catalog_url",
        };
        if !set(needed) {
            need(needed, "is missing; it must be set for this catalog_type");
        }
        return Kind::Iceberg;
    }
    match (set("local_path"), set("s3_bucket")) {
        (true, false) => Kind::LocalParquet,
        (false, true) => Kind::S3Parquet,
        (true, true) => {
            need("local_path", "is set beside writer.s3_bucket; only one of them must be");
            Kind::LocalParquet
        }
        (false, false) => {
            need("local_path", "is missing; it must be a directory, or writer.s3_bucket be set");
            Kind::LocalParquet
        }
    }
}

fn build(
    writer: &Value,
    kind: Kind,
    warnings: Vec<String>,
) -> Result<DestinationFile, ConfigFault> {
    let parquet = match (kind, text(writer, "local_path")) {
        (Kind::LocalParquet, Some(path)) => {
            let absolute = std::path::absolute(path)
                .map_err(|e| ConfigFault::new("writer.local_path", format!("is {path:?}: {e}")))?;
            let local_path = absolute.into_os_string().into_string().map_err(|_| {
                ConfigFault::new("writer.local_path", "lies in a directory whose name is no UTF-8")
            })?;
            let size = writer["max_file_size_mb"].as_u64().unwrap_or(512);
            let max_file_size_mb = u32::try_from(size).unwrap_or(u32::MAX);
            Some(destination::Kind::Parquet(Parquet { local_path, max_file_size_mb }))
        }
        _ => None,
    };
    let host = text(writer, "server_host").unwrap_or("localhost");
    let writer_address = writer["grpc_port"].as_u64().map(|port| match host.contains(':') {
        true => format!("[{}]:{port}", host.trim_matches(['[', ']'])),
        false => format!("{host}:{port}"),
    });
    Ok(DestinationFile {
        destination: Destination { kind: parquet },
        kind,
        normalization: writer["normalization"].as_bool().unwrap_or(false),
        on_unrepresentable: on_unrepresentable(text(writer, "on_unrepresentable")),
        writer_address,
        writer_is_loopback: is_loopback(host),
        default_database: text(writer, "iceberg_db")
            .or(text(writer, "database"))
            .unwrap_or_default()
            .to_owned(),
        warnings,
    })
}

/// The policy by its word; absent: null.
pub fn on_unrepresentable(word: Option<&str>) -> OnUnrepresentable {
    match word {
        Some("fail") => OnUnrepresentable::Fail,
        _ => OnUnrepresentable::Null,
    }
}

/// A key's text, unless it is empty.
fn text<'a>(writer: &'a Value, key: &str) -> Option<&'a str> {
    writer[key].as_str().filter(|text| !text.is_empty())
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<DestinationFile, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(file.path(), None)
    }

    #[test]
    fn every_documented_sample_loads_without_a_warning() {
        let samples = [
            (
                r#"{"type": "PARQUET", "writer": {"normalization": true,
                    "local_path": "./configs/reader"}}"#,
                Kind::LocalParquet,
            ),
            (
                r#"{"type": "PARQUET", "writer": {"normalization": false, "s3_bucket": "olake",
                    "s3_region": "", "s3_access_key": "", "s3_secret_key": "", "s3_path": ""}}"#,
                Kind::S3Parquet,
            ),
            (
                r#"{"type": "ICEBERG", "writer": {"normalization": false,
                    "s3_path": "s3://{bucket_name}/{path_prefix}/", "aws_region": "ap-south-1",
                    "aws_access_key": "XXX", "aws_secret_key": "XXX",
                    "database": "olake_iceberg", "grpc_port": 50051,
                    "server_host": "localhost"}}"#,
                Kind::Iceberg,
            ),
            (
                r#"{"type": "ICEBERG", "writer": {"catalog_type": "jdbc",
                    "jdbc_url": "jdbc:postgresql://localhost:5432/iceberg",
                    "jdbc_username": "iceberg", "jdbc_password": "password",
                    "normalization": false, "iceberg_s3_path": "s3a://warehouse",
                    "s3_endpoint": "http://localhost:9000", "s3_use_ssl": false,
                    "s3_path_style": true, "aws_access_key": "admin",
                    "aws_secret_key": "password", "iceberg_db": "olake_iceberg"}}"#,
                Kind::Iceberg,
            ),
        ];
        for (text, kind) in samples {
            let file = load_text(text).unwrap();
            assert_eq!((file.kind, file.warnings.len()), (kind, 0), "{:?}", file.warnings);
            assert_eq!(file.writable().is_ok(), kind == Kind::LocalParquet);
        }
        let local = load_text(samples[0].0).unwrap();
        let Some(destination::Kind::Parquet(parquet)) = &local.destination.kind else {
            panic!("no Parquet: {local:?}")
        };
        assert!(Path::new(&parquet.local_path).is_absolute());
        assert!(parquet.local_path.ends_with("configs/reader") && local.normalization);
        let glue = load_text(samples[2].0).unwrap();
        assert_eq!(glue.writer_address.as_deref(), Some("localhost:50051"));
        assert!(glue.writer_is_loopback && glue.default_database == "olake_iceberg");
        let refused = glue.writable().unwrap_err().to_string();
        assert!(refused.contains("writes local Parquet files only"), "{refused}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        for (text, part) in [
            (r#"{"writer": {}}"#, "type is missing; it must be one of"),
            (r#"{"type": "CSV"}"#, "type is \"CSV\""),
            (r#"{"type": "parquet", "writer": {}}"#, "writer.local_path is missing"),
            (r#"{"type": "PARQUET"}"#, "writer is missing"),
            (r#"{"type": "PARQUET", "writer": {"local_path": 3}}"#, "writer.local_path is 3"),
            (
                r#"{"type": "ICEBERG", "writer": {"catalog_type": "jdbc"}}"#,
                "writer.jdbc_url is missing",
            ),
        ] {
            let error = load_text(text).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
