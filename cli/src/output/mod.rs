//! What goes to standard output and standard error.
//!
//! Owns where things go: results, as text or JSON, to standard output; notes for people and errors to standard error.
//! Files: `text.rs` (views as text), `dm.rs` and `dm_live.rs` (those of dm-thin),
//! `table.rs` (columns).

pub mod dm;
pub mod dm_live;
pub mod table;
pub mod text;

use crate::error::{Error, Result};
use crate::exit::Kind;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How this run prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON or text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: as one line of JSON, or as the text that `text` makes of it.
    pub fn result<T: Serialize>(self, view: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let text = if self.json {
            serde_json::to_string(view)
                .map_err(|cause| Error::new(Kind::Failure, format!("cannot write JSON: {cause}")))?
        } else {
            text(view)
        };
        if text.is_empty() {
            return Ok(());
        }
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Writes bytes that are neither: completions, the manual.
    pub fn raw(self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // Whoever closed the other end has read enough.
            Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|cause| Error::io("cannot write the result", &cause)),
        }
    }

    /// Tells people something beside the result.
    pub fn note(self, text: &str) {
        if !self.json {
            to_stderr(text);
        }
    }

    /// Tells an error: two lines, or one JSON object.
    pub fn error(self, error: &Error) {
        match serde_json::to_string(&error.view()) {
            Ok(json) if self.json => to_stderr(&json),
            _ => to_stderr(&error.to_string()),
        }
    }

    /// Whether somebody watches who would like to see progress.
    pub fn shows_progress(self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }
}

fn to_stderr(text: &str) {
    // If that fails there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}
