//! `vellum dm export` and `vellum dm import`: a pool goes to the kernel and comes back, and thin pools are taken.

#[allow(dead_code)]
mod common;

use common::Bench;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vellum_cli::exit::Kind;
use vellum_dm_bridge::format::DeviceDetails;
use vellum_dm_bridge::{Device, Metadata, MetadataWriter, Packing, PoolHeader, Sink};
use vellum_engine::options::OpenOptions;
use vellum_engine::request::Request;
use vellum_engine::storage::FileDisk;
use vellum_engine::units::BLOCK_BYTES;
use vellum_engine::{Pool, adopt};

fn opened(directory: &Path) -> Pool<FileDisk> {
    let open = |name: &str| FileDisk::open(directory.join(name)).unwrap();
    Pool::open(open("data"), open("metadata"), &OpenOptions::default()).unwrap()
}

/// What every volume and snapshot holds.
fn content(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut pool = opened(directory);
    let volumes = pool.volumes();
    let content = volumes
        .into_iter()
        .map(|info| (info.name, pool.read(info.id, 0, info.size_bytes).unwrap()))
        .collect();
    pool.close().unwrap();
    content
}

/// A pool with a snapshot, a hole in a shared block, and a block of two layers.
fn bench() -> Bench {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1M"]);
    let mut pool = opened(&bench.pool());
    let disk = pool.find("disk").unwrap();
    for block in 0..8 {
        pool.write(disk, block * BLOCK_BYTES, vec![block as u8 + 1; BLOCK_BYTES as usize]).unwrap();
    }
    pool.close().unwrap();
    bench.ok(&["snapshot", "create", "disk@monday"]);
    let mut pool = opened(&bench.pool());
    pool.request(Request::Discard { volume: disk, offset_bytes: 4096, length_bytes: 4096, fua: false })
        .unwrap();
    pool.write(disk, BLOCK_BYTES, vec![99; 4096]).unwrap();
    pool.close().unwrap();
    bench
}

#[test]
fn a_pool_goes_to_the_kernel_and_comes_back() {
    let bench = bench();
    let before = content(&bench.pool());
    let listed = bench.names("volume");
    let thin = bench.path("tmeta").display().to_string();
    let given = bench.json(&["dm", "export", "--metadata", &thin]);
    assert_eq!((&given["copied_blocks"], &given["filled_blocks"]), (&1.into(), &1.into()), "{given}");
    let device = |at: usize, field: &str| given["devices"][at][field].clone();
    assert_eq!(
        (device(0, "device"), device(0, "name"), device(0, "size_bytes")),
        (1.into(), "disk".into(), (1 << 20).into())
    );
    assert_eq!((device(1, "name"), device(1, "kind")), ("disk@monday".into(), "snapshot".into()));
    assert_eq!(given["data_blocks"], (64 << 20) / BLOCK_BYTES);
    assert!(bench.ok(&["dm", "check", &thin]).starts_with("sound: 2 devices, 16 mapped blocks"));
    assert!(fs::metadata(bench.pool().join("data")).unwrap().len() == 64 << 20);
    // Nobody but the kernel has it now, and whoever asks learns what to do.
    for command in [&["pool", "status"][..], &["volume", "list"], &["pool", "repair"]] {
        let error = bench.fails(Kind::InUse, command);
        assert!(error.contains("kernel") && error.contains("vellum dm import"), "{error}");
    }
    assert!(bench.ok(&["pool", "check"]).starts_with("note: the kernel's dm-thin has the pool"));
    let other = bench.path("other").display().to_string();
    bench.fails(Kind::InUse, &["dm", "export", "--metadata", &other]);
    assert!(!fs::exists(&other).unwrap());
    bench.fails(Kind::Exists, &["dm", "import", "--metadata", &thin, "--copy"]);
    bench.fails(Kind::Mismatch, &["dm", "import", "--metadata", &thin, "--data", &thin]);
    let taken = bench.json(&["dm", "import", "--metadata", &thin]);
    assert_eq!(
        (&taken["adopted"], &taken["volumes"][1]["name"]),
        (&true.into(), &"disk@monday".into()),
        "{taken}"
    );
    assert_eq!(content(&bench.pool()), before);
    assert_eq!(bench.names("volume"), listed);
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
    // The kernel cannot take it any more.
    bench.fails(Kind::Unsupported, &["dm", "dump", &thin]);
    bench.fails(Kind::Exists, &["dm", "import", "--metadata", &thin, "--data", &thin]);
    assert!(!bench.pool().join("superblock.imported").exists());
    bench.ok(&["dm", "export", "--metadata", &thin, "--force"]);
    assert_eq!(bench.json(&["dm", "check", &thin])["clean"], true);
}

