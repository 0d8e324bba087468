//! Owns the ways in which a machine fails to run a script to its end.

use std::fmt;

/// Why there is no outcome. A script that ran and failed is none of these: it has an outcome with its status.
#[derive(Debug)]
pub enum Error {
    /// Something is not installed or cannot be had; `tests/lab/install` helps.
    Missing(String),
    /// The script asks for what cannot be given.
    Script(String),
    /// Files or processes of the host could not be handled.
    Host(String),
    /// The time limit passed and the machine was killed.
    Hang(Remains),
    /// The kernel panicked; an oops counts as one.
    Panic(Remains),
    /// The machine ended without a status, for another reason.
    Lost(Remains),
}

/// What a machine left that did not end well.
#[derive(Debug, Default)]
pub struct Remains {
    /// What the script printed until then.
    pub output: String,
    /// What the kernel and the emulator printed.
    pub console: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Missing(what) => write!(f, "the lab cannot start: {what} (tests/lab/install, as root)"),
            Error::Script(what) => write!(f, "the script cannot run: {what}"),
            Error::Host(what) => write!(f, "the lab failed on its host: {what}"),
            Error::Hang(remains) => write!(f, "the script hung and was killed at its time limit\n{remains}"),
            Error::Panic(remains) => write!(f, "the kernel panicked\n{remains}"),
            Error::Lost(remains) => write!(f, "the machine ended without a status\n{remains}"),
        }
    }
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "== output\n{}\n== end of the console\n{}",
            last(&self.output, 200),
            last(&self.console, 80)
        )
    }
}

impl std::error::Error for Error {}

impl From<Error> for String {
    fn from(error: Error) -> String {
        error.to_string()
    }
}

/// The last `count` lines of `text`.
fn last(text: &str, count: usize) -> &str {
    let start = text.trim_end().rmatch_indices('\n').nth(count - 1).map_or(0, |(at, _)| at + 1);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::last;

    #[test]
    fn the_last_lines_are_kept() {
        assert_eq!(last("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last("a\nb", 2), "a\nb");
        assert_eq!(last("", 2), "");
    }
}
