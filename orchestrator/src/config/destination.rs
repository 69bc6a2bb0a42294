//! destination.json: where the tables go. All documented kinds are parsed and
//! validated; what this version cannot write is refused by [`DestinationFile::writable`].

use std::path::Path;

use proto::v1::iceberg::Catalog;
use proto::v1::load_stream::OnUnrepresentable;
use proto::v1::{Destination, Iceberg, JdbcCatalog, Parquet, destination};
use serde_json::Value;

use super::validate::{self, ICEBERG, PARQUET, Schema};
use super::{ConfigError, ConfigFault, glue, hive, read, rest, s3, secrets};

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
    /// For streams that do not say themselves: a deleted row stays as such.
    pub soft_deletes: bool,
    /// "host:port" of `server_host` and `grpc_port`, when a port is set.
    pub writer_address: Option<String>,
    /// Whether that address is on this machine.
    pub writer_is_loopback: bool,
    /// `iceberg_db` or `database`; empty: per source schema.
    pub default_database: String,
    /// What was odd but no fault; logged already.
    pub warnings: Vec<String>,
    /// What of it this version cannot write.
    pub unsupported: Option<String>,
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
        let Some(what) = &self.unsupported else { return Ok(&self.destination) };
        Err(ConfigError::Unsupported {
            problem: format!(
                "the destination asks for {what}, but this version writes Parquet files to \
                 local_path or s3_bucket, and Iceberg tables with a Glue, Hive, JDBC or REST catalog \
                 and a warehouse at file:/// or s3:// only"
            ),
            remedy: "use \"type\": \"PARQUET\" with writer.local_path or writer.s3_bucket in \
                     destination.json, or \
                     \"type\": \"ICEBERG\" with \"catalog_type\": \"glue\", \"hive\" and \
                     \"hive_uri\": \"thrift://…\", \"jdbc\" and \
                     \"jdbc_url\": \"jdbc:sqlite:…\" or \"jdbc:postgresql:…\", or \"rest\" and \
                     \"rest_catalog_url\", and with \
                     \"iceberg_s3_path\": \"file:///…\" or \"s3://…\""
                .into(),
        })
    }
}

