//! Sending and receiving by a pool that this process has open, and what differs in it.
//!
//! Owns how names and tokens become the engine's words. The streams are the engine's; a served pool does the same by
//! `control/streams.rs`.

use super::engine::{Engine, Opened};
use super::{Progress, Transfer};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::views::{ArrivalView, AskDifferenceView, DifferenceView, SendView, VolumeView};
use crate::{host, names};
use std::io::{ErrorKind as Cause, Read, Write};
use vellum_engine::error::{Error as EngineError, ErrorKind};
use vellum_engine::request::{Base, Outcome, Partial, Request, StreamBase};
use vellum_engine::transfer::{Receiver, ResumeToken, SendPlan, Sender};
use vellum_engine::units::Generation;

/// What one read of an incoming stream takes at most.
const PIECE_BYTES: usize = 256 * 1024;

impl<E: Engine> Opened<E> {
    fn base(&self, from: Option<&str>, since: Option<u64>) -> Result<Base> {
        match (from, since) {
            (Some(_), Some(_)) => Err(Error::new(Kind::Usage, "a base is either a snapshot or a generation")),
            (Some(from), None) => Ok(Base::Volume(self.find(from)?)),
            (None, Some(since)) => Ok(Base::Generation(Generation(since))),
            (None, None) => Ok(Base::Nothing),
        }
    }

    /// The base that a token names, which is the one that was sent from before.
    fn base_of_token(&self, token: &ResumeToken) -> Result<Base> {
        Ok(match token.base {
            StreamBase::Whole => Base::Nothing,
            StreamBase::Since(generation) => Base::Generation(generation),
            StreamBase::Snapshot(uuid) => {
                let base = self.engine.volumes().into_iter().find(|info| info.uuid == uuid);
                let base = base.ok_or_else(|| {
                    Error::new(Kind::NotFound, "the snapshot that the transfer started from is gone")
                        .hint("`vellum receive --abort` drops what has arrived; then send from another base")
                })?;
                Base::Volume(base.id)
            }
        })
    }

    fn plan(&self, what: &SendView) -> Result<SendPlan> {
        names::check_snapshot(&what.snapshot)?;
        let snapshot = self.find(&what.snapshot)?;
        let resume: Option<ResumeToken> = what.resume.as_deref().map(str::parse).transpose()?;
        let base = match &resume {
            Some(token) if what.from.is_none() && what.since.is_none() => self.base_of_token(token)?,
            _ => self.base(what.from.as_deref(), what.since)?,
        };
        Ok(SendPlan { snapshot, base, resume, stream: host::new_uuid()? })
    }

    pub(super) fn partials(&mut self) -> Result<Vec<Partial>> {
        match self.engine.request(Request::Partials)? {
            Outcome::Partials(partials) => Ok(partials),
            other => Err(Error::new(Kind::Failure, format!("the engine answered with {other:?}"))),
        }
    }

    fn feed(&mut self, receiver: &mut Receiver, input: &mut dyn Read) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let mut ask = |request| self.engine.request(request);
            match input.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    let taken = receiver.take(&mut ask, &piece[..length]);
                    taken.map_err(|error| explain_stream(self.explain(error)))?;
                }
                Err(cause) if cause.kind() == Cause::Interrupted => {}
                Err(cause) => {
                    let token = receiver.interrupt(&mut ask);
                    let error = Error::io("cannot read the stream", &cause);
                    return Err(match token {
                        Some(token) => error.hint(format!("go on with `vellum send --resume {token}`")),
                        None => error,
                    });
                }
            }
        }
    }
}

impl<E: Engine> Transfer for Opened<E> {
    fn difference(&mut self, what: &AskDifferenceView) -> Result<DifferenceView> {
        let volume = self.find(&what.name)?;
        let base = self.base(what.from.as_deref(), what.since)?;
        let request = Request::Difference { base, volume, offset_bytes: what.offset_bytes };
        match self.engine.request(request).map_err(|error| self.explain(error))? {
            Outcome::Difference(difference) => Ok(DifferenceView::new(&difference)),
            other => Err(Error::new(Kind::Failure, format!("the engine answered with {other:?}"))),
        }
    }

    fn send(&mut self, what: &SendView, out: &mut dyn Write, progress: &mut Progress<'_>) -> Result<()> {
        let plan = self.plan(what)?;
        let mut ask = |request| self.engine.request(request);
        let mut sender = Sender::start(&mut ask, plan).map_err(explain_send)?;
        loop {
            progress(sender.sent_bytes(), sender.data_bytes());
            let Some(bytes) = sender.next(&mut ask).map_err(explain_send)? else { break };
            out.write_all(&bytes).map_err(|cause| Error::io("cannot write the stream", &cause))?;
        }
        out.flush().map_err(|cause| Error::io("cannot write the stream", &cause))
    }

    fn receive(&mut self, name: Option<&str>, input: &mut (dyn Read + Send)) -> Result<VolumeView> {
        if let Some(name) = name {
            names::check_snapshot(name)?;
        }
        let mut receiver = Receiver::new(name.map(str::to_owned));
        let fed = self.feed(&mut receiver, input);
        self.engine.settle();
        fed?;
        let mut ask = |request| self.engine.request(request);
        let received = receiver.finish(&mut ask).map_err(|error| explain_stream(error.into()))?;
        let views = VolumeView::all(&self.engine.volumes());
        let view = views.into_iter().find(|view| view.number == received.snapshot.0);
        view.ok_or_else(|| Error::new(Kind::Failure, "what has arrived has gone again"))
    }

    fn arrivals(&mut self) -> Result<Vec<ArrivalView>> {
        Ok(self.partials()?.iter().map(ArrivalView::new).collect())
    }

    fn abort(&mut self, uuid: &str) -> Result<()> {
        let partials = self.partials()?;
        let partial = partials.iter().find(|partial| ArrivalView::new(partial).uuid == uuid);
        let partial = partial
            .ok_or_else(|| Error::new(Kind::NotFound, format!("nothing arrives with the uuid {uuid}")))?;
        self.engine.request(Request::AbortReceive { volume: partial.volume })?;
        self.engine.settle();
        Ok(())
    }
}

fn explain_send(error: EngineError) -> Error {
    let kind = error.kind();
    let error = Error::from(error);
    match kind {
        ErrorKind::Invalid => error.hint("send all of it, or give a snapshot that is still there by --from"),
        ErrorKind::Mismatch => {
            error.hint("give the token, the snapshot and the base of one and the same transfer")
        }
        _ => error,
    }
}

/// The hints of these kinds speak of pools.
fn explain_stream(error: Error) -> Error {
    match error.kind() {
        Kind::Damaged => error.hint("send it again; no snapshot came of it"),
        Kind::Unsupported => error.hint("receive it with the version that sent it, or a newer one"),
        Kind::Mismatch => error.hint("`vellum receive --resume` shows what can go on; `--abort` drops it"),
        Kind::Io => error
            .hint("`vellum send --resume TOKEN` goes on; `vellum receive --abort` drops what has arrived"),
        Kind::NotFound => error.hint("receive the snapshot that it starts from first, or send all of it"),
        Kind::Exists => error.hint("give another name, or delete what has it"),
        _ => error,
    }
}
