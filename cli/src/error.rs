//! What goes wrong, in two lines: what it is, and what to do.
//!
//! Owns the shape of errors on a terminal, in JSON and over HTTP. Their kinds and exit codes are `exit.rs`'s.

use crate::exit::Kind;
use crate::views::ErrorView;
use rustix::io::Errno;
use std::borrow::Cow;
use std::fmt;
use vellum_engine::error::{Error as EngineError, ErrorKind};

/// What to do where the system does not let us.
const MAY_NOT: &str = "check who may read and write there, and whether it is mounted read-only";

/// A result of this program.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that a person or a script can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: Cow<'static, str>,
    hint: Cow<'static, str>,
}

impl Error {
    /// An error with the hint that its kind has.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), hint: kind.hint().into() }
    }

    /// The same error with a better hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// What of the operating system went wrong, and on what.
    pub fn io(what: impl fmt::Display, cause: &std::io::Error) -> Self {
        use std::io::ErrorKind as Cause;
        let kind = match cause.kind() {
            Cause::NotFound => Kind::NotFound,
            Cause::AlreadyExists => Kind::Exists,
            Cause::StorageFull | Cause::QuotaExceeded | Cause::FileTooLarge => Kind::NoSpace,
            Cause::PermissionDenied | Cause::ReadOnlyFilesystem => Kind::Failure,
            Cause::AddrInUse => Kind::InUse,
            _ => Kind::Io,
        };
        let hint = match kind {
            Kind::NotFound => "check the path",
            Kind::Exists => "choose another path, or remove what is there",
            Kind::Failure => MAY_NOT,
            other => other.hint(),
        };
        Self::new(kind, format!("{what}: {cause}")).hint(hint)
    }

    /// The kind, which gives the exit code.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn hint_text(&self) -> &str {
        &self.hint
    }

    /// As JSON shows it.
    pub fn view(&self) -> ErrorView {
        ErrorView {
            kind: self.kind,
            exit_code: self.kind.code(),
            message: self.message.clone().into_owned(),
            hint: self.hint.clone().into_owned(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line each, whatever a message quotes.
        let line = |text: &str| text.replace(['\n', '\r'], " ");
        write!(out, "error: {}\nhint: {}", line(&self.message), line(&self.hint))
    }
}

impl std::error::Error for Error {}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        let message = match error.place() {
            Some(place) => format!("{} ({place})", error.message()),
            None => error.message().to_owned(),
        };
        // The engine passes on what the system said; what it forbids is no failure of the disk.
        let is_forbidden = [Errno::ACCESS, Errno::PERM, Errno::ROFS].into_iter().any(|errno| {
            error.kind() == ErrorKind::Io && message.contains(&std::io::Error::from(errno).to_string())
        });
        match is_forbidden {
            true => Self::new(Kind::Failure, message).hint(MAY_NOT),
            false => Self::new(error.kind().into(), message),
        }
    }
}

impl From<ErrorView> for Error {
    fn from(view: ErrorView) -> Self {
        Self::new(view.kind, view.message).hint(view.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_engine::error::Place;
    use vellum_engine::units::VolumeId;

    #[test]
    fn an_error_is_two_lines() {
        let error = Error::new(Kind::NotFound, "no 'a\nb'").hint("look");
        assert_eq!(error.to_string(), "error: no 'a b'\nhint: look");
    }

    #[test]
    fn an_error_of_the_engine_keeps_kind_and_place() {
        let error = EngineError::damaged("checksum mismatch").at(Place::Volume(VolumeId(3)));
        let error = Error::from(error);
        assert_eq!((error.kind(), error.message()), (Kind::Damaged, "checksum mismatch (volume 3)"));
        assert!(error.hint_text().contains("pool check"));
    }

    #[test]
    fn an_error_survives_the_way_through_json() {
        let error = Error::new(Kind::InUse, "taken").hint("wait");
        let json = serde_json::to_string(&error.view()).unwrap();
        assert_eq!(json, r#"{"kind":"in-use","exit_code":5,"message":"taken","hint":"wait"}"#);
        assert_eq!(Error::from(serde_json::from_str::<ErrorView>(&json).unwrap()), error);
    }
}
