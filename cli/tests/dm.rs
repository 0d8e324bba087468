//! `vellum dm` on metadata of dm-thin: what it tells and refuses, and what it leaves behind.

#[allow(dead_code)]
mod common;

use common::{Bench, VELLUM, ran, run_on};
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use vellum_cli::exit::Kind;

/// Two devices that share ten blocks; the first has fifty more.
const XML: &str = "<superblock uuid=\"\" time=\"1\" transaction=\"3\" version=\"2\" data_block_size=\"128\" nr_data_blocks=\"1000\">
  <device dev_id=\"1\" mapped_blocks=\"60\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">
    <range_mapping origin_begin=\"0\" data_begin=\"0\" length=\"10\" time=\"0\"/>
    <range_mapping origin_begin=\"20\" data_begin=\"100\" length=\"50\" time=\"1\"/>
  </device>
  <device dev_id=\"2\" mapped_blocks=\"10\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">
    <range_mapping origin_begin=\"0\" data_begin=\"0\" length=\"10\" time=\"0\"/>
  </device>
</superblock>
";

struct Files {
    bench: Bench,
    xml: String,
    metadata: String,
}

impl Files {
    fn new() -> Self {
        let bench = Bench::empty();
        let [xml, metadata] = ["pool.xml", "tmeta"].map(|name| bench.path(name).display().to_string());
        fs::write(&xml, XML).unwrap();
        Self { bench, xml, metadata }
    }

    fn restored() -> Self {
        let files = Self::new();
        files.bench.ok(&["dm", "restore", "-i", &files.xml, "-o", &files.metadata, "--size", "4M"]);
        files
    }

    /// Changes a byte of a metadata block.
    fn break_block(&self, block: u64) {
        let file = fs::File::options().write(true).open(&self.metadata).unwrap();
        file.write_all_at(&[0xff; 8], block * 4096 + 100).unwrap();
    }
}

#[test]
fn xml_goes_there_and_back() {
    let Files { bench, xml, metadata } = Files::new();
    let restored = bench.json(&["dm", "restore", "-i", &xml, "-o", &metadata, "--size", "4M"]);
    assert_eq!((&restored["devices"], &restored["mappings"]), (&2.into(), &70.into()));
    assert_eq!((&restored["data_blocks_used"], &restored["metadata_bytes"]), (&60.into(), &(4 << 20).into()));
    assert_eq!(bench.ok(&["dm", "dump", &metadata]).trim(), XML.trim());
    let check = bench.json(&["dm", "check", &metadata]);
    assert_eq!(
        (&check["clean"], &check["devices"], &check["mappings"]),
        (&true.into(), &2.into(), &70.into())
    );
    assert!(bench.ok(&["dm", "check", &metadata]).starts_with("sound: 2 devices, 70 mapped blocks"));
    let again = bench.path("again.xml").display().to_string();
    let dumped = bench.json(&["dm", "dump", &metadata, "-o", &again]);
    assert_eq!((&dumped["mappings"], &dumped["lost"]), (&70.into(), &serde_json::json!([])));
    assert_eq!(fs::read_to_string(&again).unwrap().trim(), XML.trim());
    // Neither a pool nor a directory is needed or made.
    assert!(!bench.pool().exists());
    let piped = Command::new("sh")
        .args(["-c", "\"$0\" dm dump \"$1\" | \"$0\" dm restore -i - -o \"$2\" --size 1M", VELLUM, &metadata])
        .arg(bench.path("other"))
        .status();
    assert!(piped.unwrap().success());
    assert!(fs::read(bench.path("other")).unwrap().len() == 1 << 20);
}

#[test]
fn what_is_there_is_kept_unless_forced() {
    let Files { bench, xml, metadata } = Files::restored();
    let before = fs::read(&metadata).unwrap();
    let restore = ["dm", "restore", "-i", xml.as_str(), "-o", metadata.as_str()];
    bench.fails(Kind::Exists, &restore);
    bench.fails(Kind::Exists, &[&restore[..], &["--size", "8M"]].concat());
    bench.fails(Kind::Exists, &["dm", "dump", &metadata, "-o", &xml]);
    assert_eq!(fs::read(&metadata).unwrap(), before);
    bench.ok(&[&restore[..], &["--force"]].concat());
    assert_eq!(fs::read(&metadata).unwrap(), before);
    fs::write(&metadata, vec![0; 1 << 20]).unwrap();
    bench.ok(&restore);
    assert!(
        bench.fails(Kind::NotFound, &["dm", "restore", "-i", &xml, "-o", "/nowhere/x"]).contains("--size")
    );
}

