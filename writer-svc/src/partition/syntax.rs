//! What both flavours of `partition_regex` have in common: braces with parts
//! between commas, and columns by name.

use crate::naming::{OLAKE_TIMESTAMP, destination_name};

/// A part of the text.
pub enum Token {
    /// Outside of braces.
    Text(String),
    /// What stands between a pair of them.
    Braces(String),
}

/// Cuts at braces; a position counts characters from 1.
pub fn tokens(regex: &str) -> Result<Vec<(usize, Token)>, String> {
    let mut tokens = Vec::new();
    let (mut text, mut start, mut open) = (String::new(), 1, None);
    for (index, c) in regex.chars().enumerate() {
        let position = index + 1;
        match (c, open) {
            ('{', Some(at)) => {
                return Err(format!(
                    "at character {position}: '{{' inside the braces opened at character {at}"
                ));
            }
            ('{', None) => {
                tokens.push((start, Token::Text(std::mem::take(&mut text))));
                open = Some(position);
            }
            ('}', Some(at)) => {
                tokens.push((at, Token::Braces(std::mem::take(&mut text))));
                (open, start) = (None, position + 1);
            }
            ('}', None) => return Err(format!("at character {position}: '}}' without a '{{'")),
            _ => text.push(c),
        }
    }
    if let Some(at) = open {
        return Err(format!("at character {at}: '{{' without a '}}'"));
    }
    tokens.push((start, Token::Text(text)));
    Ok(tokens)
}

/// The parts between commas, without blanks and quotes around them.
pub fn parts(inside: &str) -> Vec<String> {
    inside.split(',').map(|part| part.trim().trim_matches(['\'', '"']).trim().to_owned()).collect()
}

/// Whether the name stands for the time of the run.
pub fn is_now(column: &str) -> bool {
    column == "now()" || column == OLAKE_TIMESTAMP
}

/// The source's spelling, else the destination's where it names one column.
pub fn find_column(name: &str, columns: &[&str]) -> Result<usize, String> {
    if let Some(index) = columns.iter().position(|column| *column == name) {
        return Ok(index);
    }
    let alike: Vec<_> =
        (0..columns.len()).filter(|&index| destination_name(columns[index]) == name).collect();
    match alike.as_slice() {
        [index] => Ok(*index),
        [] => Err(format!("there is no column {name:?}; there are {}", list(columns))),
        several => {
            let names: Vec<_> = several.iter().map(|&index| columns[index]).collect();
            Err(format!("{name:?} could be each of {}", list(&names)))
        }
    }
}

/// Names for a message, not too many.
fn list(columns: &[&str]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<_> = columns.iter().take(SHOWN).map(|column| format!("{column:?}")).collect();
    match columns.len().saturating_sub(SHOWN) {
        0 if shown.is_empty() => "none".to_owned(),
        0 => format!("{} and now()", shown.join(", ")),
        more => format!("{}, {more} more and now()", shown.join(", ")),
    }
}