#[test]
fn a_refused_export_leaves_the_pool_as_it_was() {
    let bench = bench();
    let before = content(&bench.pool());
    let thin = bench.path("tmeta").display().to_string();
    // What there is to do is told before it turns out that it does not fit.
    let ran = bench.run(&["dm", "export", "--metadata", &thin, "--size", "16K"]);
    assert_eq!(ran.code, i32::from(Kind::NoSpace.code()));
    assert!(ran.err.contains("copying 1 blocks") && ran.err.contains("metadata blocks"), "{}", ran.err);
    assert!(!fs::exists(&thin).unwrap());
    fs::write(&thin, "somebody's").unwrap();
    bench.fails(Kind::Exists, &["dm", "export", "--metadata", &thin]);
    assert_eq!(fs::read_to_string(&thin).unwrap(), "somebody's");
    for own in ["data", "metadata"].map(|name| bench.pool().join(name).display().to_string()) {
        let error = bench.fails(Kind::Invalid, &["dm", "export", "--metadata", &own, "--force"]);
        assert!(error.contains("belongs to the pool itself"), "{error}");
    }
    let server = bench.serve(&["serve"]);
    bench.fails(Kind::InUse, &["dm", "export", "--metadata", &thin, "--force"]);
    server.stop();
    assert_eq!(content(&bench.pool()), before);
}

#[test]
fn an_interrupted_export_goes_on_and_an_interrupted_import_begins_again() {
    let bench = bench();
    let before = content(&bench.pool());
    let thin = bench.path("tmeta").display().to_string();
    bench.ok(&["dm", "export", "--metadata", &thin]);
    // As if the power had gone just before the superblock.
    let given = adopt::given(&mut FileDisk::open(bench.pool().join("metadata")).unwrap()).unwrap();
    let unfinished = |incarnation: u64| {
        let mut first = b"dm-thin metadata is being written here and is not complete\n".to_vec();
        first.extend(given.pool.into_iter().chain(incarnation.to_le_bytes()));
        first.resize(4096, 0);
        first
    };
    // What an earlier export has left elsewhere does not go on: the kernel may have written since.
    let old = bench.path("old").display().to_string();
    fs::write(&old, [unfinished(given.incarnation.0 - 1), vec![0; 4 << 20]].concat()).unwrap();
    bench.fails(Kind::InUse, &["dm", "export", "--metadata", &old]);
    let first = unfinished(given.incarnation.0);
    let file = fs::File::options().read(true).write(true).open(&thin).unwrap();
    file.write_all_at(&first, 0).unwrap();
    let error = bench.fails(Kind::Unsupported, &["dm", "import", "--metadata", &thin]);
    assert!(error.contains("no dm-thin metadata"), "{error}");
    let error = bench.fails(Kind::InUse, &["pool", "status"]);
    assert!(error.contains("`vellum dm export` was interrupted") && error.contains(&thin), "{error}");
    bench.ok(&["dm", "export", "--metadata", &thin]);
    assert_eq!(bench.json(&["dm", "check", &thin])["clean"], true);
    // As if it had gone before the new metadata had its name.
    let given = fs::read(bench.pool().join("metadata")).unwrap();
    let mut superblock = vec![0; 4096];
    file.read_exact_at(&mut superblock, 0).unwrap();
    bench.ok(&["dm", "import", "--metadata", &thin]);
    fs::write(bench.pool().join("metadata"), given).unwrap();
    // Without what an import keeps, only a revocation can have done that.
    let error = bench.fails(Kind::InUse, &["dm", "import", "--metadata", &thin]);
    assert!(error.contains("dm revoke"), "{error}");
    std::os::unix::fs::symlink(&thin, bench.pool().join("thin-metadata")).unwrap();
    let error = bench.fails(Kind::InUse, &["pool", "status"]);
    assert!(error.contains("`vellum dm revoke --force` was interrupted"), "{error}");
    // It is kept with the mark that took its place.
    let mut marked = vec![0; 4096];
    file.read_exact_at(&mut marked, 0).unwrap();
    let mark = vellum_dm_bridge::import::imported_mark(&marked).unwrap();
    let kept = bench.pool().join("superblock.imported");
    fs::write(&kept, [&superblock[..], &[0; 16]].concat()).unwrap();
    bench.fails(Kind::InUse, &["dm", "import", "--metadata", &thin]);
    let kept_bytes = [&superblock[..], &mark].concat();
    fs::write(&kept, &kept_bytes).unwrap();
    let error = bench.fails(Kind::InUse, &["pool", "status"]);
    assert!(error.contains("`vellum dm import` was interrupted"), "{error}");
    bench.ok(&["dm", "import", "--metadata", &thin]);
    // What came back once does not come back for a later giving away.
    let other = bench.path("other").display().to_string();
    bench.ok(&["dm", "export", "--metadata", &other]);
    fs::write(&kept, &kept_bytes).unwrap();
    bench.fails(Kind::Exists, &["dm", "import", "--metadata", &thin]);
    bench.ok(&["dm", "import", "--metadata", &other]);
    assert_eq!(content(&bench.pool()), before);
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
}

