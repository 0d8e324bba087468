//! The numbers of the protocol, named as in the spec without its prefix `NBD_`.
//!
//! Owns no rule: who may send what, and when, stands where it is used.

/// Opens the greeting: "NBDMAGIC".
pub const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
/// Follows in the greeting, and opens every option: "IHAVEOPT".
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Opens every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens every chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: the server answers options that it does not know.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the server can leave out the zeroes behind its answer to EXPORT_NAME.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// Client flag: the client knows fixed newstyle.
pub const FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// Client flag: the client wants no zeroes.
pub const FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Transmission flag: always set.
pub const FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: the export cannot be written.
pub const FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: FLUSH may be sent.
pub const FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: `CMD_FLAG_FUA` may be set.
pub const FLAG_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: TRIM may be sent.
pub const FLAG_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: WRITE_ZEROES may be sent, and `CMD_FLAG_NO_HOLE` set on it.
pub const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: `CMD_FLAG_DF` may be set.
pub const FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: FLUSH and FUA on one connection hold for all of them.
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: CACHE may be sent.
pub const FLAG_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: `CMD_FLAG_FAST_ZERO` may be set.
pub const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

/// Option: take this export, without a way to say no but closing.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end the negotiation.
pub const OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const OPT_LIST: u32 = 3;
/// Option: tell about an export.
pub const OPT_INFO: u32 = 6;
/// Option: tell about an export and take it.
pub const OPT_GO: u32 = 7;
/// Option: use structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: list the contexts that an export has.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: choose the contexts that BLOCK_STATUS answers for.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// Option reply: yes, and no more replies to this option.
pub const REP_ACK: u32 = 1;
/// Option reply: an export of the list.
pub const REP_SERVER: u32 = 2;
/// Option reply: something about an export.
pub const REP_INFO: u32 = 3;
/// Option reply: a context.
pub const REP_META_CONTEXT: u32 = 4;
/// Option reply: the option is not known here.
pub const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
/// Option reply: the option is malformed, or comes at the wrong time.
pub const REP_ERR_INVALID: u32 = (1 << 31) + 3;
/// Option reply: no such export.
pub const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;
/// Option reply: the option asks for too much.
pub const REP_ERR_TOO_BIG: u32 = (1 << 31) + 9;

/// Information: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: the canonical name.
pub const INFO_NAME: u16 = 1;
/// Information: the description.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information: minimum and preferred block, and maximum payload.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Command: read a range.
pub const CMD_READ: u16 = 0;
/// Command: write the payload to a range.
pub const CMD_WRITE: u16 = 1;
/// Command: finish what is under way and close.
pub const CMD_DISC: u16 = 2;
/// Command: make all replied writes durable.
pub const CMD_FLUSH: u16 = 3;
/// Command: the range is needed no more.
pub const CMD_TRIM: u16 = 4;
/// Command: the range will be needed soon.
pub const CMD_CACHE: u16 = 5;
/// Command: make a range read as zeroes.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: tell the state of a range in each chosen context.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: reply when the written data is durable.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag of WRITE_ZEROES: leave no hole.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag of READ: at most one content chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag of BLOCK_STATUS: exactly one extent a context.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag of WRITE_ZEROES: fail if it is no faster than a write.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// Chunk flag: the last chunk of this reply.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;
/// Chunk: nothing, only to carry `REPLY_FLAG_DONE`.
pub const REPLY_TYPE_NONE: u16 = 0;
/// Chunk: offset and data.
pub const REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk: offset and length of zeroes.
pub const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk: the extents of one context.
pub const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Chunk: an error of the whole request.
pub const REPLY_TYPE_ERROR: u16 = (1 << 15) + 1;
/// Chunk: an error at an offset.
pub const REPLY_TYPE_ERROR_OFFSET: u16 = (1 << 15) + 2;

/// Extent of `base:allocation`: not allocated, a write may fail with ENOSPC.
pub const STATE_HOLE: u32 = 1 << 0;
/// Extent of `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;
/// Extent of `x-vellum:shared`: shares its space, a write may need new space and fail with ENOSPC.
pub const STATE_SHARED: u32 = 1 << 0;
