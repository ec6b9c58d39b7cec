//! The lines about side files on the screen of `clr-dkms add`.

use crate::report::side_files::{OfferedFile, SideDocument};

const INDENT: &str = "              ";

/// What is offered beside the module: each file with its text.
pub(super) fn offered(side: &SideDocument) -> Vec<String> {
    let mut out: Vec<String> = side.side_files.iter().flat_map(file).collect();
    for driver in side.to_blacklist() {
        out.push(format!("            {} of the kernel claims the same devices:", driver.driver));
        let pairs = driver.aliases.iter().take(1);
        out.extend(pairs.map(|pair| format!("{INDENT}{} and {}", pair.module, pair.driver)));
        out.extend(driver.devices.iter().map(|device| format!("{INDENT}here it concerns {device}")));
        out.extend(driver.used_for.iter().map(|what| format!("{INDENT}here it now {what}")));
    }
    let built_in = side.blacklist.iter().flatten().filter(|driver| !driver.built_in.is_empty());
    out.extend(built_in.map(|driver| {
        let kernels = driver.built_in.join(", ");
        format!("            {} is built into {kernels}: a blacklist has no effect there", driver.driver)
    }));
    for name in side.firmware_missing.iter().flatten() {
        out.push(format!("            the firmware {name} is missing"));
    }
    if let Some(need) = side.autoload.as_ref().filter(|need| need.needed) {
        let modules = need.modules.join(", ");
        out.push(format!("            no device loads {modules}: without modules-load.d only modprobe does"));
    }
    out
}

fn file(offered: &OfferedFile) -> Vec<String> {
    let from = match &offered.file.evidence {
        Some(line) => format!("{line}"),
        None => offered.file.origin.display().to_string(),
    };
    let mut out = vec![format!("            {} can be installed, from {from}", offered.path)];
    out.extend(offered.file.text.lines().map(|line| format!("{INDENT}{line}")));
    let commands = offered.file.commands.iter();
    out.extend(commands.map(|line| format!("            line {} runs a command as root", line.line)));
    out
}
