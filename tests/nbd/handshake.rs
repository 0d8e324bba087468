//! The handshake: what every option is answered, and what ends a connection.

use crate::fixture::{self, DISK_BYTES, REACTORS, Serving};
use crate::table::{Table, answer_name};
use std::io;
use std::time::{Duration, Instant};
use vellum_engine::storage::CacheMode;
use vellum_nbd_server::{Config, Limits};
use vellum_tests::nbd_client::{
    Answer, NbdClient, answer, command, context_data, export_of, info_data, option, option_bytes, u32_at,
    u64_at,
};

#[test]
fn the_handshake_conforms() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        serving.snapshot("disk", "frozen");
        let mut table = Table::new(format!("handshake, {reactor:?}"));
        greeting(&serving, &mut table);
        names(&serving, &mut table);
        options(&serving, &mut table);
        information(&serving, &mut table);
        export_name(&serving, &mut table);
        contexts(&serving, &mut table);
        serving.wait_until_alone(Duration::from_secs(1));
        table.finish();
        serving.stop();
    }
}

#[test]
fn a_default_export_conforms() {
    for reactor in REACTORS {
        let (files, serving) = fixture::serve(reactor);
        let mut table = Table::new(format!("default export, {reactor:?}"));
        let go =
            |serving: &Serving| answer_name(serving.greeted().ask_kind(option::GO, &info_data(b"", &[])));
        table.row("GO \"\", none configured", go(&serving), "UNKNOWN".into());
        let mut client = serving.greeted();
        client.send(&option_bytes(option::EXPORT_NAME, b"")).unwrap();
        table.holds("EXPORT_NAME \"\", none configured: dropped", client.is_dropped());
        serving.stop();

        let default_export = Some("huge".to_owned());
        let serving = files.serve(Config { default_export, ..fixture::config(reactor, Limits::default()) });
        table.row("GO \"\", configured", go(&serving), "ACK".into());
        let size = serving.greeted().go("").map(|export| export.size_bytes);
        table.row("size of the default export", size.ok(), Some(fixture::HUGE_BYTES));
        let mut client = serving.structured("", &["base:allocation"]);
        table.holds("its contexts", client.status(0, 0, 4096).is_ok_and(|told| told.is_ok()));
        table.finish();
        serving.stop();
    }
}

#[test]
fn tcp_conforms() {
    for reactor in REACTORS {
        let files = fixture::PoolFiles::create(CacheMode::Writeback).unwrap();
        let mut serving = files.serve(fixture::config(reactor, Limits::default()));
        serving.create_volume("disk", DISK_BYTES);
        let address = serving.server.listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = NbdClient::connect_tcp(address).unwrap();
        client.greet().unwrap();
        assert_eq!(client.go("disk").unwrap().size_bytes, DISK_BYTES);
        let bytes = fixture::pattern(1, 3 << 20);
        assert_eq!(client.write(777, &bytes).unwrap(), 0);
        assert!(client.read(0, 777, 3 << 20).unwrap().unwrap() == bytes);
        client.request(0, command::DISC, 0, 0, &[]).unwrap();
        assert!(client.is_dropped());

        let mut client = NbdClient::connect_tcp(address).unwrap();
        client.greet().unwrap();
        assert_eq!(client.ask_kind(option::ABORT, &[]).unwrap(), answer::ACK);
        assert!(client.is_dropped());
        serving.wait_until_alone(Duration::from_secs(1));
        serving.stop();
    }
}

fn greeting(serving: &Serving, table: &mut Table) {
    let mut client = NbdClient::connect(&serving.socket).unwrap();
    table.row("handshake flags", client.greeting().ok(), Some(3));
    for flags in [4u32, 1 << 31, 7, !0] {
        let mut client = NbdClient::connect(&serving.socket).unwrap();
        client.greeting().unwrap();
        client.send(&flags.to_be_bytes()).unwrap();
        table.holds(&format!("unknown client flags {flags:#x}: dropped"), client.is_dropped());
    }
    let mut client = serving.greeted();
    client.send(&[b'x'; 16]).unwrap();
    table.holds("bad option magic: dropped", client.is_dropped());
}

/// GO of this name, and whether the client and the server are still in step.
fn go(serving: &Serving, name: &[u8]) -> String {
    let mut client = serving.greeted();
    let told = answer_name(client.ask_kind(option::GO, &info_data(name, &[])));
    let in_step = told == "ACK" || client.ask_kind(option::LIST, &[]).is_ok();
    if in_step { told } else { format!("{told}, out of step") }
}

