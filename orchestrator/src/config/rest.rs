//! The settings of a REST catalog, of whatever kind.

use proto::v1::{RestCatalog, RestSigning};
use serde_json::Value;

use super::ConfigFault;
use super::destination::text;

/// The words of `catalog_type` that mean a catalog with Iceberg's REST protocol.
pub const KINDS: [&str; 6] = ["rest", "lakekeeper", "polaris", "nessie", "unity", "s3tables"];

/// The catalog. One of S3 Tables has its address by the region, and is signed
/// for.
pub fn catalog(writer: &Value) -> Result<RestCatalog, ConfigFault> {
    let of = |key: &str| text(writer, key).unwrap_or_default().to_owned();
    let is_s3tables = text(writer, "catalog_type") == Some("s3tables");
    let region = text(writer, "rest_signing_region").or(text(writer, "aws_region"));
    let url = match (text(writer, "rest_catalog_url"), region) {
        (Some(url), _) => address("rest_catalog_url", url)?,
        (None, Some(region)) if is_s3tables => {
            format!("https://s3tables.{region}.amazonaws.com/iceberg")
        }
        (None, _) => {
            let problem = match is_s3tables {
                true => "is missing; it or writer.aws_region must be set for this catalog_type",
                false => "is missing; it must be set for this catalog_type",
            };
            return Err(ConfigFault::new("writer.rest_catalog_url", problem));
        }
    };
    let oauth2_uri = match text(writer, "oauth2_uri") {
        Some(uri) => address("oauth2_uri", uri)?,
        None => String::new(),
    };
    let service = if is_s3tables { "s3tables" } else { "execute-api" };
    let signed = writer["rest_signing_v_4"].as_bool().unwrap_or(is_s3tables);
    let signing = signed.then(|| RestSigning {
        service: text(writer, "rest_signing_name").unwrap_or(service).to_owned(),
        region: region.unwrap_or_default().to_owned(),
    });
    if signing.as_ref().is_some_and(|signing| signing.region.is_empty()) {
        let problem = "is missing; it or writer.aws_region must be set with rest_signing_v_4";
        return Err(ConfigFault::new("writer.rest_signing_region", problem));
    }
    let warehouse = text(writer, "iceberg_s3_path").or(text(writer, "s3_path"));
    Ok(RestCatalog {
        url,
        warehouse: warehouse.unwrap_or_default().to_owned(),
        token: of("token"),
        credential: of("credential"),
        oauth2_uri,
        scope: of("scope"),
        signing,
    })
}

/// Whether a warehouse is a name that only the catalog knows, and no place.
pub fn is_name(warehouse: &str) -> bool {
    !warehouse.contains("://") && !warehouse.starts_with("file:") && !warehouse.starts_with('/')
}

fn address(key: &str, url: &str) -> Result<String, ConfigFault> {
    let rest = url.strip_prefix("http://").or(url.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    // Not shown: it may hold a password.
    let problem = match host {
        None | Some("") => "must begin with http:// or https:// and a host",
        Some(host) if host.contains('@') => {
            "must hold no user and no password; set writer.token or writer.credential instead"
        }
        Some(_) => return Ok(url.to_owned()),
    };
    Err(ConfigFault::new(format!("writer.{key}"), problem))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_setting_of_a_catalog_arrives() {
        let writer = json!({
            "catalog_type": "rest", "rest_catalog_url": "https://h:8181/catalog",
            "iceberg_s3_path": "lake", "token": "t", "credential": "id:secret",
            "oauth2_uri": "https://h/tokens", "scope": "PRINCIPAL_ROLE:ALL",
            "rest_signing_v_4": true, "rest_signing_name": "glue", "aws_region": "eu-north-1",
        });
        let expected = RestCatalog {
            url: "https://h:8181/catalog".into(),
            warehouse: "lake".into(),
            token: "t".into(),
            credential: "id:secret".into(),
            oauth2_uri: "https://h/tokens".into(),
            scope: "PRINCIPAL_ROLE:ALL".into(),
            signing: Some(RestSigning { service: "glue".into(), region: "eu-north-1".into() }),
        };
        assert_eq!(catalog(&writer).unwrap(), expected);
    }

    #[test]
    fn s3_tables_are_found_and_signed_for_by_their_region() {
        let arn = "arn:aws:s3tables:eu-north-1:1:bucket/lake";
        let writer = json!({
            "catalog_type": "s3tables", "aws_region": "eu-north-1", "iceberg_s3_path": arn,
        });
        let found = catalog(&writer).unwrap();
        assert_eq!(found.url, "https://s3tables.eu-north-1.amazonaws.com/iceberg");
        assert_eq!((found.warehouse.as_str(), is_name(arn)), (arn, true));
        let signing = found.signing.unwrap();
        assert_eq!((&*signing.service, &*signing.region), ("s3tables", "eu-north-1"));
    }

    #[test]
    fn a_warehouse_is_a_name_or_a_place() {
        use proto::v1::destination::Kind;
        use proto::v1::iceberg::Catalog;
        for (written, place) in [
            ("lake", ""),
            ("s3a://lake/a/", "s3://lake/a"),
            ("file:///lake", "file:///lake"),
            ("", ""),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let text = json!({"type": "ICEBERG", "writer": {
                "catalog_type": "polaris", "rest_catalog_url": "http://h", "iceberg_s3_path": written,
            }});
            std::fs::write(file.path(), text.to_string()).unwrap();
            let file = crate::config::destination::load(file.path(), None).unwrap();
            let Some(Kind::Iceberg(iceberg)) = &file.writable().unwrap().kind else {
                panic!("no Iceberg: {file:?}")
            };
            let Some(Catalog::Rest(rest)) = &iceberg.catalog else { panic!("{iceberg:?}") };
            assert_eq!((rest.warehouse.as_str(), iceberg.warehouse.as_str()), (written, place));
        }
    }

    #[test]
    fn an_address_is_of_http_and_holds_no_secret() {
        for (key, url, part) in [
            ("rest_catalog_url", "localhost:8181", "must begin with http"),
            ("rest_catalog_url", "http://", "must begin with http"),
            ("rest_catalog_url", "http://me:hunter2@h/", "no password"),
            ("oauth2_uri", "tokens", "must begin with http"),
        ] {
            let mut writer = json!({"rest_catalog_url": "http://h"});
            writer[key] = url.into();
            let said = catalog(&writer).unwrap_err().to_string();
            assert!(said.contains(key) && said.contains(part), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
