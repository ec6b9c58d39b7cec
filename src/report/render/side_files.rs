//! The lines about side files on the screen of `clr-dkms add`.

use super::style::{ScreenStyle, StyledLine, plain};
use super::text::wrapped;
use crate::report::side_files::{OfferedFile, SideDocument};

/// The columns before a line, and before what belongs to the line above it.
const INDENT: &str = "            ";
const DEEPER: &str = "              ";

/// What is offered beside the module: each file with its text.
pub(super) fn offered(side: &SideDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    let line = |text: &str| wrapped(None, text, [INDENT, DEEPER], style);
    let mut out: Vec<StyledLine> = side.side_files.iter().flat_map(|offered| file(offered, style)).collect();
    for driver in side.to_blacklist() {
        out.extend(line(&format!("{} of the kernel claims the same devices:", driver.driver)));
        let pairs = driver.aliases.iter().take(1);
        let pairs = pairs.map(|pair| format!("{} and {}", pair.module, pair.driver));
        let devices = driver.devices.iter().map(|device| format!("here it concerns {device}"));
        let uses = driver.used_for.iter().map(|what| format!("here it now {what}"));
        let details = pairs.chain(devices).chain(uses);
        out.extend(details.flat_map(|text| wrapped(None, &text, [DEEPER, DEEPER], style)));
    }
    let built_in = side.blacklist.iter().flatten().filter(|driver| !driver.built_in.is_empty());
    out.extend(built_in.flat_map(|driver| {
        let kernels = driver.built_in.join(", ");
        line(&format!("{} is built into {kernels}: a blacklist has no effect there", driver.driver))
    }));
    for name in side.firmware_missing.iter().flatten() {
        out.extend(line(&format!("the firmware {name} is missing")));
    }
    if let Some(need) = side.autoload.as_ref().filter(|need| need.needed) {
        let modules = need.modules.join(", ");
        out.extend(line(&format!("no device loads {modules}: without modules-load.d only modprobe does")));
    }
    out
}

fn file(offered: &OfferedFile, style: &ScreenStyle) -> Vec<StyledLine> {
    let line = |text: &str| wrapped(None, text, [INDENT, DEEPER], style);
    let from = match &offered.file.evidence {
        Some(line) => format!("{line}"),
        None => offered.file.origin.display().to_string(),
    };
    let mut out = line(&format!("{} can be installed, from {from}", offered.path));
    // What is written stays in its lines.
    out.extend(offered.file.text.lines().map(|line| vec![plain(format!("{DEEPER}{line}"))]));
    let commands = offered.file.commands.iter();
    out.extend(commands.flat_map(|at| line(&format!("line {} runs a command as root", at.line))));
    out
}
