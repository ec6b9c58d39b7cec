//! The options of `clr-dkms add` for side files, and the questions about them.

use clap::Args;

use super::hold::confirmed;
use crate::report::side_files::SideDocument;
use crate::update::side_files::SideConsent;

/// The options.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct SideFileArguments {
    /// Also install its files for modprobe.d, udev and modules-load.d, and a blacklist of the drivers that
    /// claim the same devices; --yes does not cover these
    #[arg(long)]
    side_files: bool,
    /// Load it at each boot, if no device loads it
    #[arg(long)]
    autoload: bool,
    /// Blacklist a driver even if this machine depends on it
    #[arg(long)]
    force: bool,
}

impl SideFileArguments {
    /// What is agreed to. With `is_asked`, what no option covers is asked for on a terminal.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub(super) fn consent(self, side: &SideDocument, is_asked: bool) -> std::io::Result<SideConsent> {
        let ask = |has_option: bool, is_offered: bool, question: &str| {
            if has_option || !is_asked || !is_offered {
                return Ok(has_option);
            }
            confirmed(question).map(|answer| answer == Some(true))
        };
        let has_commands = side.side_files.iter().any(|file| !file.file.commands.is_empty());
        let question = match has_commands {
            true => "Install these side files, which run commands as root?",
            false => "Install these side files?",
        };
        let side_files = ask(self.side_files, !side.side_files.is_empty(), question)?;
        let drivers: Vec<&str> = side.to_blacklist().iter().map(|driver| driver.driver.as_str()).collect();
        let question = format!("Blacklist {}, once the module is proven?", drivers.join(", "));
        let blacklist = ask(self.side_files, !drivers.is_empty(), &question)?;
        let autoload = ask(self.autoload, side.needs_autoload(), "Load the module at each boot?")?;
        Ok(SideConsent { side_files, blacklist, autoload, force: self.force })
    }
}
