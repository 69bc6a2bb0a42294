//! A Glue catalog. Region and keys are those of the warehouse's store.

use proto::v1::GlueCatalog;
use serde_json::Value;

use super::destination::text;
use super::s3;

/// The catalog of `catalog_type` `glue`.
pub fn catalog(writer: &Value) -> GlueCatalog {
    GlueCatalog {
        endpoint: s3::endpoint(writer, "glue_endpoint", true),
        catalog_id: text(writer, "glue_catalog_id").unwrap_or_default().to_owned(),
        archive: !writer["glue_skip_archive"].as_bool().unwrap_or(true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_set_is_the_regions_and_the_accounts_own() {
        assert_eq!(catalog(&json!({})), GlueCatalog::default());
        let writer = json!({"glue_endpoint": "glue.example.org", "glue_catalog_id": "123",
            "glue_skip_archive": false});
        let expected = GlueCatalog {
            endpoint: "https://glue.example.org".into(),
            catalog_id: "123".into(),
            archive: true,
        };
        assert_eq!(catalog(&writer), expected);
    }
}
