//! Bearer tokens: a service that has one refuses every call without it.

use std::fmt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::error::Fault;
use crate::telemetry::context;
use crate::v1::ErrorCode;

/// A shared secret between services. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Any visible ASCII without spaces; `None` for an empty text.
    pub fn new(text: &str) -> Result<Option<Self>, Fault> {
        if text.is_empty() {
            return Ok(None);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Fault::new(
                ErrorCode::InvalidConfig,
                "the token must be visible ASCII without spaces",
            ));
        }
        Ok(Some(Token(text.to_owned())))
    }

    /// A fresh random token of 256 bits.
    pub fn random() -> Self {
        let bytes: [u8; 32] = rand::random();
        Token(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The secret itself, for the one place that sends it on.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// HMAC-SHA256 that shows knowledge of the token without sending it.
    pub fn prove(&self, nonce: &[u8], service: &str, version: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes())
            .expect("HMAC takes a key of any length");
        for part in [nonce, service.as_bytes(), b"\0", version.as_bytes()] {
            mac.update(part);
        }
        mac.finalize().into_bytes().to_vec()
    }
}

/// The token that was given as text, or the first line of a file.
pub fn given(text: &str, file: Option<&Path>) -> Result<Option<Token>, Fault> {
    let Some(path) = file.filter(|_| text.is_empty()) else { return Token::new(text) };
    let failed = |problem: &str| {
        let message = format!("reading the token file {}: {problem}", path.display());
        Fault::new(ErrorCode::InvalidConfig, message).remedy("correct --token-file")
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error.to_string()))?;
    match Token::new(text.trim())? {
        Some(token) => Ok(Some(token)),
        None => Err(failed("it is empty")),
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Server side: refuses calls without the token, comparing in constant time.
#[derive(Clone, Debug)]
pub struct RequireToken(pub Option<Token>);

impl Interceptor for RequireToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.0 else { return Ok(request) };
        let given = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        if bool::from(given.as_bytes().ct_eq(token.0.as_bytes())) {
            Ok(request)
        } else {
            Err(Fault::new(
                ErrorCode::Authentication,
                "the call's bearer token is missing or wrong",
            )
            .remedy("give both sides the same --token")
            .into())
        }
    }
}

/// Client side: adds the token to each call, and the trace that it belongs to.
#[derive(Clone)]
pub struct AttachToken(Option<MetadataValue<Ascii>>);

impl AttachToken {
    /// Attaches nothing when there is no token.
    pub fn new(token: Option<&Token>) -> Self {
        AttachToken(token.map(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {}", token.0).parse().expect("a token is visible ASCII");
            value.set_sensitive(true);
            value
        }))
    }
}

impl Interceptor for AttachToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        context::inject(request.metadata_mut());
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_token_passes() {
        let token = Token::random();
        let mut gate = RequireToken(Some(token.clone()));
        assert!(gate.call(Request::new(())).is_err());
        let with = |token: &Token| AttachToken::new(Some(token)).call(Request::new(())).unwrap();
        assert!(gate.call(with(&Token::random())).is_err());
        assert!(gate.call(with(&token)).is_ok());
        assert!(RequireToken(None).call(Request::new(())).is_ok());
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::random();
        assert!(!format!("{token:?}").contains(token.reveal()));
        assert!(Token::new("with space").is_err());
        assert_eq!(Token::new("").unwrap(), None);
    }
}
