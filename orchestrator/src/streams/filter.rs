//! `filter` text and `filter_config` → the conditions a source is sent.
//!
//! ```text
//! filter    = condition { ("and" | "or") condition }     one kind of operator
//! condition = column ("=" | "!=" | "<" | "<=" | ">" | ">=") value
//! column    = word | "quoted name"
//! value     = word | number | "quoted text" | 'quoted text' | null
//! ```

use std::iter::Peekable;
use std::str::CharIndices;

use proto::v1::filter::LogicalOperator;
use proto::v1::{Condition, Filter};
use serde_json::Value;

use super::FilterConfig;

/// Operators as PostgreSQL is sent them; longest first.
const OPERATORS: [&str; 6] = ["!=", "<=", ">=", "=", "<", ">"];

#[derive(Clone, Debug, PartialEq)]
enum Word {
    /// As it stands.
    Bare(String),
    /// Without its quotes.
    Quoted(String),
    Operator(&'static str),
}

/// The filter of a text. The error says what is wrong and where.
pub fn parse(text: &str) -> Result<Filter, String> {
    let words = words(text)?;
    let mut words = words.into_iter();
    let mut conditions = Vec::new();
    let mut operator: Option<LogicalOperator> = None;
    loop {
        conditions.push(condition(&mut words)?);
        let joined = match words.next() {
            None => break,
            Some(Word::Bare(word)) => logical_operator(&word)
                .ok_or_else(|| format!("has {word:?} where \"and\" or \"or\" belongs"))?,
            Some(other) => {
                return Err(format!("has {} where \"and\" or \"or\" belongs", shown(&other)));
            }
        };
        if operator.is_some_and(|operator| operator != joined) {
            return Err("mixes \"and\" with \"or\"; use one of them".to_owned());
        }
        operator = Some(joined);
    }
    Ok(Filter { logical_operator: operator.unwrap_or_default().into(), conditions })
}

/// The filter of `filter_config`.
pub fn from_config(config: &FilterConfig) -> Result<Filter, String> {
    let operator = match config.logical_operator.as_deref() {
        None | Some("") => LogicalOperator::And,
        Some(word) => logical_operator(word)
            .ok_or_else(|| format!("has the logical_operator {word:?}; it must be and or or"))?,
    };
    if config.conditions.is_empty() {
        return Err("has no conditions".to_owned());
    }
    let mut conditions = Vec::new();
    for given in &config.conditions {
        let Some(operator) = OPERATORS.iter().find(|known| **known == given.operator) else {
            return Err(format!(
                "has the operator {:?}; it must be one of = != < <= > >=",
                given.operator
            ));
        };
        let value = match &given.value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        conditions.push(finished(given.column.clone(), operator, value)?);
    }
    Ok(Filter { logical_operator: operator.into(), conditions })
}

fn logical_operator(word: &str) -> Option<LogicalOperator> {
    match word.to_ascii_lowercase().as_str() {
        "and" => Some(LogicalOperator::And),
        "or" => Some(LogicalOperator::Or),
        _ => None,
    }
}

fn condition(words: &mut impl Iterator<Item = Word>) -> Result<Condition, String> {
    let column = match words.next() {
        Some(Word::Bare(name) | Word::Quoted(name)) => name,
        Some(other) => return Err(format!("has {} where a column belongs", shown(&other))),
        None => return Err("ends where a column belongs".to_owned()),
    };
    let operator = match words.next() {
        Some(Word::Operator(operator)) => operator,
        Some(other) => {
            return Err(format!(
                "has {} after {column:?}, where one of = != < <= > >= belongs",
                shown(&other)
            ));
        }
        None => return Err(format!("ends after {column:?}, where an operator belongs")),
    };
    let value = match words.next() {
        Some(Word::Bare(word)) if word.eq_ignore_ascii_case("null") => None,
        Some(Word::Bare(word)) if logical_operator(&word).is_some() => {
            return Err(format!("has {word:?} where a value for {column:?} belongs"));
        }
        Some(Word::Bare(text) | Word::Quoted(text)) => Some(text),
        Some(Word::Operator(_)) | None => {
            return Err(format!("lacks a value after {column:?} {operator}"));
        }
    };
    finished(column, operator, value)
}

fn finished(column: String, operator: &str, value: Option<String>) -> Result<Condition, String> {
    if value.is_none() && !matches!(operator, "=" | "!=") {
        return Err(format!("compares {column:?} {operator} null; null allows only = and !="));
    }
    let is_null = value.is_none();
    let operator = operator.to_owned();
    Ok(Condition { column, operator, value: value.unwrap_or_default(), is_null })
}

fn shown(word: &Word) -> String {
    match word {
        Word::Bare(text) | Word::Quoted(text) => format!("{text:?}"),
        Word::Operator(operator) => format!("{operator:?}"),
    }
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(at, c)) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else if c == '"' || c == '\'' {
            chars.next();
            words.push(Word::Quoted(quoted(&mut chars, c).ok_or_else(|| {
                format!(
                    "has a quote at character {} that does not end",
                    text[..at].chars().count() + 1
                )
            })?));
        } else if let Some(operator) =
            OPERATORS.iter().find(|known| text[at..].starts_with(**known))
        {
            words.push(Word::Operator(operator));
            for _ in 0..operator.len() {
                chars.next();
            }
        } else if c == '!' {
            return Err("has a lone \"!\"; unequal is written !=".to_owned());
        } else {
            let mut word = String::new();
            while let Some((_, c)) =
                chars.next_if(|(_, c)| !c.is_whitespace() && !"\"'=<>!".contains(*c))
            {
                word.push(c);
            }
            words.push(Word::Bare(word));
        }
    }
    Ok(words)
}