fn names(serving: &Serving, table: &mut Table) {
    table.row("GO, a volume", go(serving, b"disk"), "ACK".into());
    table.row("GO, a snapshot", go(serving, b"disk@frozen"), "ACK".into());
    table.row("GO, unknown export", go(serving, b"nothing"), "UNKNOWN".into());
    table.row("GO, name of 4096 bytes", go(serving, &[b'n'; 4096]), "UNKNOWN".into());
    table.row("GO, name of 4097 bytes", go(serving, &[b'n'; 4097]), "INVALID".into());
    table.row("GO, embedded NUL", go(serving, b"di\0sk"), "INVALID".into());
    table.row("GO, not UTF-8", go(serving, b"di\xffsk"), "INVALID".into());
    for name in [&b"nothing"[..], &[b'n'; 4097], b"di\0sk", b"\xff"] {
        let mut client = serving.greeted();
        client.send(&option_bytes(option::EXPORT_NAME, name)).unwrap();
        let shown = String::from_utf8_lossy(&name[..name.len().min(7)]).into_owned();
        table.holds(&format!("EXPORT_NAME {shown:?}: dropped"), client.is_dropped());
    }
}

fn options(serving: &Serving, table: &mut Table) {
    let mut client = serving.greeted();
    table.row("LIST with data", answer_name(client.ask_kind(option::LIST, b"data")), "INVALID".into());
    let listed = client.ask(option::LIST, &[]).map(|answers| names_of(&answers));
    let all = ["disk", "disk@frozen", "huge"].map(str::to_owned).to_vec();
    table.row("LIST", listed.ok(), Some(all));
    let with_data = answer_name(client.ask_kind(option::STRUCTURED_REPLY, b"data"));
    table.row("STRUCTURED_REPLY with data", with_data, "INVALID".into());
    let unknown = [("STARTTLS", option::STARTTLS), ("EXTENDED_HEADERS", option::EXTENDED_HEADERS)];
    for (name, number) in unknown.into_iter().chain([("option 99", 99), ("option 0", 0)]) {
        table.row(name, answer_name(client.ask_kind(number, &[])), "UNSUP".into());
    }
    table.row("unknown option with 64 KiB", answer_name(client.ask_kind(99, &[7; 65536])), "UNSUP".into());
    for (name, data) in [
        ("GO without data", vec![]),
        ("GO, name longer than the option", [0, 0, 0, 9, b'd'].to_vec()),
        ("GO, more requests than said", info_data(b"disk", &[1, 2])[..10].to_vec()),
        ("GO, bytes behind", [info_data(b"disk", &[]), vec![0]].concat()),
    ] {
        table.row(name, answer_name(client.ask_kind(option::GO, &data)), "INVALID".into());
    }
    table.row("ABORT", answer_name(client.ask_kind(option::ABORT, &[])), "ACK".into());
    table.holds("ABORT: closed", client.is_dropped());
    let mut client = serving.greeted();
    table.row("ABORT with data", answer_name(client.ask_kind(option::ABORT, b"data")), "ACK".into());

    let mut client = serving.greeted();
    let started = Instant::now();
    let mut endless = option_bytes(option::GO, &[]);
    endless[12..].fill(0xff);
    client.send(&endless).unwrap();
    let at_once = client.is_dropped() && started.elapsed() < Duration::from_secs(2);
    table.holds("option length 0xffffffff: dropped at once", at_once);

    let mut client = serving.greeted();
    client.send(&option_bytes(option::INFO, &info_data(b"huge", &[])).repeat(3000)).unwrap();
    let answered = (0..6000).map_while(|_| client.answer().ok()).filter(Answer::is_last).count();
    table.row("3000 options in a row: answered", answered, 3000);
    table.row("and then GO", client.go("disk").ok().map(|export| export.size_bytes), Some(DISK_BYTES));
}

fn names_of(answers: &[Answer]) -> Vec<String> {
    let servers = answers.iter().filter(|answer| answer.kind == answer::SERVER);
    let name = |answer: &Answer| answer.data[4..4 + u32_at(&answer.data, 0) as usize].to_vec();
    servers.map(|answer| String::from_utf8_lossy(&name(answer)).into_owned()).collect()
}

fn information(serving: &Serving, table: &mut Table) {
    let mut client = serving.greeted();
    let answers = client.ask(option::INFO, &info_data(b"disk", &[0, 1, 2, 3, 999])).unwrap();
    table.row("INFO: size", export_of(&answers).ok().map(|export| export.size_bytes), Some(DISK_BYTES));
    let told = |kind: u16| {
        let fits = |answer: &&Answer| answer.kind == answer::INFO && answer.data[..2] == kind.to_be_bytes();
        answers.iter().find(fits).map(|answer| answer.data[2..].to_vec())
    };
    table.row("INFO: name", told(1), Some(b"disk".to_vec()));
    table.holds("INFO: description", told(2).is_some_and(|text| !text.is_empty()));
    let sizes = told(3).map(|data| [u32_at(&data, 0), u32_at(&data, 4), u32_at(&data, 8)]);
    table.row("INFO: block sizes", sizes, Some([1, 4096, 32 << 20]));
    let flags = |client: &mut NbdClient, name: &[u8]| {
        let answers = client.ask(option::INFO, &info_data(name, &[]));
        answers.and_then(|answers| export_of(&answers)).map_or(0, |export| export.flags)
    };
    // HAS_FLAGS 1, READ_ONLY 2, FLUSH 4, FUA 8, TRIM 32, WRITE_ZEROES 64, DF 128, MULTI_CONN 256, CACHE 1024, FAST_ZERO 2048.
    table.row("flags of a volume", flags(&mut client, b"disk"), 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048);
    table.row("flags of a snapshot", flags(&mut client, b"disk@frozen"), 1 | 2 | 4 | 8 | 256 | 1024);
    client.agree_on_structured().unwrap();
    let structured = flags(&mut client, b"disk");
    table.row("and with structured replies", structured, 1 | 4 | 8 | 32 | 64 | 128 | 256 | 1024 | 2048);
    let unknown = client.ask_kind(option::INFO, &info_data(b"nothing", &[]));
    table.row("INFO, unknown export", answer_name(unknown), "UNKNOWN".into());
    table.row("INFO, then GO", client.go("disk").ok().map(|export| export.size_bytes), Some(DISK_BYTES));
}

