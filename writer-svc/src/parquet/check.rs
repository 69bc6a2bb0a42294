//! Whether a destination can be written, tried for real: every kind of step
//! that a commit takes, in a directory of its own that is removed again.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::WriterError;
use crate::storage;

/// Creates `local_path` when it is missing, tries, and leaves nothing behind.
pub fn check(local_path: &Path) -> Result<(), WriterError> {
    let created = missing_ancestors(local_path);
    storage::create_dir_durably(local_path)?;
    let probe = local_path.join(format!(".tidewater-check-{}", Uuid::new_v4().simple()));
    let outcome = probe_steps(&probe);
    let removed = storage::remove_tree(&probe);
    for dir in created {
        // Somebody else may have begun to use it.
        let _ = fs::remove_dir(dir);
    }
    outcome.and(removed.map(|_| ()))
}

/// `path` and its ancestors that do not exist, the deepest first.
fn missing_ancestors(path: &Path) -> Vec<PathBuf> {
    path.ancestors().take_while(|dir| !dir.exists()).map(Path::to_owned).collect()
}

fn probe_steps(probe: &Path) -> Result<(), WriterError> {
    let (a, b) = (probe.join("a"), probe.join("b"));
    storage::create_dir_durably(&a)?;
    storage::create_dir_durably(&b)?;
    let file = a.join("file");
    storage::write_durably(&file, b"tidewater")?;
    storage::link_or_copy(&file, &b.join("link"))?;
    if !storage::exchange(&a, &b)? {
        let aside = probe.join("aside");
        fs::rename(&b, &aside).map_err(WriterError::io("renaming to", &aside))?;
        fs::rename(&a, &b).map_err(WriterError::io("renaming to", &b))?;
        tracing::warn!(
            path = %probe.display(),
            "directories cannot be exchanged here: while a table is replaced, \
             it is absent for a moment"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        check(&root.path().join("new/deeper")).unwrap();
        assert!(storage::entries(root.path()).unwrap().is_empty());
        check(root.path()).unwrap();
        assert!(storage::entries(root.path()).unwrap().is_empty());
    }

    #[test]
    fn a_path_that_is_a_file_fails() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(check(&file).is_err());
        assert!(check(&file.join("below")).is_err());
    }
}
