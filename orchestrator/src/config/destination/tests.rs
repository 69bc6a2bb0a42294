//! destination.json in every form, and what is wrong with others.

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
    let file =
        load_text(&writer(r#""iceberg_s3_path": "file:///lake/", "no_identifier_fields": true"#))
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
