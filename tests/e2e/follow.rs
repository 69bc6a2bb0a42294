//! Change capture: load, then changes, into Parquet and Iceberg tables, read
//! back by engines that are not ours.

mod apart;
mod columns;
mod continuous;
mod doubt;
mod faults;
mod handoff;
mod heavy;
mod held;
mod identity;
mod kill;
mod kinds;
mod lag;
mod midstream;
mod partitions;
mod random;
mod refusals;
mod reload;
mod seeds;
mod soft;
mod standby;
mod strict;
mod together;
mod values;

use tests::follow::{Followed, Into};

/// SQL about `t` as it is about another table.
fn about(table: &str, sql: &str) -> String {
    let is_word = |letter: Option<char>| letter.is_some_and(|l| l.is_ascii_alphanumeric());
    let mut text = String::new();
    for (at, letter) in sql.char_indices() {
        let (before, after) = (sql[..at].chars().last(), sql[at + 1..].chars().next());
        match letter == 't' && !is_word(before) && before != Some('_') && !is_word(after) {
            true => text.push_str(table),
            false => text.push(letter),
        }
    }
    text
}
