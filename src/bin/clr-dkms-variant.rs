//! The native/lts kernel-variant detector.

use std::process::ExitCode;

use clr_dkms::app::{self, variant};

fn main() -> ExitCode {
    app::main("clr-dkms-variant", variant::run)
}
