//! The one table of exit codes: used by the program, its help, its manual and `docs/cli.md`.
//!
//! Owns names, numbers and their meaning. A number never changes its meaning; new ones go to the end.

use serde::{Deserialize, Serialize};
use std::fmt;
use vellum_engine::error::ErrorKind;

/// How a command went wrong: what a script can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// Anything that has no code of its own.
    Failure,
    /// The command line is wrong.
    Usage,
    /// There is no such pool, volume, snapshot or file.
    NotFound,
    /// The name is taken.
    Exists,
    /// Another process has the pool.
    InUse,
    /// The pool or its host has no space left.
    NoSpace,
    /// What is on disk is not what was written there.
    Damaged,
    /// The file is no pool, or this program cannot do it.
    Unsupported,
    /// A name, size or range is not possible.
    Invalid,
    /// The two files are not of one pool, or not of one state.
    Mismatch,
    /// A hold, a client or a running operation keeps the object.
    Busy,
    /// The pool takes no writes since an earlier failure.
    ReadOnly,
    /// A limit of the format was reached.
    Limit,
    /// The disk refused or failed an operation.
    Io,
}

/// Every kind with its exit code, its name in JSON, and its meaning. Code 0 is success.
pub const TABLE: [(Kind, u8, &str, &str); 14] = [
    (Kind::Failure, 1, "failure", "anything that has no code of its own"),
    (Kind::Usage, 2, "usage", "the command line is wrong"),
    (Kind::NotFound, 3, "not-found", "there is no such pool, volume, snapshot or file"),
    (Kind::Exists, 4, "exists", "the name is taken"),
    (Kind::InUse, 5, "in-use", "another process has the pool"),
    (Kind::NoSpace, 6, "no-space", "the pool or its host has no space left"),
    (Kind::Damaged, 7, "damaged", "what is on disk is not what was written there"),
    (Kind::Unsupported, 8, "unsupported", "the file is no pool, or this program cannot do it"),
    (Kind::Invalid, 9, "invalid", "a name, size or range is not possible"),
    (Kind::Mismatch, 10, "mismatch", "the two files are not of one pool, or not of one state"),
    (Kind::Busy, 11, "busy", "a hold, a client or a running operation keeps the object"),
    (Kind::ReadOnly, 12, "read-only", "the pool takes no writes since an earlier failure"),
    (Kind::Limit, 13, "limit", "a limit of the format was reached"),
    (Kind::Io, 14, "io", "the disk refused or failed an operation"),
];

impl Kind {
    fn row(self) -> &'static (Self, u8, &'static str, &'static str) {
        TABLE.iter().find(|(kind, ..)| *kind == self).expect("every kind has its row; a test holds this")
    }

    /// The exit code.
    pub fn code(self) -> u8 {
        self.row().1
    }

    /// The name, as in JSON.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// What to do about it where nothing better is known.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Failure => "see the message; `vellum pool status` tells whether the pool is well",
            Self::Usage => "`--help` tells what can be given",
            Self::NotFound => "`vellum volume list` and `vellum snapshot list` show what there is",
            Self::Exists => "choose another name, or delete what has it",
            Self::InUse => "stop the process that has the pool, or wait until it is done",
            Self::NoSpace => "free space on the host or delete volumes or snapshots, then try again",
            Self::Damaged => "`vellum pool check` tells what is affected; keep a copy of both files",
            Self::Unsupported => "check that --pool names a pool, made by this version or an older one",
            Self::Invalid => "change the name or size and try again",
            Self::Mismatch => "bring together the data and metadata file that belong to one pool",
            Self::Busy => "release what keeps it, then try again",
            Self::ReadOnly => "`vellum pool status` tells the failure; `vellum pool check` what is affected",
            Self::Limit => "ask for less",
            Self::Io => "look into the log of the host; the disk may be failing",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl From<ErrorKind> for Kind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Io => Self::Io,
            ErrorKind::NoSpace => Self::NoSpace,
            ErrorKind::Damaged => Self::Damaged,
            ErrorKind::Mismatch => Self::Mismatch,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::InUse => Self::InUse,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Exists => Self::Exists,
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Busy => Self::Busy,
            ErrorKind::ReadOnly => Self::ReadOnly,
            ErrorKind::Limit => Self::Limit,
            _ => Self::Failure,
        }
    }
}

/// The table as help and manual show it.
pub fn help() -> String {
    let row =
        |(_, code, name, meaning): &(Kind, u8, &str, &str)| format!("\n  {code:>2}  {name:<12} {meaning}");
    let rows: String = TABLE.iter().map(row).collect();
    format!("Exit codes:\n   0  ok           it is done{rows}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/cli.md");

    #[test]
    fn codes_and_names_are_told_apart() {
        for (index, (kind, code, name, _)) in TABLE.iter().enumerate() {
            assert_eq!(usize::from(*code), index + 1);
            assert_eq!(*kind as usize, index);
            assert_eq!(serde_json::to_value(kind).unwrap(), *name);
        }
    }

    #[test]
    fn the_document_has_the_same_table() {
        let rows = DOCUMENT.lines().skip_while(|line| !line.starts_with("| code "));
        let rows: Vec<&str> = rows.take_while(|line| line.starts_with('|')).skip(2).collect();
        let row = |code: u8, name: &str, meaning: &str| format!("| {code} | `{name}` | {meaning} |");
        let table = TABLE.iter().map(|(_, code, name, meaning)| row(*code, name, meaning));
        let expected: Vec<String> = [row(0, "ok", "it is done")].into_iter().chain(table).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn every_kind_of_the_engine_has_its_own_kind() {
        assert_eq!(Kind::from(ErrorKind::ReadOnly), Kind::ReadOnly);
        assert_eq!(Kind::from(ErrorKind::Busy), Kind::Busy);
        assert_eq!(Kind::from(ErrorKind::Io).code(), 14);
    }
}
