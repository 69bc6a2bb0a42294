//! What can be wrong with a config file, and how a user reads it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use proto::Fault;
use proto::v1::ErrorCode;

/// One fault in a config file: where, what is there, what may be there.
/// Holds no secret: values under secret keys are hidden before they get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// Dotted path of the key, "ssl.mode"; empty: the file as a whole.
    pub key: String,
    /// What is wrong with it and what is allowed, as the rest of a sentence
    /// that begins with the key.
    pub problem: String,
}

impl ConfigFault {
    /// A fault at `key`.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigFault { key: key.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            return write!(f, "the file {}", self.problem);
        }
        write!(f, "{} {}", self.key, self.problem)
    }
}

/// A config file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("writing {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no JSON.
    #[error("{} is not valid JSON: line {line}, column {column}: {problem}{excerpt}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counts from 1.
        line: usize,
        /// Counts from 1.
        column: usize,
        /// What the parser met.
        problem: String,
        /// The offending line below a line break, secrets hidden; may be empty.
        excerpt: String,
    },
    /// The file is encrypted and cannot be read, or should be and is not.
    #[error("{}: {problem}", path.display())]
    Decrypt {
        /// The file.
        path: PathBuf,
        /// What failed.
        problem: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Everything that is wrong with the content, at once.
    #[error("{} has {}", path.display(), listed(faults))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// At least one.
        faults: Vec<ConfigFault>,
    },
    /// Valid, but beyond this version.
    #[error("{problem}")]
    Unsupported {
        /// What is asked for.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

fn listed(faults: &[ConfigFault]) -> String {
    match faults {
        [fault] => format!("a fault: {fault}"),
        _ => {
            let lines: String = faults.iter().map(|fault| format!("\n  - {fault}")).collect();
            format!("{} faults:{lines}", faults.len())
        }
    }
}

/// What is wrong with several files or tables as one fault, each remedy once.
pub fn together(faults: impl IntoIterator<Item = Fault>) -> Fault {
    let (mut messages, mut remedies) = (Vec::new(), Vec::new());
    for fault in faults {
        messages.push(fault.message);
        if !fault.remedy.is_empty() && !remedies.contains(&fault.remedy) {
            remedies.push(fault.remedy);
        }
    }
    Fault::new(ErrorCode::InvalidConfig, messages.join("\n")).remedy(remedies.join("\n  → "))
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Self {
        let remedy = match &error {
            ConfigError::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "correct the path (paths are relative to the current directory)".to_owned()
                }
                io::ErrorKind::IsADirectory => "name the file, not its directory".to_owned(),
                io::ErrorKind::InvalidData => "save the file as UTF-8".to_owned(),
                _ => "make the file readable".to_owned(),
            },
            ConfigError::Write { .. } => "make the directory writable".to_owned(),
            ConfigError::Malformed { .. } | ConfigError::Invalid { .. } => {
                "correct the file and run the same command again".to_owned()
            }
            ConfigError::Decrypt { remedy, .. } => (*remedy).to_owned(),
            ConfigError::Unsupported { remedy, .. } => remedy.clone(),
        };
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(source) = cause {
            message.push_str(&format!(": {source}"));
            cause = source.source();
        }
        Fault::new(ErrorCode::InvalidConfig, message).remedy(remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_error_reads_as_one_message_with_its_remedy() {
        let faults = vec![
            ConfigFault::new("port", "is missing; it must be a whole number"),
            ConfigFault::new("ssl.mode", "is \"on\"; it must be one of …"),
        ];
        let fault = Fault::from(ConfigError::Invalid { path: "source.json".into(), faults });
        let text = fault.to_string();
        assert!(text.starts_with("source.json has 2 faults:\n  - port is missing"), "{text}");
        assert!(text.contains("\n  → correct the file"), "{text}");

        let two = ["source.json", "streams.json"].map(|path| ConfigError::Invalid {
            path: path.into(),
            faults: vec![ConfigFault::new("port", "is missing")],
        });
        let text = together(two.map(Fault::from)).to_string();
        assert!(
            text.starts_with("source.json has a fault: port is missing\nstreams.json"),
            "{text}"
        );
        assert_eq!(text.matches("→").count(), 1, "{text}");

        let gone = io::Error::from(io::ErrorKind::NotFound);
        let fault = Fault::from(ConfigError::Read { path: "x.json".into(), source: gone });
        assert!(fault.to_string().contains("reading x.json: entity not found"), "{fault}");
    }
}
