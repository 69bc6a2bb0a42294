//! Tables for the tests of catalogs.

use std::collections::HashMap;
use std::path::Path;

use iceberg::spec::{
    FormatVersion, NestedField, PrimitiveType, Schema, SortOrder, TableMetadataBuilder, Type,
    UnboundPartitionSpec,
};

use super::{Loaded, Next, TableName};

/// A table of the namespace `ns`.
pub fn name(name: &str) -> TableName {
    TableName { namespace: "ns".into(), name: name.into() }
}

/// A table below `root`, or what follows `base`.
pub fn next(root: &Path, base: Option<&Loaded>, comment: &str) -> Next {
    let builder = match base {
        Some(base) => base.metadata.clone().into_builder(Some(base.location.clone())),
        None => {
            let id = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long));
            TableMetadataBuilder::new(
                Schema::builder().with_fields([id.into()]).build().unwrap(),
                UnboundPartitionSpec::builder().build(),
                SortOrder::unsorted_order(),
                format!("file://{}/w/ns/t", root.display()),
                FormatVersion::V2,
                HashMap::new(),
            )
            .unwrap()
        }
    };
    let property = HashMap::from([("comment".to_owned(), comment.to_owned())]);
    let made = builder.set_properties(property).unwrap().build().unwrap();
    Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() }
}

/// The comment it was made with.
pub fn comment(loaded: &Loaded) -> &str {
    &loaded.metadata.properties()["comment"]
}
