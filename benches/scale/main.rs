//! What a large pool costs: time, memory and metadata at 64 Ki, 1 Mi and 16 Mi mappings, beside what is promised.
//!
//! Owns the table. Every pool is generated on sparse files (`support/pools.rs`), and every figure is taken in a process of its
//! own (`figures.rs`), so that memory means something. Run it alone: `cargo bench -p vellum-benches --bench scale`.
//! Needs 2 GiB of disk below `TMPDIR`, and some minutes. Numbers of mappings behind `--` replace the three sizes.

mod figures;
mod table;
use std::path::Path;
use std::process::Command;
use table::Table;
use vellum_benches::pools::Shape;

/// Mappings of the pools, by default; the last is 1 TiB.
const SIZES: [u64; 3] = [64 << 10, 1 << 20, 16 << 20];

/// A step, the shapes of pool that it is for, and how often it is repeated. The last one spoils the pool.
const STEPS: [(&str, &[Shape], usize); 8] = [
    ("size", &Shape::ALL, 1),
    ("open", &Shape::ALL, 7),
    ("snapshot", &Shape::ALL, 3),
    ("lookup", &[Shape::InOrder, Shape::Random], 3),
    ("scan", &[Shape::Random], 1),
    ("check", &Shape::ALL, 3),
    ("difference", &Shape::ALL, 3),
    ("crash", &[Shape::InOrder, Shape::Random], 3),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        [word, ..] if word == "--test" || word == "--list" => Ok(()),
        ["step", step, shape, folder] => figures::run(step, shape, Path::new(folder)),
        _ => measure_all(&words),
    };
    if let Err(cause) = result {
        eprintln!("bench scale: {cause}");
        std::process::exit(1);
    }
}

fn measure_all(words: &[&str]) -> Result<(), String> {
    let sizes: Result<Vec<u64>, _> = words.iter().map(|word| word.parse()).collect();
    let mut sizes = sizes.map_err(|_| "numbers of mappings are wanted, or nothing".to_owned())?;
    if sizes.is_empty() {
        sizes.extend(SIZES);
    }
    let mut table = Table::new(&sizes);
    for (column, mappings) in sizes.iter().enumerate() {
        for shape in Shape::ALL {
            let folder = tempfile::tempdir().map_err(|cause| cause.to_string())?;
            std::fs::write(folder.path().join("mappings"), mappings.to_string())
                .map_err(|e| e.to_string())?;
            measure_pool(shape, folder.path(), column, &mut table)?;
        }
    }
    table.print();
    Ok(())
}

fn measure_pool(shape: Shape, folder: &Path, column: usize, table: &mut Table) -> Result<(), String> {
    run_step("generate", shape, folder)?;
    for (step, _, times) in STEPS.iter().filter(|(_, shapes, _)| shapes.contains(&shape)) {
        for _ in 0..*times {
            if *step == "crash" {
                run_step("spoil", shape, folder)?;
            }
            for (key, value) in run_step(step, shape, folder)? {
                table.add(shape, &key, column, value);
            }
        }
    }
    Ok(())
}

/// Runs one step in a process of its own, and takes what it prints: a key and a number a line.
fn run_step(step: &str, shape: Shape, folder: &Path) -> Result<Vec<(String, f64)>, String> {
    let program = std::env::current_exe().map_err(|cause| cause.to_string())?;
    let mut command = Command::new(program);
    command.args(["step", step, shape.name()]).arg(folder);
    let output = command.output().map_err(|cause| cause.to_string())?;
    if !output.status.success() {
        return Err(format!("{step}, {}: {}", shape.name(), String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.parse().ok()?))
    });
    Ok(lines.collect())
}
