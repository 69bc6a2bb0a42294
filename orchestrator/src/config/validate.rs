//! A file's JSON against its JSON Schema: every fault at once, each with its
//! key, the value seen and what is allowed; unknown keys as warnings.

use std::sync::LazyLock;

use jsonschema::error::ValidationErrorKind as Kind;
use serde_json::{Map, Value};

use super::ConfigFault;

/// A schema of ours and what checks it.
pub struct Schema {
    /// The schema as `spec` prints it.
    pub text: &'static str,
    json: Value,
    validator: jsonschema::Validator,
}

impl Schema {
    /// From the text of a schema file of this crate.
    fn new(text: &'static str) -> Self {
        let json: Value = serde_json::from_str(text).expect("a schema of ours is JSON");
        let validator = jsonschema::validator_for(&json).expect("a schema of ours is a schema");
        Schema { text, json, validator }
    }

    /// The schema as JSON.
    pub fn json(&self) -> &Value {
        &self.json
    }
}

/// source.json.
pub static SOURCE: LazyLock<Schema> =
    LazyLock::new(|| Schema::new(include_str!("../../schema/source.json")));
/// destination.json for Parquet.
pub static PARQUET: LazyLock<Schema> =
    LazyLock::new(|| Schema::new(include_str!("../../schema/destination-parquet.json")));
/// destination.json for Iceberg.
pub static ICEBERG: LazyLock<Schema> =
    LazyLock::new(|| Schema::new(include_str!("../../schema/destination-iceberg.json")));
/// streams.json.
pub static STREAMS: LazyLock<Schema> =
    LazyLock::new(|| Schema::new(include_str!("../../schema/streams.json")));

/// Longest value shown in a message, in characters.
const SHOWN: usize = 60;

/// Words that the keys of secrets contain.
pub const SECRET_MARKS: [&str; 9] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "credential",
    "private_key",
    "client_key",
    "access_key",
    "jdbc_url",
];

/// Whether the value of a key must never be shown.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key != "jdbc_url_params" && SECRET_MARKS.iter().any(|mark| key.contains(mark))
}

/// Takes null for absent in config files: tools that write them do both.
pub fn drop_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

/// Every fault of `value` under `schema`, in the file's order of keys.
pub fn faults(schema: &Schema, value: &Value) -> Vec<ConfigFault> {
    schema
        .validator
        .iter_errors(value)
        .map(|error| {
            let pointer = error.instance_path().as_str();
            let keyword = error.schema_path().as_str();
            let rules = keyword
                .rsplit_once('/')
                .and_then(|(parent, _)| schema.json.pointer(parent))
                .unwrap_or(&Value::Null);
            if let Kind::Required { property } = error.kind() {
                let property = property.as_str().unwrap_or_default();
                let rules = &rules["properties"][property];
                let key = dotted(&format!("{pointer}/{property}"));
                return ConfigFault::new(key, format!("is missing; it must be {}", allowed(rules)));
            }
            let key = dotted(pointer);
            let seen = seen(&key, error.instance());
            ConfigFault::new(key, format!("is {seen}; it must be {}", allowed(rules)))
        })
        .collect()
}

/// A warning for each key that the schema does not know.
pub fn unknown_keys(schema: &Schema, value: &Value) -> Vec<String> {
    unknown_under(&schema.json, value, "")
}

/// The same for a part of a schema and what lies at `path` in the file.
pub fn unknown_under(rules: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    walk_unknown(rules, value, path, &mut warnings);
    warnings
}

fn walk_unknown(rules: &Value, value: &Value, path: &str, warnings: &mut Vec<String>) {
    match (value, rules["properties"].as_object()) {
        (Value::Object(map), Some(known)) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(rules) => walk_unknown(rules, value, &path, warnings),
                    None => warnings.push(unknown(&path, key, known)),
                }
            }
        }
        (Value::Array(items), _) => {
            for (n, item) in items.iter().enumerate() {
                walk_unknown(&rules["items"], item, &format!("{path}[{n}]"), warnings);
            }
        }
        _ => {}
    }
}

fn unknown(path: &str, key: &str, known: &Map<String, Value>) -> String {
    let close = known
        .keys()
        .map(|candidate| (strsim::osa_distance(&key.to_lowercase(), candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .min();
    let hint = close.map(|(_, key)| format!(": did you mean {key:?}?")).unwrap_or_default();
    format!("the key {path:?} is not known and is ignored{hint}")
}

/// "/ssl/mode" → "ssl.mode", "/a/0/b" → "a[0].b".
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part);
        }
    }
    path
}

/// A value for a message: scalars as they are unless secret, else their kind.
pub fn seen(key: &str, value: &Value) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    // Any secret on the way down counts: connection parameters may be secrets.
    let secret = key.split('.').any(is_secret);
    match value {
        Value::Array(_) | Value::Object(_) | Value::Null => kind.to_owned(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        _ if secret => format!("{kind} (hidden)"),
        _ => {
            let text = value.to_string();
            match text.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}

/// What a schema allows, in words.
fn allowed(rules: &Value) -> String {
    if let Some(options) = rules["enum"].as_array() {
        let options: Vec<String> = options.iter().map(Value::to_string).collect();
        return format!("one of {}", options.join(", "));
    }
    let noun = |kind: &str| match kind {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "an object {…}",
        _ => "null",
    };
    let kind = match &rules["type"] {
        Value::String(kind) => noun(kind).to_owned(),
        Value::Array(kinds) => {
            let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).map(noun).collect();
            kinds.join(" or ")
        }
        _ => "as the schema says (see the command spec)".to_owned(),
    };
    match (&rules["minimum"], &rules["maximum"]) {
        (Value::Number(low), Value::Number(high)) => format!("{kind} from {low} to {high}"),
        (Value::Number(low), _) => format!("{kind}, {low} or more"),
        _ if rules["minLength"].is_number() => format!("{kind}, not empty"),
        _ => kind,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_faults_come_at_once_with_key_value_and_what_is_allowed() {
        let value = json!({
            "host": "", "port": "5432", "database": 7, "password": 12,
            "ssl": {"mode": "on"}, "max_threads": 0
        });
        let mut found: Vec<String> =
            faults(&SOURCE, &value).iter().map(|f| f.to_string()).collect();
        found.sort();
        assert_eq!(
            found,
            [
                "database is 7; it must be text, not empty",
                "host is empty; it must be text, not empty",
                "max_threads is 0; it must be a whole number from 1 to 10000",
                "password is a number (hidden); it must be text",
                "port is \"5432\"; it must be a whole number from 1 to 65535",
                "ssl.mode is \"on\"; it must be one of \"disable\", \"require\", \"verify-ca\", \
                 \"verify-full\"",
                "username is missing; it must be text, not empty",
            ]
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_the_one_that_was_meant() {
        let value = json!({"hosst": "h", "ssl": {"mod": "x"}, "frobnicate": 1});
        assert_eq!(
            unknown_keys(&SOURCE, &value),
            [
                "the key \"hosst\" is not known and is ignored: did you mean \"host\"?",
                "the key \"ssl.mod\" is not known and is ignored: did you mean \"mode\"?",
                "the key \"frobnicate\" is not known and is ignored",
            ]
        );
    }

    #[test]
    fn no_secret_is_shown() {
        for key in ["password", "ssl.client_key", "writer.aws_secret_key", "jdbc_url", "token"] {
            assert!(!seen(key, &json!("hunter2")).contains("hunter2"), "{key}");
        }
        assert_eq!(seen("host", &json!("h")), "\"h\"");
        assert_eq!(seen("ssl", &json!({"client_key": "hunter2"})), "an object");
    }
}
