//! Changes of volumes that clients are connected to: refused, or forced once the clients are gone.
//!
//! Owns what a client sees of them. What the changes do is for the tests of the engine.

use super::fixture::{self, DISK_BYTES, REACTORS, Serving};
use std::sync::mpsc;
use std::time::Duration;
use vellum_engine::error::ErrorKind;
use vellum_engine::request::Request;
use vellum_engine::units::VolumeId;
use vellum_tests::nbd_client::{NbdClient, command};

const SOON: Duration = Duration::from_secs(10);

fn id(serving: &Serving, name: &str) -> VolumeId {
    serving.handle.volume(name).expect("it is there").id
}

/// Every change that takes something from clients of `disk`, which has the snapshot `disk@a`.
fn changes(serving: &Serving) -> Vec<Request> {
    let (volume, snapshot) = (id(serving, "disk"), id(serving, "disk@a"));
    vec![
        Request::Resize { volume, size_bytes: DISK_BYTES / 2 },
        Request::Rollback { volume, snapshot },
        Request::Rename { volume, name: "other".to_owned() },
        Request::Delete { volumes: vec![volume, snapshot], deferred: false },
    ]
}

#[test]
fn what_clients_use_is_not_changed_under_them() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        serving.snapshot("disk", "a");
        let mut client = serving.client("disk");
        client.write(0, b"mine").unwrap();
        for change in changes(&serving) {
            let refused = serving.handle.request(change).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Busy);
            assert!(refused.message().contains("'disk' is in use by a connection"), "{refused}");
        }
        drop(client);
        serving.wait_until_alone(SOON);
        let client = serving.client("disk@a");
        let rename = Request::Rename { volume: id(&serving, "disk"), name: "other".to_owned() };
        let refused = serving.handle.request(rename).unwrap_err();
        assert!(refused.message().contains("'disk@a' is in use"), "{refused}");
        drop(client);
        serving.wait_until_alone(SOON);
        changes(&serving).into_iter().for_each(|change| drop(serving.handle.request(change).unwrap()));
        serving.stop();
    }
}

#[test]
fn a_forced_change_ends_the_connections_first() {
    for reactor in REACTORS {
        for index in 0..4 {
            let (files, serving) = fixture::serve(reactor);
            serving.snapshot("disk", "a");
            let mut clients: Vec<NbdClient> = (0..3).map(|_| serving.client("disk")).collect();
            let mut bystander = serving.client("huge");
            for client in &mut clients {
                for at in 0..20 {
                    client.request(0, command::WRITE, at << 16, 4096, &fixture::pattern(at, 4096)).unwrap();
                }
            }
            serving.handle.request_forced(changes(&serving).swap_remove(index)).unwrap();
            for mut client in clients {
                while client.reply().is_ok() {}
            }
            bystander.write(0, b"still here").unwrap();
            if index == 1 {
                let read = serving.client("disk").read(0, 0, 20 << 16).unwrap().unwrap();
                assert!(read.iter().all(|byte| *byte == 0), "a write came behind the rollback");
            }
            drop(bystander);
            serving.stop();
            assert_eq!(files.check(), Vec::<String>::new());
        }
    }
}

#[test]
fn the_last_hold_takes_nothing_from_clients() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        serving.snapshot("disk", "a");
        let volume = id(&serving, "disk@a");
        let tag = || "tag".to_owned();
        serving.handle.request(Request::Hold { volume, tag: tag() }).unwrap();
        serving.handle.request(Request::Delete { volumes: vec![volume], deferred: true }).unwrap();
        let client = serving.client("disk@a");
        let refused = serving.handle.request(Request::Release { volume, tag: tag() });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
        serving.handle.request_forced(Request::Release { volume, tag: tag() }).unwrap();
        assert!(serving.handle.volume("disk@a").is_none());
        drop(client);
        serving.stop();
    }
}

#[test]
fn a_larger_volume_keeps_its_clients() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        let mut client = serving.client("disk");
        let volume = id(&serving, "disk");
        serving.handle.request(Request::Resize { volume, size_bytes: 2 * DISK_BYTES }).unwrap();
        client.write(DISK_BYTES - 4, b"edge").unwrap();
        let mut other = serving.client("disk");
        other.write(2 * DISK_BYTES - 4, b"edge").unwrap();
        assert_eq!(client.read(0, DISK_BYTES - 4, 4).unwrap().unwrap(), b"edge");
        drop((client, other));
        serving.stop();
    }
}

/// Clients that come while a volume is changed find it as it was before or as it is afterwards, and never lose what they
/// were told is written.
#[test]
fn nobody_gets_in_while_a_volume_is_changed() {
    for reactor in REACTORS {
        let (files, serving) = fixture::serve(reactor);
        let socket = serving.socket.clone();
        let (stop, stopped) = mpsc::channel::<()>();
        let visitor = std::thread::spawn(move || {
            let mut visits = 0u64;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let Ok(mut client) = NbdClient::open(&socket, "disk") else { continue };
                // It may be cut off at any moment.
                let _ = client.write(0, &visits.to_le_bytes());
                visits += 1;
            }
            visits
        });
        let volume = id(&serving, "disk");
        for round in 0..30 {
            let size_bytes = DISK_BYTES / 2 + round % 2 * DISK_BYTES / 2;
            serving.handle.request_forced(Request::Resize { volume, size_bytes }).unwrap();
        }
        serving.handle.request_forced(Request::Delete { volumes: vec![volume], deferred: false }).unwrap();
        drop(stop);
        assert!(visitor.join().unwrap() > 0);
        serving.wait_until_alone(SOON);
        serving.stop();
        assert_eq!(files.check(), Vec::<String>::new());
    }
}
