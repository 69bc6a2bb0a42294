//! Secrets that a config file names instead of holding: `password_file` is the
//! path of a file that holds the password, `password_env` the name of an
//! environment variable that does. Every key of a secret may have either.

use std::{env, fs};

use serde_json::{Map, Value};

use super::ConfigFault;
use super::validate::is_secret;

/// Largest secret that a file may hold, in bytes: keys and certificates fit.
const MAX_BYTES: u64 = 1 << 20;
/// What the keys end with, and how their values are read.
const KINDS: [(&str, Read); 2] = [("_file", of_file), ("_env", of_environment)];

type Read = fn(&str) -> Result<String, String>;

/// Puts each named secret in its place; every fault at once.
pub fn resolve(value: &mut Value) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    walk(value, "", &mut faults);
    faults
}

fn walk(value: &mut Value, path: &str, faults: &mut Vec<ConfigFault>) {
    let Value::Object(map) = value else { return };
    let named: Vec<_> = map.keys().filter_map(|key| named(key)).collect();
    for (key, secret, read) in named {
        let at = dotted(path, &key);
        match replace(map, &key, &secret, read) {
            Ok(()) => {}
            Err(problem) => faults.push(ConfigFault::new(at, problem)),
        }
    }
    for (key, value) in map.iter_mut() {
        walk(value, &dotted(path, key), faults);
    }
}

/// The key, the secret that it names, and how it is read.
fn named(key: &str) -> Option<(String, String, Read)> {
    let named = |(suffix, read): &(&str, Read)| {
        let secret = key.strip_suffix(suffix).filter(|secret| is_secret(secret))?;
        Some((key.to_owned(), secret.to_owned(), *read))
    };
    KINDS.iter().find_map(named)
}

fn replace(
    map: &mut Map<String, Value>,
    key: &str,
    secret: &str,
    read: Read,
) -> Result<(), String> {
    let name = match map.remove(key) {
        Some(Value::String(name)) if !name.is_empty() => name,
        // As for the secret itself: nothing is given.
        Some(Value::String(_)) => return Ok(()),
        _ => return Err("must be a text".to_owned()),
    };
    if map.get(secret).is_some_and(|given| given.as_str() != Some("")) {
        return Err(format!("cannot be used: {secret} is given, too; keep one of them"));
    }
    map.insert(secret.to_owned(), read(&name)?.into());
    Ok(())
}

fn of_file(path: &str) -> Result<String, String> {
    let failed = |error| format!("names {path:?}, which cannot be read: {error}");
    if fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(format!("names {path:?}, which has more than {MAX_BYTES} bytes"));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    // Editors and `echo` end a line that is no part of the secret.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn of_environment(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| match error {
        env::VarError::NotPresent => format!("names the variable {name:?}, which is not set"),
        env::VarError::NotUnicode(_) => format!("names the variable {name:?}, which is no UTF-8"),
    })
}

fn dotted(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_may_lie_in_a_file_or_in_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), " hunter 2\r\n").unwrap();
        let mut value = json!({
            "password_file": file.path(),
            "password": "",
            "ssh_config": {"passphrase_env": "PATH", "password_file": ""},
            "hosts_file": "kept",
        });
        assert!(resolve(&mut value).is_empty());
        let path = env::var("PATH").unwrap();
        let expected = json!({
            "password": " hunter 2",
            "ssh_config": {"passphrase": path},
            "hosts_file": "kept",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn what_names_no_secret_is_a_fault_with_its_key() {
        let mut value = json!({
            "password": "x",
            "password_env": "PATH",
            "writer": {
                "aws_secret_key_file": "/no/such/file",
                "token_env": "TIDEWATER_NO_SUCH_VARIABLE",
                "credential_file": 3,
            },
        });
        let faults: Vec<_> = resolve(&mut value).iter().map(ToString::to_string).collect();
        let said = faults.join("\n");
        assert_eq!(faults.len(), 4, "{said}");
        for part in [
            "password_env cannot be used: password is given",
            "writer.aws_secret_key_file names \"/no/such/file\"",
            "writer.token_env names the variable",
            "writer.credential_file must be a text",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
