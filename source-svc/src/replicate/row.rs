//! A row of a change, in COPY's binary form: what the change says of it, and its
//! values.

use proto::columns::unchanged_bits;

use super::pgoutput::Datum;
use crate::decode::transcode::Transcoder;

/// One of the stream's columns.
pub struct Source {
    pub name: String,
    /// Its place in the log's rows.
    pub place: usize,
    pub transcoder: Transcoder,
    /// It is one of the identity's.
    pub identity: bool,
}

/// Appends a row. `said`: the cells before those of the columns; if
/// `says_unchanged`, one more tells which values are left out, and whether the row
/// has `moved` to another key with them. An error leaves what was there, and says
/// which column and why.
pub fn append<'a>(
    row: &mut Vec<u8>,
    said: [&[u8]; 3],
    says_unchanged: bool,
    moved: bool,
    sources: &[Source],
    value: &impl Fn(&Source) -> Datum<'a>,
) -> Result<(), String> {
    let start = row.len();
    let columns = said.len() + usize::from(says_unchanged) + sources.len();
    // A table has 1,600 columns at most.
    row.extend((columns as u16).to_be_bytes());
    said.into_iter().for_each(|said| cell(row, said));
    if says_unchanged {
        let unchanged = sources.iter().enumerate();
        let unchanged = unchanged.filter(|(_, source)| value(source) == Datum::Unchanged);
        let unchanged = unchanged.map(|(at, _)| at).chain(moved.then_some(sources.len()));
        match unchanged_bits(unchanged) {
            none if none.is_empty() => null(row),
            bits => cell(row, &bits),
        }
    }
    for source in sources {
        let wrong = match value(source) {
            Datum::Null => {
                null(row);
                continue;
            }
            Datum::Unchanged if says_unchanged => {
                null(row);
                continue;
            }
            Datum::Text(text) => match source.transcoder.cell(text, row) {
                Ok(()) => continue,
                Err(what) => what,
            },
            Datum::Unchanged => "a value that the log leaves out".to_owned(),
        };
        row.truncate(start);
        return Err(format!("column {}: {wrong}", source.name));
    }
    Ok(())
}

fn null(row: &mut Vec<u8>) {
    row.extend((-1i32).to_be_bytes());
}

fn cell(row: &mut Vec<u8>, value: &[u8]) {
    // None of ours is longer than a bit for each of 1,600 columns.
    row.extend((value.len() as u32).to_be_bytes());
    row.extend_from_slice(value);
}

/// "id = 42", as far as the change says.
pub fn key<'a>(sources: &[Source], value: impl Fn(&Source) -> Datum<'a>) -> String {
    let parts = sources.iter().filter(|source| source.identity).map(|source| {
        let shown = match value(source) {
            Datum::Text(text) => String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned(),
            Datum::Null => "null".to_owned(),
            Datum::Unchanged => "?".to_owned(),
        };
        format!("{} = {shown}", source.name)
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}