fn export_name(serving: &Serving, table: &mut Table) {
    for (flags, zeroes) in [(3u32, 0), (1, 124), (0, 124)] {
        let mut client = NbdClient::connect(&serving.socket).unwrap();
        client.greeting().unwrap();
        client.send(&flags.to_be_bytes()).unwrap();
        client.send(&option_bytes(option::EXPORT_NAME, b"disk")).unwrap();
        let told = client.receive(10 + zeroes).unwrap_or_else(|_| vec![0; 10]);
        let right = u64_at(&told, 0) == DISK_BYTES && told[10..].iter().all(|byte| *byte == 0);
        // What follows must be the reply to this, and nothing else.
        let in_step = client.write(5, b"bytes").is_ok_and(|error| error == 0);
        table.holds(&format!("EXPORT_NAME, client flags {flags}"), right && in_step);
    }
}

/// The contexts that BLOCK_STATUS answers for after `talk`: how many, or the error.
fn agreed(serving: &Serving, talk: impl FnOnce(&mut NbdClient) -> io::Result<()>) -> String {
    let mut client = serving.greeted();
    let told = client
        .agree_on_structured()
        .and_then(|()| talk(&mut client))
        .and_then(|()| client.go("disk"))
        .and_then(|_| client.status(0, 0, 65536));
    match told {
        Ok(Ok(contexts)) => format!("{} contexts", contexts.len()),
        Ok(Err(errno)) => crate::table::errno_name(errno),
        Err(cause) => cause.to_string(),
    }
}

fn contexts(serving: &Serving, table: &mut Table) {
    let mut client = serving.greeted();
    for option in [option::SET_META_CONTEXT, option::LIST_META_CONTEXT] {
        let told = client.ask_kind(option, &context_data(b"disk", &["base:allocation"]));
        table.row(&format!("option {option} before structured replies"), answer_name(told), "INVALID".into());
    }
    client.agree_on_structured().unwrap();
    let mut listed = |queries: &[&str]| {
        let answers = client.ask(option::LIST_META_CONTEXT, &context_data(b"disk", queries));
        answers.map_or(0, |answers| answers.iter().filter(|a| a.kind == answer::META_CONTEXT).count())
    };
    table.row("LIST_META_CONTEXT without queries", listed(&[]), 2);
    table.row("LIST_META_CONTEXT base:", listed(&["base:"]), 1);
    table.row("LIST_META_CONTEXT of a foreign namespace", listed(&["qemu:"]), 0);
    for (name, export, queries, wanted) in [
        ("SET_META_CONTEXT, foreign namespace", &b"disk"[..], &["qemu:allocation-depth"][..], "ACK"),
        ("SET_META_CONTEXT, no namespace", b"disk", &["allocation"], "INVALID"),
        ("SET_META_CONTEXT, unknown export", b"nothing", &["base:allocation"], "UNKNOWN"),
        ("SET_META_CONTEXT, 1000 queries", b"disk", &["a:b"; 1000], "TOO_BIG"),
    ] {
        let told = client.ask_kind(option::SET_META_CONTEXT, &context_data(export, queries));
        table.row(name, answer_name(told), wanted.into());
    }
    let set = |client: &mut NbdClient, export: &str, queries: &[&str]| {
        client.ask(option::SET_META_CONTEXT, &context_data(export.as_bytes(), queries)).map(drop)
    };
    let both = ["base:allocation", "x-vellum:shared"];
    table.row("BLOCK_STATUS, both set", agreed(serving, |c| set(c, "disk", &both)), "2 contexts".into());
    table.row("BLOCK_STATUS, none set", agreed(serving, |_| Ok(())), "EINVAL".into());
    let replaced = agreed(serving, |c| set(c, "disk", &both).and_then(|()| set(c, "disk", &both[..1])));
    table.row("a set replaces the one before", replaced, "1 contexts".into());
    let failed = agreed(serving, |c| set(c, "disk", &both).and_then(|()| set(c, "nothing", &both)));
    table.row("a failed set too", failed, "EINVAL".into());
    let other = agreed(serving, |c| set(c, "huge", &both));
    table.row("set for another export than GO's", other, "EINVAL".into());
}
