//! Names and texts as SQL writes them.

/// `name` as a quoted identifier: the same relation whatever its letters.
pub fn quote_ident(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    for letter in name.chars() {
        if letter == '"' {
            quoted.push('"');
        }
        quoted.push(letter);
    }
    quoted.push('"');
    quoted
}

/// `text` as a string literal that means the same whatever
/// `standard_conforming_strings` says: with a backslash in it, the `E''` form.
pub fn quote_literal(text: &str) -> String {
    let escape = text.contains('\\');
    let mut quoted = String::with_capacity(text.len() + 4);
    // The space keeps an E from joining a word before it.
    quoted.push_str(if escape { " E'" } else { "'" });
    for letter in text.chars() {
        if letter == '\'' || letter == '\\' {
            quoted.push(letter);
        }
        quoted.push(letter);
    }
    quoted.push('\'');
    quoted
}

/// `"namespace"."name"`.
pub fn qualified(namespace: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(namespace), quote_ident(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_cannot_end_a_name_or_a_literal() {
        assert_eq!(quote_ident("Order \"x\""), "\"Order \"\"x\"\"\"");
        assert_eq!(qualified("public", "select"), "\"public\".\"select\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"\' OR 1=1 --"), r" E'\\'' OR 1=1 --'");
        assert_eq!(quote_literal(""), "''");
    }
}
