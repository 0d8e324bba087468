//! Clients that want too much, or take too long: each is held to its limits and the others do not notice.

use crate::fixture::{self, REACTORS};
use std::time::{Duration, Instant};
use vellum_nbd_server::Limits;
use vellum_tests::nbd_client::{
    NbdClient, Reply, command, flag, info_data, option, option_bytes, request_bytes,
};

const MIB: u64 = 1 << 20;

#[test]
fn who_does_not_read_replies_takes_a_bounded_amount_of_memory() {
    const READS: u64 = 1000;
    for reactor in REACTORS {
        let alone = fixture::alone();
        let (_files, serving) = fixture::serve_unshared(reactor, Limits::default());
        let mut other = serving.client("disk");
        for at in 0..8 {
            other.write(at * 4 * MIB, &fixture::pattern(at, 4 << 20)).unwrap();
        }
        let before = fixture::resident_bytes();
        let mut greedy = serving.client("disk");
        let read = |number| request_bytes(0, command::READ, number, number % 31 * MIB, 1 << 20);
        greedy.send(&(0..READS).flat_map(read).collect::<Vec<u8>>()).unwrap();
        let mut most = 0;
        let mut longest = Duration::ZERO;
        for at in 0..300 {
            let started = Instant::now();
            assert_eq!(other.read(0, at * 100_000, 4096).unwrap().unwrap().len(), 4096);
            assert_eq!(other.write(200 * MIB + at * 4096, &[1; 4096]).unwrap(), 0);
            longest = longest.max(started.elapsed());
            most = most.max(fixture::resident_bytes());
        }
        let grown = most.saturating_sub(before) / MIB;
        println!("{reactor:?}: {grown} MiB more; another client waited {longest:?} at most");
        assert!(grown < 128, "{grown} MiB more with {reactor:?}");
        assert!(longest < Duration::from_secs(2), "another client waited {longest:?} with {reactor:?}");
        // Patience pays: all of it comes once it is fetched.
        for _ in 0..READS {
            assert!(matches!(greedy.reply().unwrap(), Reply::Simple { error: 0, .. }));
            greedy.receive(1 << 20).unwrap();
        }
        drop((greedy, other));
        serving.stop();
        drop(alone);
    }
}

#[test]
fn an_announced_payload_takes_no_memory_before_it_comes() {
    for reactor in REACTORS {
        let alone = fixture::alone();
        let (_files, serving) = fixture::serve_unshared(reactor, Limits::default());
        let before = fixture::resident_bytes();
        let mut clients: Vec<NbdClient> = (0..60).map(|_| serving.client("disk")).collect();
        for client in &mut clients {
            client.send(&request_bytes(0, command::WRITE, 1, 0, 32 << 20)).unwrap();
            client.send(&[7; 200_000]).unwrap();
        }
        // Whoever is answered now was read after all those before.
        for _ in 0..10 {
            serving.client("disk").write(100 * MIB, b"x").unwrap();
        }
        let grown = fixture::resident_bytes().saturating_sub(before) / MIB;
        println!("{reactor:?}: {grown} MiB more for 60 announced payloads of 32 MiB");
        assert!(grown < 200, "{grown} MiB more with {reactor:?}");
        drop(clients);
        serving.wait_until_alone(Duration::from_secs(2));
        serving.stop();
        drop(alone);
    }
}

/// More than the pool has, for every volume that is thin.
#[test]
fn a_full_pool_says_so_and_goes_on() {
    const ENOSPC: u32 = 28;
    for reactor in REACTORS {
        let (files, serving) = fixture::serve(reactor);
        let mut client = serving.client("huge");
        client.write(0, b"kept").unwrap();
        let zeroes = |flags| (flags, command::WRITE_ZEROES, MIB, (1 << 30) as u32);
        let (flags, command, offset, length) = zeroes(flag::NO_HOLE);
        assert_eq!(client.call(flags, command, offset, length, &[]).unwrap(), ENOSPC);
        assert_eq!(client.write(1 << 40, &[1; 4 << 20]).unwrap(), ENOSPC);
        assert_eq!(client.read(0, 0, 4).unwrap().unwrap(), b"kept");
        assert_eq!(client.write(0, b"KEPT").unwrap(), 0, "what is there can be overwritten");
        assert_eq!(client.flush().unwrap(), 0);
        let (flags, command, offset, length) = zeroes(0);
        assert_eq!(client.call(flags, command, offset, length, &[]).unwrap(), 0);
        let writes = || client.write(1 << 40, &[1; 4 << 20]).unwrap() == 0;
        assert!(fixture::until(Duration::from_secs(5), writes), "the space does not come back");
        assert_eq!(client.read(0, 0, 4).unwrap().unwrap(), b"KEPT");
        drop(client);
        serving.stop();
        assert_eq!(files.check(), Vec::<String>::new());
    }
}

