//! For admins: is it safe to reboot, and will the modules be there?

use std::process::ExitCode;

use clr_dkms::cli::{self, status};

fn main() -> ExitCode {
    cli::main("clr-dkms", status::run)
}
