//! Members of rows as JSON, taken from one row into another without reading
//! their values.

use std::ops::Range;

/// A member's key, with its quotes, and its value.
struct Member {
    key: Range<usize>,
    value: Range<usize>,
}

/// `row` with the values that `other` has for its members at `places`, null
/// where it has none. `None`: one of both is no object.
pub fn with_members(row: &str, other: &str, places: &[usize]) -> Option<String> {
    let (ours, theirs) = (members(row)?, members(other)?);
    let mut merged = String::with_capacity(row.len() + other.len());
    let mut copied = 0;
    for &place in places {
        let Member { key, value } = ours.get(place)?;
        let found = theirs.iter().find(|member| other[member.key.clone()] == row[key.clone()]);
        merged.push_str(&row[copied..value.start]);
        merged.push_str(found.map_or("null", |member| &other[member.value.clone()]));
        copied = value.end;
    }
    merged.push_str(&row[copied..]);
    Some(merged)
}

/// The members of an object as [`super::json`] writes it: nothing between them
/// but commas and colons, values of any form.
fn members(object: &str) -> Option<Vec<Member>> {
    let bytes = object.as_bytes();
    let mut members = Vec::new();
    if bytes == b"{}" {
        return Some(members);
    }
    let mut at = 1;
    bytes.first().filter(|byte| **byte == b'{')?;
    loop {
        let key = at..string_end(bytes, at)?;
        bytes.get(key.end).filter(|byte| **byte == b':')?;
        let value = key.end + 1..value_end(bytes, key.end + 1)?;
        at = value.end + 1;
        members.push(Member { key, value });
        match bytes.get(at - 1)? {
            b',' => {}
            _ => return (at == bytes.len()).then_some(members),
        }
    }
}

/// Where the string ends that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    bytes.get(start).filter(|byte| **byte == b'"')?;
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Where the value ends that begins at `start`: at a comma or brace that is none
/// of its own.
fn value_end(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut depth) = (start, 0_usize);
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at)? - 1,
            b'{' | b'[' => depth += 1,
            b',' | b'}' if depth == 0 => return Some(at),
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_taken_over_whatever_their_values_are() {
        let row = r#"{"id":7,"a\"b":null,"j":null,"l":"new"}"#;
        let other = r#"{"id":7,"a\"b":"x,}\\\"","j": {"k": ["]", 1]} ,"l":[1,"}"]}"#;
        let merged = with_members(row, other, &[1, 2]);
        let expected = r#"{"id":7,"a\"b":"x,}\\\"","j": {"k": ["]", 1]} ,"l":"new"}"#;
        assert_eq!(merged.as_deref(), Some(expected));
        let merged = with_members(row, r#"{"id":7}"#, &[3]);
        assert_eq!(merged.as_deref(), Some(r#"{"id":7,"a\"b":null,"j":null,"l":null}"#));
        assert_eq!(with_members("{}", "{}", &[]).as_deref(), Some("{}"));
    }

    #[test]
    fn what_is_no_object_is_none() {
        for text in ["", "[]", "{", r#"{"a"}"#, r#"{"a":1"#, r#"{"a":"x}"#, r#"{"a":1}x"#, "7"] {
            assert_eq!(with_members(text, "{}", &[]), None, "{text}");
        }
    }
}
