//! The handshake: client flags, then options, until an export is agreed or the connection must be closed.
//!
//! Owns what was agreed so far, and the limits on what a client may send before it may use an export. Bytes may come
//! split anywhere: a message is looked at when it is whole. Read next: `option.rs` for what options carry.

use super::constants::*;
use super::fields::Fields;
use super::option::{ContextOption, InfoOption, Refusal, export_name};
use super::option_reply::OptionReplies;
use super::step::{CloseReason, Limits, Session, Step};
use super::{Context, Export, Exports, meta_context};
use std::mem;

const CLIENT_FLAGS_BYTES: usize = 4;
const OPTION_HEADER_BYTES: usize = 16;
/// What follows the answer to EXPORT_NAME unless the client wants no zeroes.
const ZEROES_BYTES: usize = 124;
/// When a client has had this much in answers, no further option is looked at: a long list, asked for again and again
/// without reading the answers, would pile up in memory.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Goes on, or ends in a session or in a reason to close.
type Outcome = Result<Option<Session>, CloseReason>;

/// What the next message is.
#[derive(Clone, Debug)]
enum Stage {
    ClientFlags,
    OptionHeader,
    OptionData { option: u32, length_bytes: u32 },
    Ended(CloseReason),
}

impl Stage {
    fn message_bytes(&self) -> usize {
        match self {
            Self::ClientFlags => CLIENT_FLAGS_BYTES,
            Self::OptionHeader => OPTION_HEADER_BYTES,
            Self::OptionData { length_bytes, .. } => *length_bytes as usize,
            Self::Ended(_) => 0,
        }
    }
}

/// The contexts that were set, and the export name that they were set for.
#[derive(Debug)]
struct Selection {
    name: String,
    contexts: Vec<Context>,
}

/// The server's side of a handshake.
#[derive(Debug)]
pub struct Handshake {
    limits: Limits,
    stage: Stage,
    /// The first bytes of a message that is not whole yet.
    partial: Vec<u8>,
    options: u32,
    answer_bytes: u64,
    no_zeroes: bool,
    structured_replies: bool,
    selection: Option<Selection>,
}

