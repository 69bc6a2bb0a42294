//! Which sync modes a run can have, said before anything runs.

use std::path::Path;

use proto::Fault;
use proto::v1::ErrorCode;

use super::stop;
use crate::config::source::SourceFile;
use crate::streams::{SelectedStream, SyncMode};

/// Streams that a message names before it only counts the rest.
const NAMED: usize = 10;

/// Refuses cdc where nothing says which slot to use, with every way out.
pub fn demand(
    streams: &[SelectedStream],
    source: &SourceFile,
    source_path: &Path,
    catalog: &Path,
) -> Result<(), Fault> {
    let captures = |mode: SyncMode| matches!(mode, SyncMode::Cdc | SyncMode::StrictCdc);
    let captured: Vec<_> = streams.iter().filter(|stream| captures(stream.sync_mode)).collect();
    if captured.is_empty() || source.update_method.is_some() {
        return Ok(());
    }
    let message = format!(
        "cdc needs a replication slot, and {} names none; {} of {} selected streams are captured \
         by one: {}",
        source_path.display(),
        captured.len(),
        streams.len(),
        named(&captured)
    );
    let mut remedy = format!(
        "in {}, add \"update_method\": {{\"replication_slot\": \"tidewater\"}}; the slot is made \
         if it is not there\n  → or {}; {}",
        source_path.display(),
        set_mode(catalog),
        everywhere(catalog)
    );
    if captures(source.default_mode) {
        remedy.push_str(&default_mode(source_path, source.default_mode));
    }
    Err(Fault::new(ErrorCode::InvalidConfig, message).remedy(remedy))
}

fn named(streams: &[&SelectedStream]) -> String {
    let known = streams.iter().take(NAMED);
    let mut names: Vec<_> =
        known.map(|stream| format!("{} ({})", stream.id(), stream.sync_mode)).collect();
    if streams.len() > NAMED {
        names.push(format!("{} more", streams.len() - NAMED));
    }
    names.join(", ")
}

fn set_mode(catalog: &Path) -> String {
    format!(
        "in {}, set \"sync_mode\": \"full_refresh\" for each, or take them out of \
         selected_streams",
        catalog.display()
    )
}

fn everywhere(catalog: &Path) -> String {
    format!(
        "for all streams at once: sed -i \
         's/\"sync_mode\": *\"[a-z_]*\"/\"sync_mode\": \"full_refresh\"/' {}",
        stop::quoted(&catalog.display().to_string()),
    )
}

fn default_mode(source: &Path, mode: SyncMode) -> String {
    format!(
        "\n  → in {}, set \"default_mode\": \"full_refresh\" as well: because of \"{mode}\" \
         there, discover writes that mode",
        source.display()
    )
}
