//! How the S3 store of a destination is reached: the keys of Iceberg tables and
//! those of Parquet files. The writer says what of it cannot be.

use proto::v1::{Parquet, S3};
use serde_json::Value;

use super::destination::text;

/// The store of a warehouse at `s3://`; a Glue catalog takes its region and keys.
pub fn iceberg(writer: &Value) -> S3 {
    let of = |key: &str| text(writer, key).unwrap_or_default().to_owned();
    S3 {
        region: of("aws_region"),
        endpoint: endpoint(writer, "s3_endpoint", writer["s3_use_ssl"].as_bool().unwrap_or(true)),
        access_key: of("aws_access_key"),
        secret_key: of("aws_secret_key"),
        session_token: of("aws_session_token"),
        path_style: writer["s3_path_style"].as_bool(),
        profile: of("aws_profile"),
    }
}

/// Parquet files in a bucket, with its store.
pub fn parquet(writer: &Value, max_file_size_mb: u32) -> Parquet {
    let of = |key: &str| text(writer, key).unwrap_or_default().to_owned();
    Parquet {
        max_file_size_mb,
        bucket: of("s3_bucket"),
        path: of("s3_path").trim_matches('/').to_owned(),
        s3: Some(S3 {
            region: of("s3_region"),
            endpoint: endpoint(writer, "s3_endpoint", true),
            access_key: of("s3_access_key"),
            secret_key: of("s3_secret_key"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// An endpoint with a scheme. One that is written counts.
pub(super) fn endpoint(writer: &Value, key: &str, tls: bool) -> String {
    match (text(writer, key), tls) {
        (None, _) => String::new(),
        (Some(endpoint), _) if endpoint.contains("://") => endpoint.to_owned(),
        (Some(endpoint), true) => format!("https://{endpoint}"),
        (Some(endpoint), false) => format!("http://{endpoint}"),
    }
}
