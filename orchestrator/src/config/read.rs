//! From a path to a file's JSON, with the position of what is malformed.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::validate::SECRET_MARKS;
use super::{ConfigError, decrypt};

/// A config file may have so many bytes: catalogs of 10,000 wide tables fit.
const MAX_BYTES: u64 = 1 << 30;
/// Characters of an offending line that are shown.
const EXCERPT: usize = 100;

/// Reads and parses a file; a file that is a JSON string is decrypted first.
/// A plain file is accepted with a key too: what discover writes is plain.
pub fn json(path: &Path, key: Option<&str>) -> Result<Value, ConfigError> {
    let text = text(path)?;
    let value = parse(path, &text)?;
    match (value, key) {
        (Value::String(sealed), Some(key)) => parse(path, &decrypt::decrypt(path, &sealed, key)?),
        (Value::String(_), None) => Err(ConfigError::Decrypt {
            path: path.to_owned(),
            problem: "it is encrypted",
            remedy: "give --encryption-key",
        }),
        (value, _) => Ok(value),
    }
}

fn text(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES {
        let kind = std::io::ErrorKind::FileTooLarge;
        return Err(failed(std::io::Error::new(kind, format!("it has {size} bytes"))));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    // Some editors begin a file with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn parse(path: &Path, text: &str) -> Result<Value, ConfigError> {
    serde_json::from_str(text).map_err(|error| malformed(path, text, &error))
}

/// The error for text that is no JSON: file, line, column, and the line.
pub fn malformed(path: &Path, text: &str, error: &serde_json::Error) -> ConfigError {
    let (mut line, mut column) = (error.line(), error.column());
    let content = |line: usize| text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    if column == 0 && line > 1 {
        // A line break where none may be: the end of the line before.
        line -= 1;
        column = content(line).len() + 1;
    }
    let said = error.to_string();
    // serde_json appends the position, which is said already.
    let problem = said.split(" at line ").next().unwrap_or(&said).to_owned();
    // The value of a key on an earlier line may be a secret.
    let before: Vec<&str> = text.lines().take(line.saturating_sub(1)).collect();
    let continued = before.iter().rev().find(|line| !line.trim().is_empty());
    let hidden = continued.is_some_and(|line| line.trim_end().ends_with(':'))
        || content(line).trim_start().starts_with(':');
    let excerpt = if hidden { String::new() } else { excerpt(content(line), column) };
    ConfigError::Malformed { path: path.to_owned(), line, column, problem, excerpt }
}

/// The part of a line around the column with a mark below it. What follows a
/// secret's key on the line is cut off, mark and all.
fn excerpt(line: &str, column: usize) -> String {
    let shown: Vec<char> = match secret_begins(line) {
        Some(end) => line[..end].chars().chain(" …".chars()).collect(),
        None => line.chars().collect(),
    };
    // serde_json counts bytes.
    let at = line.char_indices().take_while(|(byte, _)| byte + 1 < column).count();
    let from = at.min(shown.len()).saturating_sub(EXCERPT / 2);
    let window: String = shown.iter().skip(from).take(EXCERPT).collect();
    if window.trim().is_empty() {
        return String::new();
    }
    let mark =
        if at <= shown.len() { format!("\n    {}^", " ".repeat(at - from)) } else { String::new() };
    format!("\n    {window}{mark}")
}

/// Where the first secret value of a line may begin: after the word that its
/// key contains. Quotes are no guide, being what may be wrong.
fn secret_begins(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let ends = SECRET_MARKS.iter().filter_map(|mark| Some(lower.find(mark)? + mark.len()));
    ends.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn malformed_json_is_shown_with_its_position() {
        let bad = file("{\n  \"host\": \"h\",\n  \"port\": 5432x\n}\n");
        let ConfigError::Malformed { line, column, excerpt, .. } =
            json(bad.path(), None).unwrap_err()
        else {
            panic!("not malformed")
        };
        assert_eq!((line, column), (3, 15));
        assert_eq!(excerpt, "\n      \"port\": 5432x\n                  ^");
    }

    #[test]
    fn a_malformed_line_shows_no_secret() {
        for content in [
            "{\"password\": \"hunter2\" \"port\": 1}",
            "{\n \"host\": \"h\", \"password\": \"hunter2",
            "{\n \"ssh_config\": {\"private_key\": \"hunter2\nhunter2\"}}",
            "{\"host: \"h\", \"password\": \"hunter2\"}",
            "{\"password\":\n\"hunter2\" x}",
        ] {
            let message = json(file(content).path(), None).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
            assert!(message.contains("line "), "{message}");
        }
    }

    #[test]
    fn an_encrypted_file_needs_its_key_and_a_plain_one_minds_none() {
        let sealed = file(&decrypt::tests::encrypted("{\"a\": 1}", "k"));
        assert_eq!(json(sealed.path(), Some("k")).unwrap()["a"], 1);
        assert!(json(sealed.path(), None).unwrap_err().to_string().contains("is encrypted"));
        assert!(json(sealed.path(), Some("other")).is_err());
        assert_eq!(json(file("\u{feff}{\"a\": 1}").path(), Some("k")).unwrap()["a"], 1);
    }
}
