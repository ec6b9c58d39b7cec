//! For admins: is it safe to reboot, and will the modules be there?

use std::process::ExitCode;

use clr_dkms::app::{self, status};

fn main() -> ExitCode {
    app::main("clr-dkms", status::run)
}
