//! The native/lts kernel-variant detector.

use std::process::ExitCode;

use clr_dkms::cli::{self, variant};

fn main() -> ExitCode {
    cli::main("clr-dkms-variant", variant::run)
}
