//! The MOTD fragment generator.

use std::process::ExitCode;

use clr_dkms::app::{self, motd};

fn main() -> ExitCode {
    app::main("clr-dkms-motd", motd::run)
}