#[test]
fn a_hand_over_is_revoked_when_nothing_came_of_it_or_the_metadata_is_lost() {
    let bench = bench();
    let before = content(&bench.pool());
    let thin = bench.path("tmeta").display().to_string();
    bench.fails(Kind::Invalid, &["dm", "revoke"]);
    bench.ok(&["dm", "export", "--metadata", &thin]);
    let superblock = fs::read(&thin).unwrap()[..4096].to_vec();
    // The kernel may have had it.
    for command in [&["dm", "revoke"][..], &["dm", "revoke", "--metadata", &thin]] {
        let error = bench.fails(Kind::InUse, command);
        assert!(error.contains("dm import") && error.contains("--force"), "{error}");
    }
    // The power had gone just before the superblock.
    let given = adopt::given(&mut FileDisk::open(bench.pool().join("metadata")).unwrap()).unwrap();
    let file = fs::File::options().read(true).write(true).open(&thin).unwrap();
    let mut first = b"dm-thin metadata is being written here and is not complete\n".to_vec();
    first.extend(given.mark());
    first.resize(4096, 0);
    file.write_all_at(&first, 0).unwrap();
    assert_eq!(bench.json(&["dm", "revoke", "--metadata", &thin])["untouched"], true);
    assert_eq!(content(&bench.pool()), before);
    // What was begun there is no hand-over any more.
    let exported = bench.json(&["dm", "export", "--metadata", &thin]);
    assert_eq!(exported["devices"][0]["name"], "disk");
    // That superblock was of the hand-over before.
    let newest = fs::read(&thin).unwrap()[..4096].to_vec();
    file.write_all_at(&superblock, 0).unwrap();
    bench.fails(Kind::Mismatch, &["dm", "import", "--metadata", &thin]);
    bench.fails(Kind::Mismatch, &["dm", "revoke", "--metadata", &thin, "--force"]);
    file.write_all_at(&newest, 0).unwrap();
    assert_eq!(bench.json(&["dm", "revoke", "--metadata", &thin, "--force"])["untouched"], false);
    bench.fails(Kind::Unsupported, &["dm", "dump", &thin]);
    assert_eq!(content(&bench.pool()), before);
    bench.ok(&["dm", "export", "--metadata", &thin, "--force"]);
    // Interrupted behind its first step, a revocation goes on, and an import says so.
    let given = fs::read(bench.pool().join("metadata")).unwrap();
    bench.ok(&["dm", "revoke", "--metadata", &thin, "--force"]);
    fs::write(bench.pool().join("metadata"), given).unwrap();
    bench.fails(Kind::InUse, &["dm", "import", "--metadata", &thin]);
    // What an import of an earlier hand-over has left says nothing.
    fs::write(bench.pool().join("superblock.imported"), [0; 4112]).unwrap();
    assert_eq!(bench.json(&["dm", "revoke", "--metadata", &thin])["untouched"], false);
    assert_eq!(content(&bench.pool()), before);
    bench.ok(&["dm", "export", "--metadata", &thin, "--force"]);
    // Lost altogether.
    fs::remove_file(&thin).unwrap();
    bench.ok(&["dm", "revoke", "--force"]);
    assert_eq!(content(&bench.pool()), before);
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
}

