//! Who a service is: the server's half of the check that [`crate::dial`] makes.

use tonic::{Request, Response, Status};

use crate::VERSION;
use crate::token::Token;
use crate::v1::identity_server::Identity;
use crate::v1::{IdentifyRequest, IdentifyResponse};

/// Answers `Identify` for a service.
pub struct Identified {
    /// "source-svc" or "writer-svc".
    pub service: &'static str,
    /// The token the service demands, if any.
    pub token: Option<Token>,
}

#[tonic::async_trait]
impl Identity for Identified {
    async fn identify(
        &self,
        request: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        let nonce = request.into_inner().nonce;
        if !(16..=64).contains(&nonce.len()) {
            return Err(Status::invalid_argument("nonce must have 16 to 64 bytes"));
        }
        let proof = self
            .token
            .as_ref()
            .map(|token| token.prove(&nonce, self.service, VERSION))
            .unwrap_or_default();
        Ok(Response::new(IdentifyResponse {
            service: self.service.to_owned(),
            version: VERSION.to_owned(),
            proof,
        }))
    }
}
