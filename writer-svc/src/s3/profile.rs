//! The keys of a profile in AWS's own files, on this machine.
//!
//! ```text
//! ~/.aws/credentials (AWS_SHARED_CREDENTIALS_FILE)   [name]           keys, first of all
//! ~/.aws/config      (AWS_CONFIG_FILE)               [profile name]   region, else keys
//! ```

use std::io::ErrorKind;
use std::path::PathBuf;

use configparser::ini::Ini;

use crate::error::WriterError;

/// What a profile says.
#[derive(Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Profile {
    /// `aws_access_key_id`
    pub access_key: String,
    /// `aws_secret_access_key`
    pub secret_key: String,
    /// `aws_session_token`; empty: none.
    pub session_token: String,
    /// `region`
    pub region: Option<String>,
}

/// Where the two files are.
struct Files {
    credentials: PathBuf,
    config: PathBuf,
}

/// Ways to get keys that are not in the files themselves.
const ELSEWHERE: [&str; 7] = [
    "role_arn",
    "source_profile",
    "credential_process",
    "credential_source",
    "web_identity_token_file",
    "sso_session",
    "sso_start_url",
];

/// Reads the profile with this name.
pub fn read(name: &str) -> Result<Profile, WriterError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let at = |variable: &str, usual: &str| {
        let set = std::env::var_os(variable).filter(|path| !path.is_empty());
        set.map_or_else(|| home.join(".aws").join(usual), PathBuf::from)
    };
    let files = Files {
        credentials: at("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        config: at("AWS_CONFIG_FILE", "config"),
    };
    of(name, &files)
}

fn of(name: &str, files: &Files) -> Result<Profile, WriterError> {
    let (credentials, config) = (load(&files.credentials)?, load(&files.config)?);
    let in_config = match name {
        "default" => "default".to_owned(),
        name => format!("profile {name}"),
    };
    let value = |key: &str| {
        let found = credentials.get(name, key).or_else(|| config.get(&in_config, key));
        found.filter(|value| !value.is_empty())
    };
    let invalid = |problem: String| {
        WriterError::invalid_table(
            format!("aws_profile {name:?} {problem}"),
            "correct aws_profile in destination.json, or set aws_access_key and aws_secret_key \
             instead",
        )
    };
    match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(access_key), Some(secret_key)) => Ok(Profile {
            access_key,
            secret_key,
            session_token: value("aws_session_token").unwrap_or_default(),
            region: value("region"),
        }),
        _ => match ELSEWHERE.iter().find(|key| value(key).is_some()) {
            Some(key) => Err(invalid(format!(
                "has its keys by {key}, which this version cannot follow; it reads \
                 aws_access_key_id and aws_secret_access_key"
            ))),
            None => Err(invalid(format!(
                "has no aws_access_key_id with aws_secret_access_key in {} or {} on the machine \
                 of writer-svc",
                files.credentials.display(),
                files.config.display()
            ))),
        },
    }
}

/// A file's sections; none when it is not there.
fn load(path: &std::path::Path) -> Result<Ini, WriterError> {
    let mut defaults = Ini::new_cs().defaults();
    defaults.delimiters = vec!['='];
    defaults.enable_inline_comments = false;
    // Settings of a service are indented below its name.
    defaults.multiline = true;
    let mut ini = Ini::new_from_defaults(defaults);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(ini);
        }
        Err(e) => return Err(WriterError::io("reading", path)(e)),
    };
    // Its word would show the line, which may be a key.
    ini.read(text).map_err(|_| {
        WriterError::invalid_table(
            format!("{} is no file of AWS's form", path.display()),
            "correct it, or set aws_access_key and aws_secret_key in destination.json",
        )
    })?;
    Ok(ini)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(credentials: &str, config: &str) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = Files {
            credentials: write("credentials", credentials),
            config: write("config", config),
        };
        (dir, files)
    }

    #[test]
    fn keys_and_region_are_those_of_the_profile() {
        let (_dir, files) = files(
            "[default]\naws_access_key_id = A\naws_secret_access_key = a/+=;#b\n\n\
             [other]\naws_access_key_id=B\naws_secret_access_key=b\naws_session_token = t==\n",
            "[default]\nregion = eu-north-1\ns3 =\n    addressing_style = path\n\
             # theirs\n[profile third]\naws_access_key_id = C\naws_secret_access_key = c\n\
             [profile other]\nregion=us-west-2\n",
        );
        let profile = |access: &str, secret: &str, token: &str, region: Option<&str>| Profile {
            access_key: access.into(),
            secret_key: secret.into(),
            session_token: token.into(),
            region: region.map(str::to_owned),
        };
        let expected = profile("A", "a/+=;#b", "", Some("eu-north-1"));
        assert_eq!(of("default", &files).unwrap(), expected);
        assert_eq!(of("other", &files).unwrap(), profile("B", "b", "t==", Some("us-west-2")));
        assert_eq!(of("third", &files).unwrap(), profile("C", "c", "", None));
    }

    #[test]
    fn a_profile_without_keys_is_refused_with_the_reason() {
        let (dir, files) = files(
            "[half]\naws_access_key_id = HUNTER2\n",
            "[profile role]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n",
        );
        for (name, part) in [("role", "role_arn"), ("half", "no aws_access_key_id"), ("x", "\"x\"")]
        {
            let said = of(name, &files).err().unwrap().to_string();
            assert!(said.contains(part) && !said.contains("HUNTER2"), "{said}");
        }
        let none = Files { credentials: dir.path().join("1"), config: dir.path().join("2") };
        assert!(of("default", &none).is_err());
        std::fs::write(&files.config, "[broken HUNTER2").unwrap();
        let said = of("half", &files).err().unwrap().to_string();
        assert!(said.contains("config is no file") && !said.contains("HUNTER2"), "{said}");
    }
}