/// Reads, decrypts and validates a destination.json; warnings are logged.
pub fn load(path: &Path, key: Option<&str>) -> Result<DestinationFile, ConfigError> {
    let mut value = read::json(path, key)?;
    validate::drop_nulls(&mut value);
    let invalid = |faults| ConfigError::Invalid { path: path.to_owned(), faults };
    let schema = schema_of(&mut value).map_err(|fault| invalid(vec![fault]))?;
    let mut faults = secrets::resolve(&mut value);
    faults.extend(validate::faults(schema, &value));
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
        let catalog = text(writer, "catalog_type").unwrap_or("glue");
        // Many a REST catalog has one warehouse, and no need of a name for it.
        let needs_warehouse = !rest::KINDS.contains(&catalog);
        if needs_warehouse && !set("iceberg_s3_path") && !set("s3_path") {
            need("iceberg_s3_path", "is missing; it must be the warehouse, s3://bucket/prefix");
        }
        let needed = match catalog {
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
    let size = writer["max_file_size_mb"].as_u64().unwrap_or(512);
    let max_file_size_mb = u32::try_from(size).unwrap_or(u32::MAX);
    let written = match (kind, text(writer, "local_path")) {
        (Kind::LocalParquet, Some(path)) => {
            let local_path = absolute("local_path", path)?;
            let parquet = Parquet { local_path, max_file_size_mb, ..Default::default() };
            Ok(destination::Kind::Parquet(parquet))
        }
        (Kind::S3Parquet, _) => {
            Ok(destination::Kind::Parquet(s3::parquet(writer, max_file_size_mb)))
        }
        _ => iceberg(writer, max_file_size_mb)?,
    };
    let (written, unsupported) = match written {
        Ok(kind) => (Some(kind), None),
        Err(what) => (None, Some(what)),
    };
    let host = text(writer, "server_host").unwrap_or("localhost");
    let writer_address = writer["grpc_port"].as_u64().map(|port| match host.contains(':') {
        true => format!("[{}]:{port}", host.trim_matches(['[', ']'])),
        false => format!("{host}:{port}"),
    });
    Ok(DestinationFile {
        destination: Destination { kind: written },
        kind,
        normalization: writer["normalization"].as_bool().unwrap_or(false),
        on_unrepresentable: on_unrepresentable(text(writer, "on_unrepresentable")),
        soft_deletes: text(writer, "delete_mode") == Some(SOFT),
        writer_address,
        writer_is_loopback: is_loopback(host),
        default_database: text(writer, "iceberg_db")
            .or(text(writer, "database"))
            .unwrap_or_default()
            .to_owned(),
        warnings,
        unsupported,
    })
}

/// The Iceberg destination, or what of it this version cannot write.
fn iceberg(
    writer: &Value,
    max_file_size_mb: u32,
) -> Result<Result<destination::Kind, String>, ConfigFault> {
    let catalog = match text(writer, "catalog_type").unwrap_or("glue") {
        "jdbc" => Catalog::Jdbc(jdbc(writer)?),
        "glue" => Catalog::Glue(glue::catalog(writer)),
        kind if rest::KINDS.contains(&kind) => Catalog::Rest(rest::catalog(writer)?),
        "hive" => Catalog::Hive(hive::catalog(writer)?),
        other => return Ok(Err(format!("Iceberg tables in a {other} catalog"))),
    };
    let (key, warehouse) = match text(writer, "iceberg_s3_path") {
        Some(path) => ("iceberg_s3_path", path),
        None => ("s3_path", text(writer, "s3_path").unwrap_or_default()),
    };
    let fault = |problem: &str| {
        ConfigFault::new(format!("writer.{key}"), format!("is {warehouse:?}; {problem}"))
    };
    let (warehouse, s3) = match warehouse.split_once(':') {
        _ if matches!(catalog, Catalog::Rest(_)) && rest::is_name(warehouse) => {
            (String::new(), Some(s3::iceberg(writer)))
        }
        Some(("s3" | "s3a", path)) => {
            let path = path.strip_prefix("//").unwrap_or_default().trim_end_matches('/');
            if path.is_empty() || path.starts_with('/') {
                return Err(fault("a warehouse in a bucket must be s3://bucket/prefix"));
            }
            (format!("s3://{path}"), Some(s3::iceberg(writer)))
        }
        Some((scheme, _)) if scheme != "file" => {
            return Ok(Err(format!("Iceberg tables at {scheme}:")));
        }
        local => {
            let path = local.map_or(warehouse, |(_, path)| path.strip_prefix("//").unwrap_or(path));
            if !path.starts_with('/') {
                return Err(fault("a local warehouse must be file:///absolute/path"));
            }
            (format!("file://{}", path.trim_end_matches('/')), None)
        }
    };
    // Its region and keys.
    let signs = matches!(catalog, Catalog::Glue(_) | Catalog::Rest(_));
    let s3 = s3.or_else(|| signs.then(|| s3::iceberg(writer)));
    Ok(Ok(destination::Kind::Iceberg(Iceberg {
        warehouse,
        catalog: Some(catalog),
        max_file_size_mb,
        no_identifier_fields: writer["no_identifier_fields"].as_bool().unwrap_or(false),
        s3,
        format_version: writer["format_version"].as_u64().unwrap_or(2) as u32,
    })))
}

fn jdbc(writer: &Value) -> Result<JdbcCatalog, ConfigFault> {
    let url = text(writer, "jdbc_url").unwrap_or_default();
    let of = |key: &str| text(writer, key).unwrap_or_default().to_owned();
    let sqlite = url.strip_prefix("jdbc:sqlite:");
    let url = match sqlite.map(|path| path.strip_prefix("file:").unwrap_or(path)) {
        // The writer may run in another directory.
        Some(path) => format!("jdbc:sqlite:{}", absolute("jdbc_url", path)?),
        // Read by the writer, which connects.
        None if url.starts_with("jdbc:postgresql:") => url.to_owned(),
        // Not shown: it may hold a password.
        None => {
            let problem = "must begin with jdbc:sqlite: or jdbc:postgresql:";
            return Err(ConfigFault::new("writer.jdbc_url", problem));
        }
    };
    Ok(JdbcCatalog {
        url,
        username: of("jdbc_username"),
        password: of("jdbc_password"),
        catalog_name: text(writer, "catalog_name").unwrap_or("olake_iceberg").to_owned(),
    })
}

/// A path of the file as the caller means it, wherever it is used.
fn absolute(key: &str, path: &str) -> Result<String, ConfigFault> {
    let fault = |problem: String| ConfigFault::new(format!("writer.{key}"), problem);
    let absolute = std::path::absolute(path).map_err(|e| fault(format!("is {path:?}: {e}")))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| fault("lies in a directory whose name is no UTF-8".to_owned()))
}

/// The `delete_mode` that keeps deleted rows.
pub const SOFT: &str = "soft";

/// The policy by its word; absent: null.
pub fn on_unrepresentable(word: Option<&str>) -> OnUnrepresentable {
    match word {
        Some("fail") => OnUnrepresentable::Fail,
        _ => OnUnrepresentable::Null,
    }
}

/// A key's text, unless it is empty.
pub(super) fn text<'a>(writer: &'a Value, key: &str) -> Option<&'a str> {
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
mod tests;
