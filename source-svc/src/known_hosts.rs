//! OpenSSH's known_hosts: which keys a server may show (sshd(8)).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use russh::keys::{Algorithm, PublicKey, parse_public_key_base64};
use sha1::Sha1;

/// The lines of a known_hosts text that are about one server.
#[derive(Debug)]
pub struct KnownHosts {
    /// As known_hosts writes the server: `host`, or `[host]:port` off port 22.
    name: String,
    keys: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Counts from 1.
    line: usize,
    revoked: bool,
    key: PublicKey,
}

/// What known_hosts says about a key that the server showed.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Known,
    /// There is no key of this kind for the server.
    Unknown,
    /// There is another key of this kind.
    Changed {
        line: usize,
    },
    Revoked,
}

impl KnownHosts {
    /// Takes the lines for `host:port`. A line that cannot be read, or names a
    /// certificate authority, vouches for nothing and is passed over.
    pub fn read(text: &str, host: &str, port: u16) -> Self {
        let host = host.to_ascii_lowercase();
        let name = if port == 22 { host } else { format!("[{host}]:{port}") };
        let keys = text
            .lines()
            .zip(1..)
            .filter_map(|(text, line)| {
                let (revoked, hosts, key) = parse(text)?;
                let about_it = matches(hosts, &name);
                about_it.then_some(Entry { line, revoked, key })
            })
            .collect();
        KnownHosts { name, keys }
    }

    /// As a line of known_hosts would begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the text says about `shown`.
    pub fn judge(&self, shown: &PublicKey) -> Verdict {
        let same = |entry: &&Entry| entry.key.key_data() == shown.key_data();
        if self.keys.iter().filter(|entry| entry.revoked).any(|entry| same(&entry)) {
            return Verdict::Revoked;
        }
        let trusted = || self.keys.iter().filter(|entry| !entry.revoked);
        if trusted().any(|entry| same(&entry)) {
            return Verdict::Known;
        }
        match trusted().find(|entry| kind(&entry.key.algorithm()) == kind(&shown.algorithm())) {
            Some(entry) => Verdict::Changed { line: entry.line },
            None => Verdict::Unknown,
        }
    }

    /// `offered` with the kinds that we have a key for first: the server shows
    /// the first one that it has too. RSA with SHA-1 is left out.
    pub fn preferred_algorithms(&self, offered: &[Algorithm]) -> Vec<Algorithm> {
        let mut order: Vec<Algorithm> = offered
            .iter()
            .filter(|algorithm| !matches!(algorithm, Algorithm::Rsa { hash: None }))
            .cloned()
            .collect();
        let known = |algorithm: &Algorithm| {
            self.keys.iter().any(|entry| kind(&entry.key.algorithm()) == kind(algorithm))
        };
        order.sort_by_key(|algorithm| !known(algorithm));
        order
    }
}

/// An RSA key is one kind, whatever hash signs with it.
fn kind(algorithm: &Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::Rsa { .. } => Algorithm::Rsa { hash: None },
        other => other.clone(),
    }
}

/// Whether it revokes, the host patterns, and the key.
fn parse(line: &str) -> Option<(bool, &str, PublicKey)> {
    let mut fields = line.split_ascii_whitespace();
    let first = fields.next()?;
    let (revoked, hosts) = match first {
        "@revoked" => (true, fields.next()?),
        _ if first.starts_with(['#', '@']) => return None,
        hosts => (false, hosts),
    };
    let _kind = fields.next()?;
    Some((revoked, hosts, parse_public_key_base64(fields.next()?).ok()?))
}

/// Whether the comma-separated patterns name the server; `!` excludes it.
fn matches(patterns: &str, name: &str) -> bool {
    let mut found = false;
    for pattern in patterns.split(',') {
        if let Some(excluded) = pattern.strip_prefix('!') {
            if glob(excluded.to_ascii_lowercase().as_bytes(), name.as_bytes()) {
                return false;
            }
        } else if let Some(hashed) = pattern.strip_prefix("|1|") {
            found |= is_hash_of(hashed, name);
        } else {
            found |= glob(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes());
        }
    }
    found
}

/// `salt|HMAC-SHA1(salt, name)`, both in base64.
fn is_hash_of(hashed: &str, name: &str) -> bool {
    let parts = hashed
        .split_once('|')
        .and_then(|(salt, hash)| Some((STANDARD.decode(salt).ok()?, STANDARD.decode(hash).ok()?)));
    parts.is_some_and(|(salt, hash)| {
        Hmac::<Sha1>::new_from_slice(&salt)
            .is_ok_and(|mac| mac.chain_update(name).verify_slice(&hash).is_ok())
    })
}

/// `*` is any text, `?` any one character; linear but for one backtrack point.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G2sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn judge(text: &str, host: &str, port: u16, key: &str) -> Verdict {
        KnownHosts::read(text, host, port).judge(&parse_public_key_base64(key).unwrap())
    }

    #[test]
    fn only_a_key_on_record_is_known() {
        let text = format!("# comment\nJump.example.com,10.0.0.1 ssh-ed25519 {A} me@home\n");
        assert_eq!(judge(&text, "jump.example.com", 22, A), Verdict::Known);
        assert_eq!(judge(&text, "10.0.0.1", 22, A), Verdict::Known);
        assert_eq!(judge(&text, "jump.example.com", 22, B), Verdict::Changed { line: 2 });
        assert_eq!(judge(&text, "jump.example.com", 2222, A), Verdict::Unknown);
        assert_eq!(judge("", "jump.example.com", 22, A), Verdict::Unknown);
        assert_eq!(
            judge("jump.example.com ssh-ed25519 garbage", "jump.example.com", 22, A),
            Verdict::Unknown
        );
    }

    #[test]
    fn ports_patterns_exclusions_and_revocations_count() {
        let text = format!(
            "[*.example.com]:2222,![bad.example.com]:2222 ssh-ed25519 {A}\n@revoked * ssh-ed25519 {B}\n\
             @cert-authority * ssh-ed25519 {B}\n"
        );
        assert_eq!(judge(&text, "good.example.com", 2222, A), Verdict::Known);
        assert_eq!(judge(&text, "bad.example.com", 2222, A), Verdict::Unknown);
        assert_eq!(judge(&text, "good.example.com", 2222, B), Verdict::Revoked);
    }

    #[test]
    fn hashed_names_are_found() {
        let salt = [7u8; 20];
        let mac = Hmac::<Sha1>::new_from_slice(&salt).unwrap().chain_update("[jump]:2200");
        let hash = STANDARD.encode(mac.finalize().into_bytes());
        let text = format!("|1|{}|{hash} ssh-ed25519 {A}", STANDARD.encode(salt));
        assert_eq!(judge(&text, "jump", 2200, A), Verdict::Known);
        assert_eq!(judge(&text, "other", 2200, A), Verdict::Unknown);
    }

    #[test]
    fn the_kinds_on_record_are_asked_for_first() {
        let offered = [
            Algorithm::Rsa { hash: None },
            Algorithm::Rsa { hash: Some(russh::keys::HashAlg::Sha256) },
            Algorithm::Ed25519,
        ];
        let known = KnownHosts::read(&format!("jump ssh-ed25519 {A}"), "jump", 22);
        let order = known.preferred_algorithms(&offered);
        assert_eq!((order.len(), &order[0]), (2, &Algorithm::Ed25519));
    }
}
