//! One opening of a pool and the two simulated disks under it.
//!
//! Owns moving operations and completions between core and disks. Which of them next is the caller's choice.

use crate::adapter::{self, Core, Side};
use crate::driver::RunConfig;
use crate::model::{Check, Observed, ObservedVolume, Violation, flatten};
use crate::sim_disk::{Order, PowerSupply, SimDisk};
use std::collections::BTreeMap;
use vellum_engine::error::Error;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{Outcome, Reply, Request, RequestId};
use vellum_engine::storage::{Disk, Ticket};

/// Request numbers of the examiner, far from those of clients.
const FIRST_EXAMINER_ID: u64 = 1 << 62;
/// Rounds without any event, of 100 ms each, after which a pool counts as hung.
const PATIENCE_ROUNDS: u32 = 1000;
/// Rounds after which one counts as hung that is busy and answers nothing: many times what reading all of it takes.
const BUSY_ROUNDS: u32 = 1_000_000;

/// The disks of a pool.
#[derive(Debug)]
pub struct Disks {
    /// Under the data file.
    pub data: SimDisk,
    /// Under the metadata file.
    pub metadata: SimDisk,
}

/// An open pool and its disks.
pub struct Machine {
    /// The engine.
    pub core: Core,
    /// Its disks.
    pub disks: Disks,
    /// What the engine believes the time to be.
    pub now_ms: u64,
}

impl Disks {
    /// Empty disks with a new pool on them.
    ///
    /// # Errors
    /// If the pool cannot be made.
    pub fn with_new_pool(config: &RunConfig) -> Check<Self> {
        let data = SimDisk::new(config.seed ^ 0xda7a, config.byte_mixing);
        let metadata = SimDisk::new(config.seed ^ 0x3e7a, config.byte_mixing);
        let mut disks = Self { data, metadata };
        adapter::create(&mut disks.data, &mut disks.metadata, &config.create)
            .map_err(|error| Violation(format!("no pool could be made: {error}")))?;
        Ok(disks)
    }

    /// A number for an opening that no other opening has.
    fn nonce(&mut self) -> u32 {
        self.data.random() as u32
    }

    /// Both disks after `change`, which is a cut or a kill.
    pub fn each(&self, mut change: impl FnMut(&SimDisk) -> SimDisk) -> Self {
        Self { data: change(&self.data), metadata: change(&self.metadata) }
    }

    /// One of them.
    pub fn side(&mut self, side: Side) -> &mut SimDisk {
        match side {
            Side::Data => &mut self.data,
            Side::Metadata => &mut self.metadata,
        }
    }

    /// The sides that have something in flight.
    pub fn busy(&self) -> impl Iterator<Item = Side> {
        let data = (self.data.in_flight() > 0).then_some(Side::Data);
        let metadata = (self.metadata.in_flight() > 0).then_some(Side::Metadata);
        data.into_iter().chain(metadata)
    }

    /// Lets operations complete in this order from now on.
    pub fn set_order(&mut self, order: Order) {
        self.data.set_order(order);
        self.metadata.set_order(order);
    }

    /// Leaves so many pages free on their hosts; none for no limit.
    pub fn leave_free(&mut self, data_pages: Option<u64>, metadata_pages: Option<u64>) {
        self.data.host().leave_free(data_pages);
        self.metadata.host().leave_free(metadata_pages);
    }

    /// Puts both on one power supply.
    pub fn set_power(&mut self, power: &PowerSupply) {
        self.data.set_power(power.clone());
        self.metadata.set_power(power.clone());
    }
}