impl Handshake {
    /// A handshake with a client that just connected.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::ClientFlags,
            partial: Vec::new(),
            options: 0,
            answer_bytes: 0,
            no_zeroes: false,
            structured_replies: false,
            selection: None,
        }
    }

    // offset  size  field
    //      0     8  INIT_PASSWD
    //      8     8  IHAVEOPT
    //     16     2  handshake flags
    /// What the server sends first.
    pub fn greeting(&self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&INIT_PASSWD.to_be_bytes());
        bytes[8..16].copy_from_slice(&IHAVEOPT.to_be_bytes());
        bytes[16..].copy_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        bytes
    }

    /// Takes bytes as they come, split anywhere, and appends answers to `output`. Returns how many it consumed: all
    /// of them unless the handshake ended.
    pub fn receive(&mut self, input: &[u8], exports: &dyn Exports, output: &mut Vec<u8>) -> (usize, Step) {
        let mut rest = input;
        let step = loop {
            if let Stage::Ended(reason) = &self.stage {
                break Step::Close(reason.clone());
            }
            // Only bytes that came take memory, whatever length the client announced.
            let missing = self.stage.message_bytes().saturating_sub(self.partial.len());
            let (taken, behind) = rest.split_at(missing.min(rest.len()));
            self.partial.extend_from_slice(taken);
            rest = behind;
            if taken.len() < missing {
                break Step::Continue;
            }
            let message = mem::take(&mut self.partial);
            if let Some(session) = self.message(&message, exports, output) {
                break Step::Transmit(session);
            }
        };
        (input.len() - rest.len(), step)
    }

    fn message(&mut self, message: &[u8], exports: &dyn Exports, output: &mut Vec<u8>) -> Option<Session> {
        let outcome = match mem::replace(&mut self.stage, Stage::OptionHeader) {
            Stage::ClientFlags => self.client_flags(message),
            Stage::OptionHeader => self.option_header(message),
            Stage::OptionData { option, .. } => {
                let before = output.len();
                let outcome = self.option(option, message, exports, output);
                self.answer_bytes += (output.len() - before) as u64;
                outcome
            }
            Stage::Ended(reason) => Err(reason),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(_)) => self.stage = Stage::Ended(CloseReason::Over),
            Err(ref reason) => self.stage = Stage::Ended(reason.clone()),
        }
        outcome.unwrap_or(None)
    }

    /// A client that does not know fixed newstyle is served too: it sends EXPORT_NAME and nothing else.
    fn client_flags(&mut self, message: &[u8]) -> Outcome {
        let flags = Fields(message).u32().unwrap_or(!0);
        if flags & !(FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES) != 0 {
            return Err(CloseReason::UnknownClientFlags(flags));
        }
        self.no_zeroes = flags & FLAG_C_NO_ZEROES != 0;
        Ok(None)
    }

    // offset  size  field
    //      0     8  IHAVEOPT
    //      8     4  option
    //     12     4  length of the data
    fn option_header(&mut self, message: &[u8]) -> Outcome {
        let mut fields = Fields(message);
        let (magic, option, length) = (fields.u64(), fields.u32(), fields.u32());
        let (magic, option, length_bytes) = (magic.unwrap_or(0), option.unwrap_or(0), length.unwrap_or(0));
        self.options = self.options.saturating_add(1);
        if magic != IHAVEOPT {
            return Err(CloseReason::BadOptionMagic(magic));
        }
        if length_bytes > self.limits.option_bytes_max {
            return Err(CloseReason::OptionTooLong { option, length_bytes });
        }
        if self.options > self.limits.options_max {
            return Err(CloseReason::TooManyOptions);
        }
        if self.answer_bytes > ANSWER_BYTES_MAX {
            return Err(CloseReason::TooManyAnswers);
        }
        self.stage = Stage::OptionData { option, length_bytes };
        Ok(None)
    }

    fn option(&mut self, option: u32, data: &[u8], exports: &dyn Exports, output: &mut Vec<u8>) -> Outcome {
        if option == OPT_EXPORT_NAME {
            return self.take_by_name(data, exports, output).map(Some);
        }
        let mut replies = OptionReplies::new(option, output);
        let mut agreed = None;
        let answered = match option {
            OPT_ABORT => Ok(()),
            OPT_LIST => list(data, exports, &mut replies),
            OPT_INFO => self.tell(data, exports, &mut replies).map(drop),
            OPT_GO => self.tell(data, exports, &mut replies).map(|session| agreed = Some(session)),
            OPT_STRUCTURED_REPLY => self.agree_on_structured_replies(data),
            OPT_LIST_META_CONTEXT => self.list_contexts(data, exports, &mut replies),
            OPT_SET_META_CONTEXT => self.set_contexts(data, exports, &mut replies),
            _ => Err(Refusal { kind: REP_ERR_UNSUP, message: "this server does not know the option" }),
        };
        match answered {
            Ok(()) => replies.acknowledge(),
            Err(refusal) => replies.refuse(refusal),
        }
        // "A server SHOULD ignore any data sent by the client" with ABORT "rather than rejecting the request".
        if option == OPT_ABORT { Err(CloseReason::Aborted) } else { Ok(agreed) }
    }

    // offset  size  field
    //      0     8  size of the export
    //      8     2  transmission flags
    //     10   124  zero, unless the client wants no zeroes
    fn take_by_name(
        &self,
        data: &[u8],
        exports: &dyn Exports,
        output: &mut Vec<u8>,
    ) -> Result<Session, CloseReason> {
        let name = export_name(data).map_err(|_| CloseReason::BadExportName)?;
        let export = exports.find(name).ok_or_else(|| CloseReason::UnknownExport(name.to_owned()))?;
        output.extend(export.size_bytes.to_be_bytes());
        output.extend(export.transmission_flags(self.structured_replies).to_be_bytes());
        if !self.no_zeroes {
            output.extend([0; ZEROES_BYTES]);
        }
        Ok(self.session(name, export))
    }

    /// INFO, and GO up to its acknowledgement.
    fn tell(
        &self,
        data: &[u8],
        exports: &dyn Exports,
        replies: &mut OptionReplies,
    ) -> Result<Session, Refusal> {
        let asked = InfoOption::parse(data)?;
        let export = exports.find(asked.name).ok_or(Refusal::unknown_export())?;
        replies.info_export(&export, export.transmission_flags(self.structured_replies));
        if asked.asks_for(INFO_NAME) {
            replies.info_name(&export);
        }
        if asked.asks_for(INFO_DESCRIPTION) {
            replies.info_description(&export);
        }
        if asked.asks_for(INFO_BLOCK_SIZE) {
            replies.info_block_size(&export);
        }
        Ok(self.session(asked.name, export))
    }

    fn session(&self, name: &str, export: Export) -> Session {
        let selection = self.selection.as_ref().filter(|selection| selection.name == name);
        let contexts = selection.map_or_else(Vec::new, |selection| selection.contexts.clone());
        Session { export, structured_replies: self.structured_replies, contexts }
    }

    /// The spec lets a server refuse the second time. To acknowledge it is safer: a client that took the refusal for a
    /// no would misread every reply.
    fn agree_on_structured_replies(&mut self, data: &[u8]) -> Result<(), Refusal> {
        refuse_data(data)?;
        self.structured_replies = true;
        Ok(())
    }

    fn list_contexts(
        &self,
        data: &[u8],
        exports: &dyn Exports,
        replies: &mut OptionReplies,
    ) -> Result<(), Refusal> {
        let asked = self.context_option(data, exports)?;
        for context in meta_context::listed(&asked.queries) {
            replies.listed_context(context);
        }
        Ok(())
    }

    fn set_contexts(
        &mut self,
        data: &[u8],
        exports: &dyn Exports,
        replies: &mut OptionReplies,
    ) -> Result<(), Refusal> {
        // What was set before is gone also when this fails.
        self.selection = None;
        let asked = self.context_option(data, exports)?;
        let selected = meta_context::selected(&asked.queries);
        let contexts: Vec<Context> = selected.into_iter().map(|context| context.agreed()).collect();
        for context in &contexts {
            replies.agreed_context(*context);
        }
        self.selection = Some(Selection { name: asked.name.to_owned(), contexts });
        Ok(())
    }

    fn context_option<'a>(
        &self,
        data: &'a [u8],
        exports: &dyn Exports,
    ) -> Result<ContextOption<'a>, Refusal> {
        if !self.structured_replies {
            return Err(Refusal::invalid("structured replies must be agreed on first"));
        }
        let asked = ContextOption::parse(data)?;
        exports.find(asked.name).map(|_| asked).ok_or(Refusal::unknown_export())
    }
}

fn list(data: &[u8], exports: &dyn Exports, replies: &mut OptionReplies) -> Result<(), Refusal> {
    refuse_data(data)?;
    for (name, description) in exports.list() {
        replies.server(&name, &description);
    }
    Ok(())
}

fn refuse_data(data: &[u8]) -> Result<(), Refusal> {
    if data.is_empty() { Ok(()) } else { Err(Refusal::invalid("this option takes no data")) }
}
