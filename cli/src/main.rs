//! The program `vellum`. All of it is in the library beside this file; read next: `lib.rs`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    vellum_cli::run(std::env::args_os())
}
