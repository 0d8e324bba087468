//! Files and sockets by io_uring: one ring a thread, one system call a turn.
//!
//! Owns the ring and everything in flight on it: an operation's memory, file and socket stay in the table until the
//! kernel has said that it is over, also when the ring is dropped. Needs Linux 6.1 (SINGLE_ISSUER, DEFER_TASKRUN).
//! Read next: `reactor.rs`.

use super::reactor::{Event, Reactor, SocketToken, Waker};
use super::{Buffer, Completion, DiskError, DiskFile, Operation, Ticket, arena};
use bytes::Bytes;
use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::net::Shutdown;
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Entries of the submission queue. More than these are submitted in between.
const SUBMISSIONS: u32 = 256;
/// Entries of the completion queue; what does not fit is kept by the kernel.
const COMPLETIONS: u32 = 4096;
/// What one send takes at most (IOV_MAX).
const PARTS_MAX: usize = 1024;

/// How long to wait for more than one completion when more are expected, in microseconds: less than a client notices,
/// enough for those of one batch to come together. Kernels before 6.12 wait for one.
const GATHER_US: u32 = 50;
/// In place of no limit.
const LONG: Duration = Duration::from_secs(3600);
/// Completions that are waited for at most.
const GATHER_MAX: usize = 32;

/// What the kernel works on, with everything that it may still touch.
enum InFlight {
    Disk { file: usize, ticket: Ticket, operation: Operation, done_bytes: usize },
    Receive { token: SocketToken, socket: Arc<OwnedFd>, buffer: Buffer, from: usize, to: usize, all: bool },
    Send { token: SocketToken, socket: Arc<OwnedFd>, parts: VecDeque<Bytes>, message: Box<Message> },
    Wake { counter: Box<[u8; 8]> },
}

/// What `sendmsg` is told: it points to `slices`, which point into parts that stand beside it.
struct Message {
    header: libc::msghdr,
    slices: Vec<libc::iovec>,
}

/// Files and sockets by io_uring.
pub struct Ring {
    ring: IoUring,
    files: Vec<Arc<DiskFile>>,
    waker: Waker,
    in_flight: Slab<InFlight>,
    /// What was over at once, without the kernel.
    ready: VecDeque<Event>,
    system_calls: u64,
    /// The arena's memory is registered, as buffer 0.
    knows_arena: bool,
    /// The kernel can wait for several completions for a short time, and for one afterwards.
    gathers: bool,
    /// Disk operations and sends in flight: their completions come soon.
    disk_operations: usize,
    sends: usize,
}

/// What a completion leaves to do.
enum Next {
    Over(Event),
    Again(InFlight),
}

