//! Where output goes: stdout is for machines, stderr for people.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use proto::Fault;
use proto::v1::ErrorCode;
use serde::Serialize;

/// Prints one line of JSON to stdout. A closed stdout is no failure: nobody
/// listens any more.
pub fn machine(value: &impl Serialize) -> Result<(), Fault> {
    let internal = |what: String| Fault::new(ErrorCode::Internal, what);
    let mut line = serde_json::to_string(value)
        .map_err(|e| internal(format!("writing the output as JSON: {e}")))?;
    line.push('\n');
    text(&line)
}

/// Prints text to stdout as it is.
pub fn text(text: &str) -> Result<(), Fault> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Fault::new(ErrorCode::Internal, format!("writing to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// Prints one line to stderr.
pub fn human(line: impl Display) {
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
