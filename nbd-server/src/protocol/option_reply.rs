//! Writes replies to options.
//!
//! Owns their bytes. An option has any number of replies, the last of which is an acknowledgement or a refusal.

use super::constants::*;
use super::fields::clipped;
use super::option::Refusal;
use super::{Context, Export, MetaContext, PAYLOAD_BYTES_MAX};

/// The smallest unit of a request: any byte can be addressed.
const MINIMUM_BLOCK_BYTES: u32 = 1;

/// Where the replies to one option go.
pub struct OptionReplies<'a> {
    option: u32,
    output: &'a mut Vec<u8>,
}

// offset  size  field
//      0     8  OPTION_REPLY_MAGIC
//      8     4  option that this answers
//     12     4  reply type
//     16     4  payload length
//     20     n  payload
impl<'a> OptionReplies<'a> {
    /// Replies to `option`, at the end of `output`.
    pub fn new(option: u32, output: &'a mut Vec<u8>) -> Self {
        Self { option, output }
    }

    /// Yes, and the last reply.
    pub fn acknowledge(&mut self) {
        self.reply(REP_ACK, &[]);
    }

    /// No, and the last reply.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.reply(refusal.kind, &[refusal.message.as_bytes()]);
    }

    /// An export of the list.
    pub fn server(&mut self, name: &str, description: &str) {
        let length = (name.len() as u32).to_be_bytes();
        self.reply(REP_SERVER, &[&length, name.as_bytes(), clipped(description).as_bytes()]);
    }

    /// Size and flags of an export.
    pub fn info_export(&mut self, export: &Export, transmission_flags: u16) {
        self.info(INFO_EXPORT, &[&export.size_bytes.to_be_bytes(), &transmission_flags.to_be_bytes()]);
    }

    /// The canonical name of an export.
    pub fn info_name(&mut self, export: &Export) {
        self.info(INFO_NAME, &[export.name.as_bytes()]);
    }

    /// The description of an export.
    pub fn info_description(&mut self, export: &Export) {
        self.info(INFO_DESCRIPTION, &[clipped(&export.description).as_bytes()]);
    }

    /// Minimum and preferred block, and maximum payload.
    pub fn info_block_size(&mut self, export: &Export) {
        let sizes = [MINIMUM_BLOCK_BYTES, export.preferred_block_bytes, PAYLOAD_BYTES_MAX];
        self.info(INFO_BLOCK_SIZE, &[sizes.map(u32::to_be_bytes).as_flattened()]);
    }

    /// A context that can be set; it has no id yet.
    pub fn listed_context(&mut self, context: MetaContext) {
        self.context(0, context);
    }

    /// A context that is set.
    pub fn agreed_context(&mut self, context: Context) {
        self.context(context.id, context.kind);
    }

    fn context(&mut self, id: u32, context: MetaContext) {
        self.reply(REP_META_CONTEXT, &[&id.to_be_bytes(), context.name().as_bytes()]);
    }

    fn info(&mut self, information: u16, payload: &[&[u8]]) {
        self.reply(REP_INFO, &[&information.to_be_bytes(), payload.concat().as_slice()]);
    }

    fn reply(&mut self, kind: u32, payload: &[&[u8]]) {
        let length: usize = payload.iter().map(|part| part.len()).sum();
        self.output.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        self.output.extend(self.option.to_be_bytes());
        self.output.extend(kind.to_be_bytes());
        self.output.extend((length as u32).to_be_bytes());
        for part in payload {
            self.output.extend(*part);
        }
    }
}