impl Ring {
    /// A ring for the calling thread. Fails where io_uring is forbidden, or older than Linux 6.1.
    pub fn new(files: &[Arc<DiskFile>], waker: &Waker) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_cqsize(COMPLETIONS);
        let ring: IoUring = builder.build(SUBMISSIONS)?;
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Two places a file: written through the first, read through the second.
        let descriptors: Vec<RawFd> =
            files.iter().flat_map(|file| [file.writer().as_raw_fd(), file.reader().as_raw_fd()]).collect();
        if !descriptors.is_empty() {
            ring.submitter().register_files(&descriptors)?;
        }
        let knows_arena = register_arena(&ring);
        let mut ring = Self {
            knows_arena,
            gathers: ring.params().is_feature_min_timeout(),
            disk_operations: 0,
            sends: 0,
            ring,
            files: files.to_vec(),
            waker: waker.clone(),
            in_flight: Slab::with_capacity(SUBMISSIONS as usize),
            ready: VecDeque::new(),
            system_calls: 0,
        };
        ring.submit(InFlight::Wake { counter: Box::new([0; 8]) });
        Ok(ring)
    }

    /// Puts `work` into the table and tells the kernel.
    fn submit(&mut self, mut work: InFlight) {
        self.count(&work, 1);
        let entry = entry_for(&mut work, &self.waker, self.knows_arena);
        let index = self.in_flight.insert(work);
        let entry = entry.user_data(index as u64);
        loop {
            // SAFETY: `entry` names memory and descriptors that `work` owns on the heap. `work` stands in `in_flight` until
            // the completion with this index has been taken, or, if the ring is dropped, until `drop` has seen it, so
            // the kernel never touches memory that is gone; and nothing else reads or writes it meanwhile.
            #[allow(unsafe_code)]
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter_without_waiting();
        }
    }

    fn count(&mut self, work: &InFlight, change: isize) {
        let counter = match work {
            InFlight::Disk { .. } => &mut self.disk_operations,
            InFlight::Send { .. } => &mut self.sends,
            InFlight::Receive { .. } | InFlight::Wake { .. } => return,
        };
        *counter = counter.wrapping_add_signed(change);
    }

    /// How many completions are worth a wait: the disk operations, so that one sync covers them all, or what a client
    /// sends next; and the sends, which as a rule are over when they are submitted.
    fn expected(&self) -> usize {
        if !self.ready.is_empty() {
            return 0;
        }
        let expected = self.disk_operations.max(1) + self.sends;
        if self.gathers { expected.min(GATHER_MAX) } else { 1 }
    }

    /// Makes room in the submission queue.
    ///
    /// Panics if the kernel takes nothing more: what is in flight could not be told of its end.
    fn enter_without_waiting(&mut self) {
        self.system_calls += 1;
        match self.ring.submit() {
            Ok(_) => {}
            // Completions have to be taken first.
            Err(cause) if is_interrupted(&cause) || cause.raw_os_error() == Some(libc::EBUSY) => {
                self.take_completions_aside();
            }
            Err(cause) => panic!("io_uring takes nothing more: {cause}"),
        }
    }

    fn take_completions_aside(&mut self) {
        let mut events = Vec::new();
        self.take_completions(&mut events);
        self.ready.extend(events);
    }

    fn take_completions(&mut self, events: &mut Vec<Event>) {
        let completions: Vec<cqueue::Entry> = self.ring.completion().collect();
        for completion in completions {
            let work = self.in_flight.remove(completion.user_data() as usize);
            self.count(&work, -1);
            match self.completed(work, completion.result()) {
                Next::Over(event) => events.push(event),
                Next::Again(work) => self.submit(work),
            }
        }
    }

    fn completed(&mut self, work: InFlight, result: i32) -> Next {
        let result = match result {
            negative if negative < 0 => Err(io::Error::from_raw_os_error(-negative)),
            bytes => Ok(bytes as usize),
        };
        match work {
            InFlight::Disk { file, ticket, operation, done_bytes } => {
                self.disk_completed(file, ticket, operation, done_bytes, result)
            }
            InFlight::Receive { token, socket, buffer, from, to, all } => match result {
                Ok(bytes) if all && bytes > 0 && to + bytes < buffer.len() => {
                    Next::Again(InFlight::Receive { token, socket, buffer, from, to: to + bytes, all })
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {
                    Next::Again(InFlight::Receive { token, socket, buffer, from, to, all })
                }
                Ok(bytes) => Next::Over(Event::Received { token, buffer, result: Ok(to + bytes - from) }),
                Err(cause) => Next::Over(Event::Received { token, buffer, result: Err(cause) }),
            },
            InFlight::Send { token, socket, mut parts, message } => match result {
                Ok(bytes) => {
                    consume(&mut parts, bytes);
                    match (parts.is_empty(), bytes) {
                        (true, _) => Next::Over(Event::Sent { token, result: Ok(()) }),
                        (false, 0) => {
                            Next::Over(Event::Sent { token, result: Err(io::ErrorKind::WriteZero.into()) })
                        }
                        (false, _) => Next::Again(InFlight::Send { token, socket, parts, message }),
                    }
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {
                    Next::Again(InFlight::Send { token, socket, parts, message })
                }
                Err(cause) => Next::Over(Event::Sent { token, result: Err(cause) }),
            },
            InFlight::Wake { counter } => {
                self.submit(InFlight::Wake { counter });
                Next::Over(Event::Woken)
            }
        }
    }

    fn disk_completed(
        &mut self,
        file: usize,
        ticket: Ticket,
        mut operation: Operation,
        done_bytes: usize,
        result: io::Result<usize>,
    ) -> Next {
        let done = match (&operation, &result) {
            (Operation::Read { .. } | Operation::Write { .. }, Ok(bytes)) => done_bytes + bytes,
            _ => 0,
        };
        let left = transfer_bytes(&operation).saturating_sub(done);
        let is_punch = matches!(operation, Operation::Punch { .. });
        let result = match result {
            Err(cause) if is_interrupted(&cause) => {
                return Next::Again(InFlight::Disk { file, ticket, operation, done_bytes });
            }
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported && is_allocation(&operation) => {
                // Rare file systems: written by hand, on this thread, because every write waits for it anyway.
                self.files[file].perform(&mut operation)
            }
            Err(cause)
                if cause.kind() == io::ErrorKind::Unsupported && self.files[file].is_device() && is_punch =>
            {
                // A device that can only discard: there is no other way than a call that waits.
                self.files[file].perform(&mut operation)
            }
            Err(cause) => Err(cause.into()),
            Ok(0) if left > 0 => Err(DiskError::Short),
            Ok(_) if left > 0 => {
                return Next::Again(InFlight::Disk { file, ticket, operation, done_bytes: done });
            }
            Ok(_) => Ok(()),
        };
        let result = match is_allocation(&operation) {
            // Also after an error: part of the range may have been added.
            true => self.files[file].refresh_size().map_err(DiskError::from).and(result),
            false => result,
        };
        Next::Over(Event::Disk(Completion { ticket, operation, result }))
    }

    /// What needs no kernel, or must not get to it.
    fn at_once(&self, file: usize, operation: &Operation) -> Option<Result<(), DiskError>> {
        let file = &self.files[file];
        match operation {
            Operation::Write { offset_bytes, bytes } => {
                file.check_end(*offset_bytes, bytes.len() as u64).err().map(Err)
            }
            Operation::Punch { length_bytes: 0, .. } | Operation::Allocate { length_bytes: 0, .. } => {
                Some(Ok(()))
            }
            Operation::Allocate { offset_bytes, length_bytes } if file.is_device() => {
                Some(file.allocate_on_device(*offset_bytes, *length_bytes))
            }
            _ => None,
        }
    }
}

impl Reactor for Ring {
    fn start(&mut self, file: usize, ticket: Ticket, operation: Operation) {
        match self.at_once(file, &operation) {
            Some(result) => self.ready.push_back(Event::Disk(Completion { ticket, operation, result })),
            None => self.submit(InFlight::Disk { file, ticket, operation, done_bytes: 0 }),
        }
    }

    fn receive(&mut self, token: SocketToken, socket: &Arc<OwnedFd>, buffer: Buffer, from: usize, all: bool) {
        self.submit(InFlight::Receive { token, socket: socket.clone(), buffer, from, to: from, all });
    }

    fn send(&mut self, token: SocketToken, socket: &Arc<OwnedFd>, parts: Vec<Bytes>) {
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.submit(InFlight::Send {
            token,
            socket: socket.clone(),
            parts,
            message: Box::new(Message::empty()),
        });
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let want = self.expected();
        // Without a limit the kernel would end the whole wait after `GATHER_US`, instead of going on for one completion.
        let limit = timeout.or((want > 1).then_some(LONG));
        let timespec = limit.map(Timespec::from).unwrap_or_default();
        let mut args = SubmitArgs::new();
        if limit.is_some() {
            args = args.timespec(&timespec);
        }
        if want > 1 {
            args = args.min_wait_usec(GATHER_US);
        }
        self.system_calls += 1;
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => {}
            Err(cause) if is_interrupted(&cause) || cause.raw_os_error() == Some(libc::ETIME) => {}
            // Completions have to be taken first.
            Err(cause) if cause.raw_os_error() == Some(libc::EBUSY) => {}
            Err(cause) => return Err(cause),
        }
        events.extend(self.ready.drain(..));
        self.take_completions(events);
        // Taking them may have finished more.
        events.extend(self.ready.drain(..));
        Ok(())
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

impl Drop for Ring {
    /// Waits until the kernel has let go of all memory: sockets are shut down, so that receives end.
    fn drop(&mut self) {
        self.waker.wake();
        for (_, work) in &self.in_flight {
            if let InFlight::Receive { socket, .. } | InFlight::Send { socket, .. } = work {
                let _ = rustix::net::shutdown(socket, Shutdown::Both);
            }
        }
        while !self.in_flight.is_empty() {
            if let Err(cause) = self.ring.submit_and_wait(1)
                && !is_interrupted(&cause)
            {
                // The kernel may still write into it: better to lose the memory than to give it to somebody else.
                std::mem::forget(std::mem::take(&mut self.in_flight));
                return;
            }
            let completions: Vec<cqueue::Entry> = self.ring.completion().collect();
            for completion in completions {
                self.in_flight.remove(completion.user_data() as usize);
            }
        }
        // Closing the ring lets go of registered files some time later, and the lock of a pool goes with its file.
        let _ = self.ring.submitter().unregister_files();
    }
}

impl Message {
    fn empty() -> Self {
        // SAFETY: `msghdr` is plain data, for which all zeros are valid: no name, no slices, no control data.
        #[allow(unsafe_code)]
        let header = unsafe { std::mem::zeroed() };
        Self { header, slices: Vec::new() }
    }

    /// Points to `parts`, as many as one send takes.
    fn point_to(&mut self, parts: &VecDeque<Bytes>) {
        let slice =
            |part: &Bytes| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        self.slices.clear();
        self.slices.extend(parts.iter().take(PARTS_MAX).map(slice));
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = self.slices.len();
    }
}

// SAFETY: the pointers inside lead to `slices`, which moves along as a heap allocation, and to parts that stand beside
// the message in `InFlight::Send`; nobody follows them but the kernel.
#[allow(unsafe_code)]
unsafe impl Send for Message {}

/// Tells the kernel of the arena. Where a limit on locked memory forbids that, operations are looked up one by one.
fn register_arena(ring: &IoUring) -> bool {
    let Some((base, length)) = arena::memory() else { return false };
    let slice = libc::iovec { iov_base: base.cast(), iov_len: length };
    // SAFETY: the arena's memory is never given back, so it outlives the ring.
    #[allow(unsafe_code)]
    unsafe {
        ring.submitter().register_buffers(&[slice]).is_ok()
    }
}

fn entry_for(work: &mut InFlight, waker: &Waker, knows_arena: bool) -> squeue::Entry {
    match work {
        InFlight::Disk { file, operation, done_bytes, .. } => {
            disk_entry(*file, operation, *done_bytes, knows_arena)
        }
        InFlight::Receive { socket, buffer, to, all, .. } => {
            let free = &mut buffer[*to..];
            let flags = if *all { libc::MSG_WAITALL } else { 0 };
            let length = free.len().min(i32::MAX as usize) as u32;
            opcode::Recv::new(Fd(socket.as_raw_fd()), free.as_mut_ptr(), length).flags(flags).build()
        }
        InFlight::Send { socket, parts, message, .. } => {
            message.point_to(parts);
            let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
            opcode::SendMsg::new(Fd(socket.as_raw_fd()), &raw const message.header).flags(flags).build()
        }
        InFlight::Wake { counter } => {
            opcode::Read::new(Fd(waker.descriptor().as_raw_fd()), counter.as_mut_ptr(), 8).build()
        }
    }
}

fn disk_entry(file: usize, operation: &mut Operation, done_bytes: usize, knows_arena: bool) -> squeue::Entry {
    let writer = Fixed(2 * file as u32);
    let reader = Fixed(2 * file as u32 + 1);
    let done = done_bytes as u64;
    match operation {
        Operation::Read { offset_bytes, buffer } => {
            let free = &mut buffer[done_bytes..];
            let (memory, length) = (free.as_mut_ptr(), free.len());
            let offset = *offset_bytes + done;
            if knows_arena && arena::holds(memory, length) {
                return opcode::ReadFixed::new(reader, memory, length as u32, 0).offset(offset).build();
            }
            opcode::Read::new(reader, memory, length as u32).offset(offset).build()
        }
        Operation::Write { offset_bytes, bytes } => {
            let rest = &bytes[done_bytes..];
            let (memory, length) = (rest.as_ptr(), rest.len());
            let offset = *offset_bytes + done;
            if knows_arena && arena::holds(memory, length) {
                return opcode::WriteFixed::new(writer, memory, length as u32, 0).offset(offset).build();
            }
            opcode::Write::new(writer, memory, length as u32).offset(offset).build()
        }
        Operation::Sync => opcode::Fsync::new(writer).flags(FsyncFlags::DATASYNC).build(),
        Operation::Punch { offset_bytes, length_bytes } => {
            let mode = super::file_io::PUNCH.bits() as i32;
            opcode::Fallocate::new(writer, *length_bytes).offset(*offset_bytes).mode(mode).build()
        }
        Operation::Allocate { offset_bytes, length_bytes } => {
            opcode::Fallocate::new(writer, *length_bytes).offset(*offset_bytes).build()
        }
    }
}

fn transfer_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Read { buffer, .. } => buffer.len(),
        Operation::Write { bytes, .. } => bytes.len(),
        Operation::Sync | Operation::Punch { .. } | Operation::Allocate { .. } => 0,
    }
}

fn is_allocation(operation: &Operation) -> bool {
    matches!(operation, Operation::Allocate { .. })
}

fn is_interrupted(cause: &io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// Drops the first `bytes` of `parts`.
pub(super) fn consume(parts: &mut VecDeque<Bytes>, mut bytes: usize) {
    while let Some(first) = parts.front_mut() {
        if bytes < first.len() {
            bytes::Buf::advance(first, bytes);
            return;
        }
        bytes -= first.len();
        parts.pop_front();
    }
}
