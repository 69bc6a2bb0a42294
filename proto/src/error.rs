//! A fault: what failed on what, what to do, and whether a retry can help.
//!
//! Libraries have their own `thiserror` enums; at a service's edge each turns
//! into a [`Fault`], which travels as a gRPC status with an [`ErrorDetail`] in
//! its details and comes out the other end the same.

use std::fmt;

use prost::Message;
use tonic::{Code, Status};

use crate::metrics;
use crate::v1::{ErrorCode, ErrorDetail};

/// An error as a user meets it.
///
/// `Display` is the message and, when there is one, the remedy on a second
/// line. The message says what failed and on what, including the foreign
/// system's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of thing went wrong.
    pub code: ErrorCode,
    /// What failed, on what.
    pub message: String,
    /// What to do about it; may be empty.
    pub remedy: String,
    /// Whether trying the same again may succeed.
    pub transient: bool,
    /// The address of the writer that cannot be used; empty: none is to blame.
    pub writer: String,
}

impl Fault {
    /// A fault with its code's usual retryability and no remedy.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (_, transient) = code_table(code);
        let (message, remedy, writer) = (message.into(), String::new(), String::new());
        Fault { code, message, remedy, transient, writer }
    }

    /// The same with what to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The same, with the writer that is to blame.
    pub fn at_writer(mut self, address: &str) -> Self {
        self.writer = address.to_owned();
        self
    }

    /// The same with a message that first says what was being done.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  → {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// The one table: gRPC status and usual retryability of each code.
fn code_table(code: ErrorCode) -> (Code, bool) {
    use ErrorCode as E;
    match code {
        E::InvalidConfig => (Code::InvalidArgument, false),
        E::Authentication => (Code::Unauthenticated, false),
        E::Unreachable => (Code::Unavailable, true),
        E::Tls => (Code::FailedPrecondition, false),
        E::NotFound => (Code::NotFound, false),
        E::Permission => (Code::PermissionDenied, false),
        E::SchemaChanged => (Code::FailedPrecondition, false),
        E::RowTooLarge => (Code::OutOfRange, false),
        E::Unrepresentable => (Code::OutOfRange, false),
        E::BadData => (Code::DataLoss, false),
        E::DestinationFull => (Code::ResourceExhausted, false),
        E::DestinationPermission => (Code::PermissionDenied, false),
        E::Destination => (Code::Internal, false),
        E::IncompleteStream => (Code::Aborted, true),
        E::LoadGone => (Code::FailedPrecondition, false),
        E::Unavailable => (Code::Unavailable, true),
        E::Conflict => (Code::Aborted, true),
        E::SourceTransient => (Code::Unavailable, true),
        E::Source => (Code::Internal, false),
        E::Cancelled => (Code::Cancelled, false),
        E::Unspecified | E::Internal => (Code::Internal, false),
    }
}

impl From<Fault> for Status {
    /// A call is answered with it: it counts.
    fn from(fault: Fault) -> Self {
        metrics::failed(fault.code);
        let (code, _) = code_table(fault.code);
        let detail = ErrorDetail {
            code: fault.code.into(),
            remedy: fault.remedy,
            transient: fault.transient,
            writer: fault.writer,
        };
        Status::with_details(code, fault.message, detail.encode_to_vec().into())
    }
}

impl From<Status> for Fault {
    /// A status without our details came from the transport or from another
    /// implementation: its code decides.
    fn from(status: Status) -> Self {
        if let Ok(detail) = ErrorDetail::decode(status.details())
            && detail.code() != ErrorCode::Unspecified
        {
            return Fault {
                code: detail.code(),
                message: status.message().to_owned(),
                remedy: detail.remedy,
                transient: detail.transient,
                writer: detail.writer,
            };
        }
        let (code, transient) = match status.code() {
            Code::Unavailable => (ErrorCode::Unavailable, true),
            Code::Cancelled => (ErrorCode::Cancelled, false),
            Code::Unauthenticated => (ErrorCode::Authentication, false),
            Code::InvalidArgument => (ErrorCode::InvalidConfig, false),
            // What the transport says when the peer's process goes away.
            Code::Unknown | Code::Internal if is_connection_loss(&status) => {
                (ErrorCode::Unavailable, true)
            }
            _ => (ErrorCode::Internal, false),
        };
        let mut message = status.message().to_owned();
        if message.is_empty() {
            message = format!("{:?}", status.code());
        }
        Fault { transient, ..Fault::new(code, message) }
    }
}

fn is_connection_loss(status: &Status) -> bool {
    let text = status.message();
    ["h2 protocol error", "transport error", "connection", "stream closed", "broken pipe"]
        .iter()
        .any(|mark| text.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_comes_out_of_its_status_unchanged() {
        let codes = (0..).map_while(|n| ErrorCode::try_from(n).ok()).skip(1);
        for code in codes {
            let fault = Fault::new(code, "reading public.t: gone").remedy("run discover again");
            assert_eq!(Fault::from(Status::from(fault.clone())), fault);
            let fault = fault.at_writer("http://host:5005");
            assert_eq!(Fault::from(Status::from(fault.clone())), fault);
        }
    }

    #[test]
    fn a_foreign_status_keeps_its_words_and_its_retryability() {
        let fault = Fault::from(Status::unavailable("no route"));
        assert_eq!((fault.code, fault.transient), (ErrorCode::Unavailable, true));
        assert_eq!(fault.to_string(), "no route");
        assert!(!Fault::from(Status::unimplemented("x")).transient);
    }
}
