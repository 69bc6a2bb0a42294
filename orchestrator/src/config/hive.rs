//! A Hive metastore.

use proto::v1::HiveCatalog;
use serde_json::Value;

use super::ConfigFault;
use super::destination::text;

/// The catalog of `catalog_type` `hive`. The writer, which connects, reads the rest
/// of the URI.
pub fn catalog(writer: &Value) -> Result<HiveCatalog, ConfigFault> {
    let uri = text(writer, "hive_uri").unwrap_or_default().trim();
    if uri.split(',').any(|part| !part.trim().starts_with("thrift://")) {
        let problem = format!("is {uri:?}; it must be thrift://host:port");
        return Err(ConfigFault::new("writer.hive_uri", problem));
    }
    Ok(HiveCatalog { uri: uri.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_metastore_is_reached_by_thrift_only() {
        for uri in ["thrift://hms:9083", "thrift://a, thrift://b:9083"] {
            assert_eq!(catalog(&json!({"hive_uri": uri})).unwrap().uri, uri);
        }
        for uri in ["hms:9083", "http://hms", "thrift://a,b"] {
            let fault = catalog(&json!({"hive_uri": uri})).unwrap_err().to_string();
            assert!(fault.contains("must be thrift://host:port"), "{fault}");
        }
    }
}