#[test]
fn metadata_elsewhere_stays_elsewhere() {
    let bench = bench();
    let before = content(&bench.pool());
    let elsewhere = bench.path("elsewhere");
    fs::rename(bench.pool().join("metadata"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, bench.pool().join("metadata")).unwrap();
    let thin = bench.path("tmeta").display().to_string();
    bench.ok(&["dm", "export", "--metadata", &thin]);
    bench.ok(&["dm", "import", "--metadata", &thin]);
    assert!(bench.pool().join("metadata").is_symlink() && elsewhere.is_file());
    assert_eq!(content(&bench.pool()), before);
    assert_eq!(fs::read_dir(bench.pool()).unwrap().count(), 2);
}

/// As if the kernel had made snapshots of device 1.
fn make_copies(path: &Path, numbers: &[u32]) {
    let before = Metadata::open(fs::read(path).unwrap()).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut writer = MetadataWriter::new(file, Packing::Full).unwrap();
    let devices: Vec<Device> = before.devices().map(Result::unwrap).collect();
    let details = DeviceDetails { creation_time: 2, ..devices[0].details };
    let copies = numbers.iter().map(|id| Device { id: *id, details, ..devices[0] });
    writer.begin(&PoolHeader { time: 2, ..before.header().unwrap() }).unwrap();
    for device in devices.iter().copied().chain(copies) {
        writer.device(device.id, &device.details).unwrap();
        before.runs(&device).for_each(|run| writer.run(&run.unwrap()).unwrap());
        writer.device_end().unwrap();
    }
    writer.end().unwrap();
}

#[test]
fn what_the_kernel_made_meanwhile_has_the_name_and_size_that_were_kept() {
    let bench = bench();
    let thin = bench.path("tmeta").display().to_string();
    let in_pool = |name: &str| bench.pool().join(name);
    bench.fails(Kind::Usage, &["dm", "import"]);
    bench.ok(&["dm", "export", "--metadata", &thin]);
    assert_eq!(fs::read_link(in_pool("thin-metadata")).unwrap().display().to_string(), thin);
    make_copies(Path::new(&thin), &[5, 6]);
    let given = adopt::given(&mut FileDisk::open(in_pool("metadata")).unwrap()).unwrap();
    let uuid = vellum_engine::format::uuid_text(&given.pool);
    let kept = |incarnation: u64| {
        format!(
            r#"{{"pool":"{uuid}","incarnation":{incarnation},"devices":[
                {{"device":1,"name":"never","size_bytes":4096}},
                {{"device":5,"name":"disk@tuesday","size_bytes":2097152}},
                {{"device":6,"name":"other","size_bytes":1048576}}]}}"#
        )
    };
    fs::write(in_pool("thin-devices.json"), kept(given.incarnation.0)).unwrap();
    let taken = bench.json(&["dm", "import", "--name", "6=named"]);
    let volume =
        |at: usize| (taken["volumes"][at]["name"].clone(), taken["volumes"][at]["size_bytes"].clone());
    assert_eq!(volume(2), ("disk@tuesday".into(), (2 << 20).into()), "{taken}");
    assert_eq!([volume(0).0, volume(3).0], ["disk", "named"]);
    assert_eq!(bench.names("snapshot"), ["disk@monday", "disk@tuesday"]);
    let checked = bench.run(&["pool", "check"]).out;
    assert!(checked.starts_with("sound"), "{checked}");
    for name in ["thin-devices.json", "thin-metadata"] {
        assert!(in_pool(name).symlink_metadata().is_err(), "{name}");
    }
    // An export that fails leaves no link.
    let other = bench.path("other").display().to_string();
    fs::write(&other, "somebody's").unwrap();
    bench.fails(Kind::Exists, &["dm", "export", "--metadata", &other]);
    assert!(in_pool("thin-metadata").symlink_metadata().is_err());
}

const XML: &str =
    "<superblock uuid=\"\" time=\"1\" transaction=\"3\" data_block_size=\"SECTORS\" nr_data_blocks=\"200\">
  <device dev_id=\"0\" mapped_blocks=\"4\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">
    <range_mapping origin_begin=\"0\" data_begin=\"0\" length=\"4\" time=\"0\"/>
  </device>
  <device dev_id=\"9\" mapped_blocks=\"2\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">
    <range_mapping origin_begin=\"0\" data_begin=\"0\" length=\"2\" time=\"0\"/>
  </device>