impl Machine {
    /// Opens the pool on `disks`; gives the disks back if it cannot be.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn open(mut disks: Disks, config: &RunConfig, now_ms: u64) -> Result<Self, Box<(Error, Disks)>> {
        let options = OpenOptions { nonce: disks.nonce(), ..config.open.clone() };
        match adapter::open(&mut disks.data, &mut disks.metadata, &options) {
            Ok(core) => Ok(Self { core, disks, now_ms }),
            Err(error) => Err(Box::new((error, disks))),
        }
    }

    /// Lets one operation complete, if any is in flight on `side`; its ticket.
    pub fn complete_one(&mut self, side: Side) -> Option<Ticket> {
        let completion = self.disks.side(side).next_completion()?;
        let ticket = completion.ticket;
        self.core.complete(completion);
        Some(ticket)
    }

    /// A turn of the core, and another if it asked what its host has room for.
    pub fn turn(&mut self) {
        self.core.turn(self.now_ms);
        if self.core.wants_host_room() {
            self.core.host_has_room(self.disks.data.host_room());
            self.core.turn(self.now_ms);
        }
    }

    /// One round without ceremony: a turn, all operations, one completion or some time.
    fn round(&mut self, quiet_rounds: &mut u32) -> Check {
        self.turn();
        while let Some((side, ticket, operation)) = self.core.next_operation() {
            self.disks.side(side).submit(ticket, operation);
        }
        let busy = self.disks.busy().next();
        match busy {
            Some(side) => {
                *quiet_rounds = 0;
                self.complete_one(side);
            }
            None => {
                *quiet_rounds += 1;
                self.now_ms += 100;
            }
        }
        if *quiet_rounds > PATIENCE_ROUNDS { Err(self.hang()) } else { Ok(()) }
    }

    fn hang(&self) -> Violation {
        Violation(format!("the pool hangs: {:?}", self.core.status()))
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// If no answer comes.
    pub fn ask(&mut self, requests: Vec<Request>) -> Check<Vec<Reply>> {
        let count = requests.len();
        let mut replies: BTreeMap<u64, Reply> = BTreeMap::new();
        for (index, request) in requests.into_iter().enumerate() {
            self.core.submit(RequestId(FIRST_EXAMINER_ID + index as u64), request);
        }
        let (mut quiet_rounds, mut rounds) = (0, 0);
        while replies.len() < count {
            self.round(&mut quiet_rounds)?;
            rounds += 1;
            if rounds > BUSY_ROUNDS {
                return Err(self.hang());
            }
            while let Some((id, reply)) = self.core.next_reply() {
                if id.0 >= FIRST_EXAMINER_ID {
                    replies.insert(id.0, reply);
                }
            }
        }
        Ok(replies.into_values().collect())
    }

    /// Lets everything that is under way end, and so much time pass.
    ///
    /// # Errors
    /// If it never ends.
    pub fn rest(&mut self, rest_ms: u64) -> Check {
        let until_ms = self.now_ms + rest_ms;
        let mut rounds = 0;
        while self.now_ms < until_ms || self.disks.busy().next().is_some() {
            self.round(&mut 0)?;
            rounds += 1;
            if rounds > BUSY_ROUNDS {
                return Err(Violation(format!("the pool never comes to rest: {:?}", self.core.status())));
            }
        }
        Ok(())
    }

    /// Reads everything, in pieces of `piece_bytes`.
    ///
    /// # Errors
    /// If an answer does not come or does not fit.
    pub fn observe(&mut self, piece_bytes: u64) -> Check<Observed> {
        let volumes = self.core.volumes();
        let pieces = |size_bytes: u64| (0..size_bytes).step_by(piece_bytes as usize);
        let requests = volumes.iter().flat_map(|volume| {
            pieces(volume.size_bytes).map(|offset_bytes| Request::Read {
                volume: volume.id,
                offset_bytes,
                length_bytes: piece_bytes.min(volume.size_bytes - offset_bytes),
            })
        });
        let mut replies = self.ask(requests.collect())?.into_iter();
        let mut observed = Observed::default();
        for volume in &volumes {
            let mut seen = ObservedVolume {
                id: volume.id,
                is_snapshot: adapter::is_snapshot(volume),
                bytes: Vec::with_capacity(volume.size_bytes as usize),
                unreadable: Vec::new(),
                holds: volume.holds.iter().cloned().collect(),
                deletion_deferred: volume.deletion_deferred,
            };
            for offset_bytes in pieces(volume.size_bytes) {
                let length_bytes = piece_bytes.min(volume.size_bytes - offset_bytes);
                let reply = replies.next().ok_or_else(|| Violation::new("a reply is missing"))?;
                seen.take(offset_bytes, length_bytes, reply)?;
            }
            if observed.volumes.insert(volume.name.clone(), seen).is_some() {
                return Err(Violation(format!("two volumes are called {}", volume.name)));
            }
        }
        Ok(observed)
    }
}

impl ObservedVolume {
    fn take(&mut self, offset_bytes: u64, length_bytes: u64, reply: Reply) -> Check {
        match reply {
            Ok(Outcome::Data(segments)) => {
                flatten(&segments, &mut self.bytes);
                if self.bytes.len() as u64 != offset_bytes + length_bytes {
                    return Err(Violation(format!(
                        "a read of {length_bytes} bytes at {offset_bytes} fell short"
                    )));
                }
            }
            Ok(other) => return Err(Violation(format!("a read was answered with {other:?}"))),
            Err(error) => {
                self.unreadable.push((offset_bytes..offset_bytes + length_bytes, error.to_string()));
                self.bytes.resize((offset_bytes + length_bytes) as usize, 0);
            }
        }
        Ok(())
    }
}