#[test]
fn a_failed_restore_leaves_no_new_file_and_names_the_place() {
    let Files { bench, xml, metadata } = Files::new();
    let restore = ["dm", "restore", "-i", xml.as_str(), "-o", metadata.as_str(), "--size"];
    let error = bench.fails(Kind::NoSpace, &[&restore[..], &["16K"]].concat());
    assert!(error.contains("metadata blocks") && !fs::exists(&metadata).unwrap(), "{error}");
    fs::write(&xml, XML.replace("length=\"50\"", "length=\"many\"")).unwrap();
    let error = bench.fails(Kind::Invalid, &[&restore[..], &["1M"]].concat());
    assert!(error.contains("pool.xml") && error.contains("of the XML"), "{error}");
    assert!(!fs::exists(&metadata).unwrap());
    fs::write(&xml, XML.replace("mapped_blocks=\"60\"", "mapped_blocks=\"61\"")).unwrap();
    let told = bench.ok(&[&restore[..], &["1M"]].concat());
    assert!(told.contains("device 1 has 60 mapped blocks, and the XML says 61"), "{told}");
}

#[test]
fn damage_is_told_and_read_past() {
    let files = Files::restored();
    let Files { bench, metadata, .. } = &files;
    // The first node that is written is the leaf of device 1.
    files.break_block(1);
    let ran = bench.run(&["dm", "check", metadata]);
    assert_eq!(ran.code, i32::from(Kind::Damaged.code()));
    assert!(ran.out.contains("node (device 1") && ran.out.contains("DAMAGED: "), "{}", ran.out);
    let ran = bench.run(&["dm", "check", metadata, "--json"]);
    let check: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&check["clean"], &check["findings"][0]["defect"]), (&false.into(), &"node".into()));
    let never = bench.path("never-made.xml").display().to_string();
    let error = bench.fails(Kind::Damaged, &["dm", "dump", metadata, "-o", &never]);
    assert!(error.contains("--lenient") && !fs::exists(&never).unwrap(), "{error}");
    let out = bench.path("left.xml").display().to_string();
    let dumped = bench.json(&["dm", "dump", metadata, "--lenient", "-o", &out]);
    assert_eq!((&dumped["devices"], &dumped["mappings"]), (&2.into(), &10.into()));
    assert_eq!((&dumped["lost"][0]["device"], &dumped["lost"][0]["first"]), (&1.into(), &0.into()));
    let ran = bench.run(&["dm", "dump", metadata, "--lenient"]);
    assert!(ran.code == 0 && ran.err.starts_with("lost: device 1, blocks 0 to the end"), "{}", ran.err);
    assert_eq!(ran.out, fs::read_to_string(&out).unwrap());
}

#[test]
fn what_nothing_leads_to_is_searched_for() {
    let files = Files::restored();
    let Files { bench, metadata, .. } = &files;
    let out = |name: &str| bench.path(name).display().to_string();
    bench.json(&["dm", "dump", metadata, "-o", &out("whole.xml")]);
    // Behind the leaves of both devices stands the tree of devices.
    files.break_block(3);
    let dumped = bench.json(&["dm", "dump", metadata, "--lenient", "-o", &out("found.xml")]);
    let found = |device: u32, mappings: u32| serde_json::json!({"device": device, "mappings": mappings});
    assert_eq!(dumped["found"], serde_json::json!([found(1, 60), found(2, 10)]));
    let [whole, found] = ["whole.xml", "found.xml"].map(|name| fs::read_to_string(out(name)).unwrap());
    assert_eq!(whole, found);
    let ran = bench.run(&["dm", "dump", metadata, "--lenient"]);
    assert!(ran.err.contains("found: device 1, 60 mapped blocks"), "{}", ran.err);
}

#[test]
fn what_is_no_metadata_is_unsupported() {
    let bench = Bench::with_pool();
    let metadata = bench.pool().join("metadata").display().to_string();
    bench.fails(Kind::Unsupported, &["dm", "dump", &metadata]);
    let ran = run_on(&bench.pool(), &["dm", "check", &metadata]);
    assert!(
        ran.code == i32::from(Kind::Damaged.code()) && ran.out.contains("no dm-thin metadata"),
        "{}",
        ran.out
    );
    bench.fails(Kind::NotFound, &["dm", "check", "/nowhere"]);
    let files = Files::restored();
    let error = files.bench.fails(Kind::Invalid, &["dm", "dump", &files.metadata, "--metadata-snapshot"]);
    assert!(error.contains("no metadata snapshot"), "{error}");
    let help = ran_help();
    assert!(help.contains("thin_restore"), "{help}");
}

fn ran_help() -> String {
    ran(Command::new(VELLUM).args(["dm", "dump", "--help"])).out
}
