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
mod tests {
    use proto::v1::S3;

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
            assert!(file.writable().is_ok(), "{text}");
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
        let Some(destination::Kind::Iceberg(iceberg)) = &glue.destination.kind else {
            panic!("no Iceberg: {glue:?}")
        };
        assert_eq!(iceberg.warehouse, "s3://{bucket_name}/{path_prefix}");
        assert!(matches!(iceberg.catalog, Some(Catalog::Glue(_))));
    }

    #[test]
    fn a_local_warehouse_with_a_jdbc_catalog_is_writable() {
        let writer = |more: &str| {
            format!(
                r#"{{"type": "ICEBERG", "writer": {{"catalog_type": "jdbc",
                    "jdbc_url": "jdbc:sqlite:lake/catalog.db", {more}}}}}"#
            )
        };
        let file = load_text(&writer(
            r#""iceberg_s3_path": "file:///lake/", "no_identifier_fields": true"#,
        ))
        .unwrap();
        let Some(destination::Kind::Iceberg(iceberg)) = &file.writable().unwrap().kind else {
            panic!("no Iceberg: {file:?}")
        };
        assert_eq!(iceberg.warehouse, "file:///lake");
        assert!(iceberg.no_identifier_fields && iceberg.max_file_size_mb == 512);
        let Some(Catalog::Jdbc(jdbc)) = &iceberg.catalog else { panic!("no JDBC: {iceberg:?}") };
        let path = Path::new(jdbc.url.strip_prefix("jdbc:sqlite:").unwrap());
        assert!(path.is_absolute() && path.ends_with("lake/catalog.db"));
        assert_eq!(jdbc.catalog_name, "olake_iceberg");

        let file = load_text(
            r#"{"type": "ICEBERG", "writer": {"catalog_type": "jdbc", "jdbc_username": "me",
                "jdbc_url": "jdbc:postgresql://h:1/d", "iceberg_s3_path": "file:///lake"}}"#,
        )
        .unwrap();
        let Some(destination::Kind::Iceberg(iceberg)) = &file.writable().unwrap().kind else {
            panic!("no Iceberg: {file:?}")
        };
        let Some(Catalog::Jdbc(jdbc)) = &iceberg.catalog else { panic!("no JDBC: {iceberg:?}") };
        assert_eq!((&*jdbc.url, &*jdbc.username), ("jdbc:postgresql://h:1/d", "me"));

        let elsewhere = load_text(&writer(r#""iceberg_s3_path": "gs://lake""#)).unwrap();
        assert!(elsewhere.writable().unwrap_err().to_string().contains("Iceberg tables at gs:"));
        let relative = load_text(&writer(r#""s3_path": "lake""#)).unwrap_err().to_string();
        assert!(relative.contains("writer.s3_path is \"lake\""), "{relative}");
    }

    fn on_s3(more: &str) -> Result<Iceberg, String> {
        let text = format!(
            r#"{{"type": "ICEBERG", "writer": {{"catalog_type": "jdbc",
                "jdbc_url": "jdbc:sqlite:lake/catalog.db", {more}}}}}"#
        );
        let file = load_text(&text).map_err(|error| error.to_string())?;
        let destination = file.writable().map_err(|error| error.to_string())?;
        match &destination.kind {
            Some(destination::Kind::Iceberg(iceberg)) => Ok(iceberg.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_warehouse_in_a_bucket_has_its_store() {
        let full = on_s3(
            r#""iceberg_s3_path": "s3a://lake/a/b/", "aws_region": "eu-north-1",
               "aws_access_key": "key", "aws_secret_key": "secret", "aws_session_token": "token",
               "aws_profile": "other", "s3_endpoint": "http://minio:9000", "s3_use_ssl": false,
               "s3_path_style": true"#,
        )
        .unwrap();
        assert_eq!(full.warehouse, "s3://lake/a/b");
        let expected = S3 {
            region: "eu-north-1".into(),
            endpoint: "http://minio:9000".into(),
            access_key: "key".into(),
            secret_key: "secret".into(),
            session_token: "token".into(),
            path_style: Some(true),
            profile: "other".into(),
        };
        assert_eq!(full.s3, Some(expected));
        let least = on_s3(r#""s3_path": "s3://lake""#).unwrap();
        assert_eq!((least.warehouse.as_str(), least.s3), ("s3://lake", Some(S3::default())));
        for (given, endpoint) in [
            (r#""s3_endpoint": "minio:9000""#, "https://minio:9000"),
            (r#""s3_endpoint": "minio:9000", "s3_use_ssl": false"#, "http://minio:9000"),
            (r#""s3_endpoint": "https://minio", "s3_use_ssl": false"#, "https://minio"),
        ] {
            let iceberg = on_s3(&format!(r#""s3_path": "s3://lake", {given}"#)).unwrap();
            assert_eq!(iceberg.s3.unwrap().endpoint, endpoint);
        }
    }

    #[test]
    fn parquet_files_in_a_bucket_have_their_store() {
        let file = load_text(
            r#"{"type": "PARQUET", "writer": {"s3_bucket": "lake", "s3_path": "/a/b/",
                "s3_region": "eu-north-1", "s3_access_key": "key", "s3_secret_key": "secret",
                "s3_endpoint": "minio:9000", "max_file_size_mb": 7}}"#,
        )
        .unwrap();
        let expected = Parquet {
            max_file_size_mb: 7,
            bucket: "lake".into(),
            path: "a/b".into(),
            s3: Some(S3 {
                region: "eu-north-1".into(),
                endpoint: "https://minio:9000".into(),
                access_key: "key".into(),
                secret_key: "secret".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(file.destination.kind, Some(destination::Kind::Parquet(expected)));
    }

    #[test]
    fn a_bucket_without_a_name_is_refused() {
        for bad in ["s3://", "s3:lake", "s3:///lake"] {
            let said = on_s3(&format!(r#""iceberg_s3_path": "{bad}""#)).unwrap_err();
            assert!(said.contains("must be s3://bucket/prefix"), "{said}");
        }
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
