//! The `hsmkey` command: makes keys in an HSM and the files that stand for them.
//!
//! Stdout carries what was asked for and nothing else. A failure is one line on stderr, after what the log says, and exit status 1, a wrong command line
//! exit status 2. A PIN is never an argument, because every user of a machine can read every command line.

mod keyfile;
mod keygen;
mod output;
mod pin;
mod reach;
mod reference;
mod verifier;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hsmkey::config::Log;
use hsmkey::logging;

/// Makes keys in an HSM and the key files through which OpenSSL finds them.
#[derive(Parser)]
#[command(name = "hsmkey", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Keygen(keygen::Arguments),
    Keyfile(keyfile::Arguments),
}

fn main() -> ExitCode {
    logging::start(&Log::Stderr);
    let done = match Arguments::parse().verb {
        Verb::Keygen(arguments) => keygen::run(arguments),
        Verb::Keyfile(arguments) => keyfile::run(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hsmkey: {error}");
            ExitCode::FAILURE
        }
    }
}
