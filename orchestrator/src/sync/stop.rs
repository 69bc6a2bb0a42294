//! Why a sync ends before it is complete, and what its user is told.

use proto::Fault;
use proto::v1::ErrorCode;

/// Flags whose values are secrets.
const SECRET_FLAGS: [&str; 2] = ["--token", "--encryption-key"];

/// What ended a step.
#[derive(Debug)]
pub enum Stop {
    /// SIGINT, SIGTERM or --timeout.
    Interrupted,
    /// The load's snapshot is gone: what is not fully staged starts again
    /// under a new one.
    LoadGone(Fault),
    /// Anything else.
    Failed(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        match fault.code {
            ErrorCode::LoadGone => Stop::LoadGone(fault),
            _ => Stop::Failed(fault),
        }
    }
}

impl Stop {
    /// The one message for the user: the first cause, what to do about it,
    /// what is kept, and how to go on.
    pub fn into_fault(self, committed: usize, streams: usize) -> Fault {
        let again = format!("continue with: {}", command_line(std::env::args()));
        let kept = match committed {
            0 => String::new(),
            _ => format!(" ({committed} of {streams} streams are committed and stay)"),
        };
        match self {
            Stop::Interrupted => {
                let message = format!("the sync was stopped before it was complete{kept}");
                Fault::new(ErrorCode::Cancelled, message).remedy(again)
            }
            Stop::LoadGone(fault) | Stop::Failed(fault) => {
                let remedy = match fault.remedy.as_str() {
                    "" => again,
                    remedy => format!("{remedy}\n  → then {again}"),
                };
                Fault { message: format!("{}{kept}", fault.message), remedy, ..fault }
            }
        }
    }
}

/// The command as a shell takes it, without its secrets.
fn command_line(args: impl Iterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut hide = false;
    for arg in args {
        let word = match SECRET_FLAGS.iter().find(|flag| arg.starts_with(**flag)) {
            _ if std::mem::take(&mut hide) => "***".to_owned(),
            Some(flag) if arg.len() > flag.len() => format!("{flag}=***"),
            Some(_) => {
                hide = true;
                arg
            }
            None => quoted(&arg),
        };
        words.push(word);
    }
    words.join(" ")
}

/// One word of a shell.
pub fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !arg.is_empty() && arg.chars().all(plain) {
        true => arg.to_owned(),
        false => format!("'{}'", arg.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(args: &[&str]) -> String {
        command_line(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn the_command_can_be_pasted_and_shows_no_secret() {
        let line = shown(&["./x", "sync", "--config", "my dir/it's.json", "--no-save", ""]);
        assert_eq!(line, r"./x sync --config 'my dir/it'\''s.json' --no-save ''");
        let line = shown(&["x", "--token", "hunter2", "--encryption-key=hunter2", "--state", "s"]);
        assert_eq!(line, "x --token *** --encryption-key=*** --state s");
    }

    #[test]
    fn a_failure_keeps_its_cause_and_says_how_to_go_on() {
        let fault = Fault::new(ErrorCode::DestinationFull, "no space left").remedy("free some");
        let told = Stop::from(fault).into_fault(2, 5);
        assert_eq!(told.code, ErrorCode::DestinationFull);
        assert!(told.message.starts_with("no space left (2 of 5"), "{told}");
        assert!(told.remedy.starts_with("free some\n  → then continue with: "), "{told}");
        let told = Stop::Interrupted.into_fault(0, 5);
        assert_eq!(told.message, "the sync was stopped before it was complete");
        assert!(matches!(Stop::from(Fault::new(ErrorCode::LoadGone, "")), Stop::LoadGone(_)));
    }
}