#[test]
fn an_idle_handshake_is_ended_at_its_deadline_and_an_idle_session_is_not() {
    for reactor in REACTORS {
        let limits = Limits { handshake: Duration::from_millis(300), ..Limits::default() };
        let (_files, serving) = fixture::serve_within(reactor, limits);
        let mut session = serving.client("disk");
        let mut silent = NbdClient::connect(&serving.socket).unwrap();
        let mut greeted = serving.greeted();
        let mut half = serving.greeted();
        half.send(&option_bytes(option::GO, &info_data(b"disk", &[]))[..20]).unwrap();
        // Options do not give it more time.
        let mut busy = serving.greeted();
        let started = Instant::now();
        while busy.ask(option::LIST, &[]).is_ok() {
            assert!(started.elapsed() < Duration::from_secs(5), "a handshake went on and on");
            std::thread::yield_now();
        }
        silent.greeting().unwrap();
        assert!(silent.is_dropped() && greeted.is_dropped() && half.is_dropped());
        let taken = started.elapsed();
        assert!(taken < Duration::from_secs(2), "{taken:?} with {reactor:?}");
        assert!(fixture::until(Duration::from_secs(1), || serving.handle.connections() == 1));
        assert_eq!(session.write(0, b"idle as well").unwrap(), 0);
        drop(session);
        serving.stop();
    }
}

#[test]
fn too_many_clients_are_turned_away_and_let_in_later() {
    for reactor in REACTORS {
        let limits = Limits { connections: 8, ..Limits::default() };
        let (_files, serving) = fixture::serve_within(reactor, limits);
        let mut clients: Vec<NbdClient> = (0..8).map(|_| serving.client("disk")).collect();
        for _ in 0..20 {
            let mut turned_away = NbdClient::connect(&serving.socket).unwrap();
            assert!(turned_away.is_dropped(), "one client too many was let in");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.write(number as u64 * 4096, b"undisturbed").unwrap(), 0);
        }
        clients.truncate(5);
        let let_in = || NbdClient::open(&serving.socket, "disk").map(|client| clients.push(client)).is_ok();
        assert!(fixture::until(Duration::from_secs(2), let_in));
        drop(clients);
        serving.wait_until_alone(Duration::from_secs(1));
        serving.stop();
    }
}

#[test]
fn byte_by_byte_is_fast_enough() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        let mut client = NbdClient::connect(&serving.socket).unwrap();
        client.greeting().unwrap();
        let contexts = vellum_tests::nbd_client::context_data(b"disk", &["base:allocation"]);
        let mut say = |parts: &[&[u8]]| {
            for byte in parts.concat().chunks(1) {
                client.send(byte).unwrap();
                std::thread::yield_now();
            }
        };
        say(&[
            &3u32.to_be_bytes(),
            &option_bytes(option::LIST, &[]),
            &option_bytes(option::STRUCTURED_REPLY, &[]),
            &option_bytes(option::SET_META_CONTEXT, &contexts),
            &option_bytes(option::GO, &info_data(b"disk", &[])),
            &request_bytes(0, command::WRITE, 1, 5, 1000),
            &[0x42; 1000],
            &request_bytes(0, command::FLUSH, 2, 0, 0),
            &request_bytes(0, command::DISC, 3, 0, 0),
        ]);
        // LIST has three replies, STRUCTURED_REPLY one, the others two each.
        for _ in 0..8 {
            client.answer().unwrap();
        }
        let mut cookies = [client.reply().unwrap(), client.reply().unwrap()].map(|reply| reply.cookie());
        cookies.sort_unstable();
        assert_eq!(cookies, [1, 2]);
        assert!(client.is_dropped());
        assert_eq!(serving.client("disk").read(0, 5, 1000).unwrap().unwrap(), [0x42; 1000]);
        serving.stop();
    }
}
