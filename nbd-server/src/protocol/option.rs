//! Reads the data of options. What is wrong with it becomes a refusal, and the next option is read as ever.
//!
//! Owns their bytes and limits. What an option does is for `handshake.rs`.

use super::constants::{REP_ERR_INVALID, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN};
use super::fields::{Fields, string};

/// More queries than this in one option are refused.
pub const QUERIES_MAX: usize = 256;

/// An error reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The type of the reply.
    pub kind: u32,
    /// The message for people.
    pub message: &'static str,
}

impl Refusal {
    /// The option is malformed, or comes at the wrong time.
    pub fn invalid(message: &'static str) -> Self {
        Self { kind: REP_ERR_INVALID, message }
    }

    /// There is no such export.
    pub fn unknown_export() -> Self {
        Self { kind: REP_ERR_UNKNOWN, message: "there is no export of this name" }
    }
}

/// The data of INFO and GO.
///
/// ```text
///  size  field
///     4  name length
///     n  name
///     2  number of requests
///  2 each  requested information
/// ```
pub struct InfoOption<'a> {
    /// The export that is asked for.
    pub name: &'a str,
    requests: &'a [u8],
}

impl<'a> InfoOption<'a> {
    /// Reads the data.
    pub fn parse(data: &'a [u8]) -> Result<Self, Refusal> {
        let malformed = Refusal::invalid("the lengths in this option contradict its own length");
        let mut fields = Fields(data);
        let name = length_and_bytes(&mut fields).ok_or(malformed)?;
        let count = fields.u16().ok_or(malformed)?;
        let requests = fields.0;
        if requests.len() != 2 * usize::from(count) {
            return Err(malformed);
        }
        Ok(Self { name: export_name(name)?, requests })
    }

    /// Whether this information is asked for. What is not known is ignored, as the spec says.
    pub fn asks_for(&self, information: u16) -> bool {
        self.requests.chunks_exact(2).any(|request| request == information.to_be_bytes())
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
///
/// ```text
///  size  field
///     4  name length
///     n  name
///     4  number of queries
///        each query: 4 length, n text
/// ```
pub struct ContextOption<'a> {
    /// The export that is asked about.
    pub name: &'a str,
    /// The queries, each with a namespace.
    pub queries: Vec<&'a str>,
}

impl<'a> ContextOption<'a> {
    /// Reads the data.
    pub fn parse(data: &'a [u8]) -> Result<Self, Refusal> {
        let malformed = Refusal::invalid("the lengths in this option contradict its own length");
        let mut fields = Fields(data);
        let name = length_and_bytes(&mut fields).ok_or(malformed)?;
        let count = fields.u32().ok_or(malformed)? as usize;
        if count > fields.0.len() / 4 {
            return Err(malformed);
        }
        if count > QUERIES_MAX {
            return Err(Refusal { kind: REP_ERR_TOO_BIG, message: "there are too many queries" });
        }
        let mut texts = Vec::with_capacity(count);
        for _ in 0..count {
            texts.push(length_and_bytes(&mut fields).ok_or(malformed)?);
        }
        if !fields.0.is_empty() {
            return Err(malformed);
        }
        let queries = texts.into_iter().map(query).collect::<Result<_, _>>()?;
        Ok(Self { name: export_name(name)?, queries })
    }
}

/// `bytes` as the name of an export.
///
/// The spec limits every string to 4096 bytes, so a longer one is invalid, and not merely too big for us.
pub fn export_name(bytes: &[u8]) -> Result<&str, Refusal> {
    string(bytes).ok_or(Refusal::invalid("a name must be UTF-8 without NUL, at most 4096 bytes long"))
}

fn query(bytes: &[u8]) -> Result<&str, Refusal> {
    let text = string(bytes)
        .ok_or(Refusal::invalid("a query must be UTF-8 without NUL, at most 4096 bytes long"))?;
    match text.find(':') {
        None | Some(0) => Err(Refusal::invalid("a query must begin with a namespace and a colon")),
        Some(_) => Ok(text),
    }
}

fn length_and_bytes<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let length = fields.u32()?;
    fields.bytes(usize::try_from(length).ok()?)
}
