//! Any value as part of a directory name.
//!
//! What a path, a shell or a reader of partitioned tables takes for its own is
//! percent-encoded, as Hive does it and readers undo it: `"#%'*/:=?\{}[]^~`,
//! control characters, and a `.` or `_` at the beginning, which would hide the
//! directory. A name longer than the file system takes is cut and ends in `~`
//! and a hash of the whole; `~` occurs in no value, so distinct values keep
//! distinct names.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Bytes of one name on every file system in use.
const MAX_COMPONENT: usize = 255;
/// Hex digits of the hash: 128 bits, so that names do not meet.
const HASH_DIGITS: usize = 32;

/// Appends a value to the component that `component` holds so far.
pub fn push_value(value: &str, component: &mut String) {
    for c in value.chars() {
        let hides = component.is_empty() && matches!(c, '.' | '_');
        if hides || c.is_control() || "\"#%'*/:=?\\{}[]^~".contains(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String does not fail.
                let _ = write!(component, "%{byte:02X}");
            }
        } else {
            component.push(c);
        }
    }
}

/// A whole component as the name of a directory.
pub fn finish(mut component: String) -> String {
    if component.len() > MAX_COMPONENT {
        let hash = Sha256::digest(component.as_bytes());
        let mut end = MAX_COMPONENT - HASH_DIGITS - 1;
        while !component.is_char_boundary(end) {
            end -= 1;
        }
        component.truncate(end);
        component.push('~');
        for byte in &hash[..HASH_DIGITS / 2] {
            let _ = write!(component, "{byte:02x}");
        }
    }
    // A directory must not look like a file to a reader's `*.parquet`.
    if let Some(stem) = component.strip_suffix(".parquet") {
        component = format!("{stem}%2Eparquet");
        if component.len() > MAX_COMPONENT {
            return finish(component);
        }
    }
    component
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(value: &str) -> String {
        let mut component = String::new();
        push_value(value, &mut component);
        finish(component)
    }

    #[test]
    fn no_value_climbs_hides_or_breaks_out() {
        for (value, expected) in [
            ("Köln, 1", "Köln, 1"),
            ("..", "%2E."),
            (".hidden", "%2Ehidden"),
            ("_tmp", "%5Ftmp"),
            ("a_b.c", "a_b.c"),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            ("a\\b", "a%5Cb"),
            ("100%", "100%25"),
            ("nul\0\n\u{7f}\u{85}", "nul%00%0A%7F%C2%85"),
            ("a=b", "a%3Db"),
            ("x.parquet", "x%2Eparquet"),
        ] {
            assert_eq!(name(value), expected, "{value:?}");
        }
    }

    #[test]
    fn long_values_stay_within_a_name_and_apart() {
        let long = "é".repeat(300);
        let values = [
            long.clone(),
            format!("{long}x"),
            "a".repeat(255),
            "a".repeat(256),
            format!("{}.parquet", "b".repeat(246)),
            format!("{}.parquet", "b".repeat(247)),
            name(&long),
            "%".repeat(100),
        ];
        let names: HashSet<_> = values.iter().map(|value| name(value)).collect();
        assert_eq!(names.len(), values.len());
        assert!(names.iter().all(|name| name.len() <= MAX_COMPONENT), "{names:?}");
        assert!(names.iter().all(|name| !name.ends_with(".parquet")), "{names:?}");
        assert_eq!(name(&"a".repeat(255)), "a".repeat(255));
    }
}
