//! Bearer tokens: one that is given, or those of OAuth2 client credentials.
//!
//! A token is asked for when there is none, when the one at hand is about to
//! expire, and when the catalog has refused it; by one request at a time,
//! whoever waits for it.

use std::time::{Duration, Instant};

use proto::v1::RestCatalog;
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::failure::{Failure, Login, Refusal};

/// A token is renewed so long before its end, or at four fifths of its life.
const BEFORE: Duration = Duration::from_secs(300);
/// What is asked for where nothing is configured, as other clients do.
const SCOPE: &str = "catalog";

/// Where tokens come from.
pub struct OAuth {
    client: Option<Credentials>,
    held: Mutex<Option<Held>>,
}

/// OAuth2 client credentials.
struct Credentials {
    uri: Url,
    /// Some servers know a client by its secret alone.
    id: Option<String>,
    secret: String,
    scope: String,
}

/// A token at hand.
struct Held {
    token: String,
    /// `None`: until it is refused.
    renew_at: Option<Instant>,
}

/// The answer of a token endpoint.
#[derive(Deserialize)]
struct Issued {
    access_token: String,
    expires_in: Option<u64>,
}

impl OAuth {
    /// As configured; `base` is the catalog's address. A given token serves
    /// until it is refused.
    pub fn new(rest: &RestCatalog, base: &str) -> Result<Self, String> {
        let client = match rest.credential.as_str() {
            "" => None,
            credential => {
                let (id, secret) = match credential.split_once(':') {
                    Some((id, secret)) => (Some(id.to_owned()), secret),
                    None => (None, credential),
                };
                let uri = match rest.oauth2_uri.as_str() {
                    "" => format!("{base}/v1/oauth/tokens"),
                    uri => uri.to_owned(),
                };
                let parsed = Url::parse(&uri).map_err(|e| format!("oauth2_uri is no URL: {e}"))?;
                if !["http", "https"].contains(&parsed.scheme()) {
                    return Err("oauth2_uri begins with neither http:// nor https://".into());
                }
                let scope = if rest.scope.is_empty() { SCOPE } else { rest.scope.as_str() };
                Some(Credentials {
                    uri: parsed,
                    id,
                    secret: secret.to_owned(),
                    scope: scope.to_owned(),
                })
            }
        };
        let given = (!rest.token.is_empty()).then(|| rest.token.clone());
        let held = given.map(|token| Held { token, renew_at: None });
        Ok(OAuth { client, held: Mutex::new(held) })
    }

    /// The token to send, `None`: none is configured. `refused` is one that the
    /// catalog no longer takes.
    pub async fn token(
        &self,
        http: &reqwest::Client,
        patience: Duration,
        refused: Option<&str>,
    ) -> Result<Option<String>, Failure> {
        let mut held = self.held.lock().await;
        let Some(client) = &self.client else {
            return Ok(held.as_ref().map(|held| held.token.clone()));
        };
        let is_good = |held: &Held| {
            Some(held.token.as_str()) != refused
                && held.renew_at.is_none_or(|renew_at| Instant::now() < renew_at)
        };
        if let Some(held) = held.as_ref().filter(|held| is_good(held)) {
            return Ok(Some(held.token.clone()));
        }
        let issued = client.ask(http, patience).await.map_err(|failure| Failure::Login {
            uri: client.uri.as_str().to_owned(),
            failure: Box::new(failure),
        })?;
        let life = issued.expires_in.map(Duration::from_secs);
        let renew_at = life.map(|life| Instant::now() + life - BEFORE.min(life / 5));
        *held = Some(Held { token: issued.access_token.clone(), renew_at });
        Ok(Some(issued.access_token))
    }

    /// Whether a token that is refused can be exchanged for another.
    pub fn can_renew(&self) -> bool {
        self.client.is_some()
    }
}

impl Credentials {
    fn form(&self) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(id) = &self.id {
            form.append_pair("client_id", id);
        }
        form.append_pair("client_secret", &self.secret).append_pair("scope", &self.scope);
        form.finish()
    }

    async fn ask(&self, http: &reqwest::Client, patience: Duration) -> Result<Issued, Failure> {
        let request = http
            .post(self.uri.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(self.form())
            .timeout(patience);
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        if status.is_server_error() {
            return Err(Failure::Unanswered(format!("the answer is {status}").into()));
        }
        if !status.is_success() {
            return Err(Failure::Refused(Refusal::new(status.as_u16(), &body, Login::Token)));
        }
        serde_json::from_slice(&body).map_err(|_| {
            // Not shown: it may hold a token.
            let message = "it holds no access_token".to_owned();
            let (status, kind) = (status.as_u16(), String::new());
            Failure::Refused(Refusal { status, kind, message, login: Login::Token })
        })
    }
}

// The secrets stay inside.
impl std::fmt::Debug for OAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OAuth").finish_non_exhaustive()
    }
}
