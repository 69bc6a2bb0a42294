//! The new files in manifests that fit any snapshot of a table with this
//! schema and these specs. (An id must mean one schema in all files of a
//! table.)

use iceberg::spec::{ManifestFile, PartitionSpecRef, SchemaRef};

use crate::error::WriterError;
use crate::iceberg::IcebergTable;
use crate::iceberg::commit::discard;
use crate::iceberg::manifest::Common;
use crate::iceberg::manifest::rolling::{Rolling, Shelf};
use crate::iceberg::snapshot::Draft;
use crate::iceberg::stage::Staged;

/// They, stored.
pub struct Added {
    schema: SchemaRef,
    spec: PartitionSpecRef,
    deletes_spec: Option<PartitionSpecRef>,
    /// Without snapshot ids: those of the attempt.
    pub manifests: Vec<ManifestFile>,
}

impl Added {
    /// Writes them for a table as `draft` has it; the data files first.
    pub fn write(
        staged: &Staged,
        draft: &Draft,
        manifest_bytes: usize,
        shelf: &mut Shelf,
    ) -> Result<Self, WriterError> {
        let mut manifests = Vec::new();
        let deletes = staged.deletes.as_ref().zip(draft.deletes_spec.as_ref());
        let data = staged.data.as_ref().map(|data| (data, &draft.spec));
        for (group, spec) in data.into_iter().chain(deletes) {
            let common = Common {
                schema: draft.schema.clone(),
                spec: spec.as_ref().clone(),
                content: group.common.content,
                version: draft.version,
            };
            let mut rolling = Rolling::new(common, None, manifest_bytes);
            for file in &group.files {
                rolling.push(shelf, file.partition(), |manifest| manifest.add(file))?;
            }
            manifests.extend(rolling.finish(shelf)?);
        }
        Ok(Added {
            schema: draft.schema.clone(),
            spec: draft.spec.clone(),
            deletes_spec: draft.deletes_spec.clone(),
            manifests,
        })
    }

    /// Whether they fit the table as `draft` has it.
    pub fn fits(&self, draft: &Draft) -> bool {
        self.schema.schema_id() == draft.schema.schema_id()
            && self.schema.as_struct() == draft.schema.as_struct()
            && self.spec == draft.spec
            && self.deletes_spec == draft.deletes_spec
    }

    /// Of a commit that will not be made with them.
    pub fn discard(&self, table: &IcebergTable) {
        for manifest in &self.manifests {
            discard(table, &manifest.manifest_path);
        }
    }
}