/// What follows an opening quote, up to the closing one: doubled and
/// backslashed quotes stand for themselves.
fn quoted(chars: &mut Peekable<CharIndices<'_>>, quote: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()?.1 {
            '\\' => match chars.next()?.1 {
                c if c == quote || c == '\\' => text.push(c),
                other => text.extend(['\\', other]),
            },
            c if c == quote => match chars.next_if(|(_, next)| *next == quote) {
                Some(_) => text.push(quote),
                None => return Some(text),
            },
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brief(filter: &Filter) -> Vec<(&str, &str, Option<&str>)> {
        filter
            .conditions
            .iter()
            .map(|c| {
                (c.column.as_str(), c.operator.as_str(), (!c.is_null).then_some(c.value.as_str()))
            })
            .collect()
    }

    #[test]
    fn a_filter_text_becomes_conditions() {
        let filter = parse("col > 5 and b = \"x\"").unwrap();
        assert_eq!(filter.logical_operator(), LogicalOperator::And);
        assert_eq!(brief(&filter), [("col", ">", Some("5")), ("b", "=", Some("x"))]);

        let filter =
            parse("\"My Col\"!='it''s' OR a<=-1.5 or c = NULL or d=\"a \\\"b\\\"\"").unwrap();
        assert_eq!(filter.logical_operator(), LogicalOperator::Or);
        assert_eq!(
            brief(&filter),
            [
                ("My Col", "!=", Some("it's")),
                ("a", "<=", Some("-1.5")),
                ("c", "=", None),
                ("d", "=", Some("a \"b\"")),
            ]
        );
        assert_eq!(
            brief(&parse("t >= 2024-01-01T00:00:00Z").unwrap())[0].2,
            Some("2024-01-01T00:00:00Z")
        );
    }

    #[test]
    fn a_bad_filter_says_what_is_wrong() {
        for (text, part) in [
            ("", "ends where a column belongs"),
            ("a", "where an operator belongs"),
            ("a > ", "lacks a value"),
            ("a like 'x'", "has \"like\" after \"a\""),
            ("a = 1 b = 2", "where \"and\" or \"or\" belongs"),
            ("a = 1 and b = 2 or c = 3", "mixes"),
            ("a = 1 and", "ends where a column belongs"),
            ("a = 'x", "a quote at character 5"),
            ("a > null", "null allows only"),
            ("a ! 3", "!="),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn filter_config_means_the_same() {
        let config: FilterConfig = serde_json::from_str(
            r#"{"logical_operator": "Or", "conditions": [
                {"column": "a", "operator": ">=", "value": 5.25},
                {"column": "b", "operator": "!=", "value": null},
                {"column": "c", "operator": "=", "value": true}]}"#,
        )
        .unwrap();
        let filter = from_config(&config).unwrap();
        assert_eq!(filter.logical_operator(), LogicalOperator::Or);
        assert_eq!(
            brief(&filter),
            [("a", ">=", Some("5.25")), ("b", "!=", None), ("c", "=", Some("true"))]
        );
        assert!(from_config(&FilterConfig::default()).is_err());
    }
}