</superblock>
";

/// Metadata and data of a thin pool with data at block 0.
fn thin_pool(bench: &Bench, sectors: u64) -> [String; 2] {
    let [xml, metadata, data] = ["xml", "tmeta", "tdata"].map(|name| bench.path(name).display().to_string());
    fs::write(&xml, XML.replace("SECTORS", &sectors.to_string())).unwrap();
    bench.ok(&["dm", "restore", "-i", &xml, "-o", &metadata, "--size", "1M"]);
    let bytes: Vec<u8> = (0..4 * sectors).flat_map(|sector| [sector as u8 | 1; 512]).collect();
    fs::write(&data, bytes).unwrap();
    fs::File::options().write(true).open(&data).unwrap().set_len(200 * sectors * 512).unwrap();
    [metadata, data]
}

#[test]
fn a_thin_pool_is_adopted_where_it_is() {
    let bench = Bench::empty();
    let [metadata, data] = thin_pool(&bench, 128);
    let before = fs::read(&data).unwrap();
    bench.fails(Kind::Usage, &["dm", "import", "--metadata", &metadata]);
    let arguments =
        ["dm", "import", "--metadata", &metadata, "--data", &data, "--name", "0=root", "--size", "9=5M"];
    let imported = bench.json(&arguments);
    assert_eq!((&imported["adopted"], &imported["transaction_id"]), (&true.into(), &3.into()), "{imported}");
    let content = content(&bench.pool());
    assert_eq!((content[0].0.as_str(), content[1].0.as_str()), ("root", "thin-9"));
    assert_eq!(content[0].1, before[..4 * BLOCK_BYTES as usize]);
    assert_eq!(
        (content[1].1.len(), &content[1].1[..2 * BLOCK_BYTES as usize]),
        (5 << 20, &before[..2 * BLOCK_BYTES as usize])
    );
    assert_eq!(fs::read_link(bench.pool().join("data")).unwrap().display().to_string(), data);
    assert_eq!(fs::read(&data).unwrap()[..4 * BLOCK_BYTES as usize], before[..4 * BLOCK_BYTES as usize]);
    let status = bench.json(&["pool", "status"]);
    assert_eq!(status["data_bytes"], 4 * BLOCK_BYTES);
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
}

#[test]
fn other_block_sizes_and_copies_leave_the_thin_pool_alone() {
    for (sectors, flags) in [(256, &[][..]), (128, &["--copy"])] {
        let bench = Bench::empty();
        let [metadata, data] = thin_pool(&bench, sectors);
        let before = [&metadata, &data].map(|path| fs::read(path).unwrap());
        let arguments = [&["dm", "import", "--metadata", &metadata, "--data", &data], flags].concat();
        let imported = bench.json(&arguments);
        assert_eq!(
            (&imported["adopted"], &imported["copied_bytes"]),
            (&false.into(), &(4 * sectors * 512).into())
        );
        assert_eq!([&metadata, &data].map(|path| fs::read(path).unwrap()), before);
        let content = content(&bench.pool());
        assert_eq!(content[0].1, before[1][..4 * sectors as usize * 512]);
        assert_eq!(content[1].1, before[1][..2 * sectors as usize * 512]);
        bench.fails(Kind::Exists, &arguments);
    }
}

#[test]
fn what_holds_something_or_is_under_a_loop_device_is_no_target() {
    let bench = bench();
    let thin = bench.path("tmeta").display().to_string();
    let mut bytes = vec![0; 4 << 20];
    bytes[(64 << 10) + 64] = 1;
    fs::write(&thin, &bytes).unwrap();
    let error = bench.fails(Kind::Exists, &["dm", "export", "--metadata", &thin]);
    assert!(error.contains("holds something") && error.contains("--force"), "{error}");
    fs::write(&thin, vec![0; 4 << 20]).unwrap();
    let losetup = |arguments: &[&str]| {
        let ran = std::process::Command::new("losetup").args(arguments).output().unwrap();
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    };
    let device = losetup(&["--find", "--show", &bench.pool().join("data").display().to_string()]);
    let error = bench.run(&["dm", "export", "--metadata", &thin]).err;
    losetup(&["--detach", &device]);
    assert!(error.contains("is under the loop device loop") && error.contains("losetup --detach"), "{error}");
    bench.ok(&["dm", "export", "--metadata", &thin]);
}
