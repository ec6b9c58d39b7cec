//! The MOTD fragment generator.

use std::process::ExitCode;

use clr_dkms::cli::{self, motd};

fn main() -> ExitCode {
    cli::main("clr-dkms-motd", motd::run)
}
