//! Config files under `--encryption-key`: a JSON string of base64 of nonce ‖
//! ciphertext ‖ tag, AES-256-GCM, the key being SHA-256 of the given text.

use std::path::Path;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, KeyInit, Nonce};
use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

use super::ConfigError;

const NONCE_BYTES: usize = 12;

/// The plain text of an encrypted file's JSON string.
pub fn decrypt(path: &Path, encoded: &str, key: &str) -> Result<String, ConfigError> {
    let refuse = |problem, remedy| ConfigError::Decrypt { path: path.to_owned(), problem, remedy };
    let damaged = || {
        refuse(
            "it is a JSON string but not the base64 of an encrypted file",
            "encrypt the file again, or use the plain one",
        )
    };
    let sealed = BASE64_STANDARD.decode(encoded.trim()).map_err(|_| damaged())?;
    let (nonce, ciphertext) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(damaged)?;
    let nonce = <&Nonce<Aes256Gcm>>::try_from(nonce).map_err(|_| damaged())?;
    let cipher = Aes256Gcm::new(&Sha256::digest(key.as_bytes()));
    let plain = cipher.decrypt(nonce, ciphertext).map_err(|_| {
        refuse(
            "the --encryption-key does not open it: it was encrypted with another key, or is damaged",
            "give the key that the file was encrypted with",
        )
    })?;
    String::from_utf8(plain).map_err(|_| damaged())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The encrypted form of `plain`, as a file holds it.
    pub(crate) fn encrypted(plain: &str, key: &str) -> String {
        let nonce = [7u8; NONCE_BYTES];
        let cipher = Aes256Gcm::new(&Sha256::digest(key.as_bytes()));
        let nonce_ref = <&Nonce<Aes256Gcm>>::try_from(&nonce[..]).unwrap();
        let mut sealed = nonce.to_vec();
        sealed.extend(cipher.encrypt(nonce_ref, plain.as_bytes()).unwrap());
        format!("\"{}\"", BASE64_STANDARD.encode(sealed))
    }

    #[test]
    fn what_was_encrypted_opens_with_its_key_only() {
        let file = encrypted("{\"host\": \"ä\"}", "open sesame");
        let inner = file.trim_matches('"');
        let path = Path::new("source.json");
        assert_eq!(decrypt(path, inner, "open sesame").unwrap(), "{\"host\": \"ä\"}");
        let wrong = decrypt(path, inner, "sesame").unwrap_err().to_string();
        assert!(wrong.contains("does not open it"), "{wrong}");
        for damaged in ["", "AAAA", "no base64!"] {
            assert!(decrypt(path, damaged, "k").is_err(), "{damaged}");
        }
    }
}
