//! A change of a table as the protocol has it.

use iceberg::spec::{MAIN_BRANCH, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};

use crate::iceberg::catalog::Next;

/// What must be true of a table for a change that was derived from `base`.
pub fn requirements(base: &TableMetadata, next: &Next) -> Vec<TableRequirement> {
    use TableRequirement as R;
    let absent = |name: &String| R::RefSnapshotIdMatch { r#ref: name.clone(), snapshot_id: None };
    let mut requirements = vec![
        R::UuidMatch { uuid: base.uuid() },
        R::RefSnapshotIdMatch {
            r#ref: MAIN_BRANCH.to_owned(),
            snapshot_id: base.current_snapshot_id(),
        },
        R::CurrentSchemaIdMatch { current_schema_id: base.current_schema_id() },
        R::LastAssignedFieldIdMatch { last_assigned_field_id: base.last_column_id() },
        R::DefaultSpecIdMatch { default_spec_id: base.default_partition_spec_id() },
        R::LastAssignedPartitionIdMatch { last_assigned_partition_id: base.last_partition_id() },
    ];
    requirements.extend(next.absent.iter().map(absent));
    requirements
}

/// The changes, with a schema or a spec that the base has already named by its
/// id: a server that is told to add it adds none, and then knows no last one.
pub fn updates(base: &TableMetadata, next: &Next) -> Vec<TableUpdate> {
    use TableUpdate as U;
    let schema = Some(next.metadata.current_schema_id());
    let schema = schema.filter(|id| base.schema_by_id(*id).is_some());
    let spec = Some(next.metadata.default_partition_spec_id());
    let spec = spec.filter(|id| base.partition_spec_by_id(*id).is_some());
    let known = |change: &TableUpdate| match change {
        U::AddSchema { .. } => schema.is_some(),
        U::AddSpec { spec } => {
            spec.spec_id().is_some_and(|id| base.partition_spec_by_id(id).is_some())
        }
        _ => false,
    };
    let changes = next.changes.iter().filter(|change| !known(change)).cloned();
    changes
        .map(|change| match (change, schema, spec) {
            (U::SetCurrentSchema { .. }, Some(schema_id), _) => U::SetCurrentSchema { schema_id },
            (U::SetDefaultSpec { .. }, _, Some(spec_id)) => U::SetDefaultSpec { spec_id },
            (change, ..) => change,
        })
        .collect()
}
