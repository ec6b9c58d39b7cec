//! Cleaning up after clr-dkms is removed. swupd removes a bundle without running a script of it, so the
//! setting that defers swupd's boot update would remain, and nobody would update the boot files.
//!
//! Two units in `/run`, which the removal of our files does not delete, solve this. One watches our program.
//! The other removes our block from the configuration of swupd when the program disappears. The units, like
//! the block, are gone after a reboot.

use std::path::Path;

use anyhow::Context;

use super::deferral::{self, BEGIN, CONFIG, END};
use super::one_shot::{self, TRIAL};
use crate::sys::{Root, Tools, Written, own_directory, systemd};

/// The directory of units that are gone after a reboot.
const UNITS: &str = "/run/systemd/system";
/// The name of both units.
const NAME: &str = "clr-dkms-gone";

/// Makes swupd leave the boot files to clr-dkms as long as clr-dkms is installed. Returns whether anything
/// has changed.
///
/// # Errors
///
/// As [`deferral::arm`]. If the units cannot be started, this is logged, and the block remains at most until
/// the next reboot.
pub fn defer(root: &Root, tools: &Tools) -> anyhow::Result<bool> {
    let armed = deferral::arm(root)?;
    if let Err(why) = watch(root, tools) {
        tracing::warn!("if clr-dkms is removed, {CONFIG} remains until the next reboot: {why:#}");
    }
    Ok(armed)
}

/// Removes our block and the units. Returns whether anything has changed.
///
/// # Errors
///
/// As [`deferral::disarm`].
pub fn stop_deferring(root: &Root, tools: &Tools) -> anyhow::Result<bool> {
    let disarmed = deferral::disarm(root)?;
    if is_possible(root) {
        let mut was_there = false;
        for kind in ["path", "service"] {
            was_there |= root.remove(unit(kind))?;
        }
        if was_there {
            systemd::ask(tools, "systemctl", &["stop", &format!("{NAME}.path")])?;
        }
    }
    Ok(disarmed)
}

/// Only the running system has a systemd that can run the units.
fn is_possible(root: &Root) -> bool {
    // Without the directory no unit can be written. The block ends with the reboot.
    root.is_live() && root.lookup(UNITS).is_there()
}

fn watch(root: &Root, tools: &Tools) -> anyhow::Result<()> {
    if !is_possible(root) {
        return Ok(());
    }
    let program = own_directory().context("the path of this program is unknown")?.join("clr-dkms");
    let write = |kind: &str, text: String| root.write(unit(kind), text.as_bytes(), 0o644);
    write("service", service_text(&program))?;
    if write("path", path_text(&program))? == Written::Same {
        return Ok(());
    }
    systemd::ask(tools, "systemctl", &["--no-block", "start", &format!("{NAME}.path")]).map(drop).inspect_err(
        |_| {
            // The next run tries again. A leftover unit does no harm.
            root.remove(unit("path")).ok();
        },
    )
}

fn unit(kind: &str) -> String {
    format!("{UNITS}/{NAME}.{kind}")
}

fn path_text(program: &Path) -> String {
    format!(
        "# Written by clr-dkms; it ends with the next reboot.\n\
         [Unit]\n\
         Description=Watch for the removal of clr-dkms\n\
         Documentation=man:clr-dkms(8)\n\
         \n\
         [Path]\n\
         PathChanged={}\n",
        program.display()
    )
}

/// The unit contains all commands itself, because no file of clr-dkms is left when it runs.
fn service_text(program: &Path) -> String {
    let program = program.display();
    let ours = [
        "/run/clr-dkms".to_owned(),
        "/run/clr-dkms.lock".to_owned(),
        "/run/motd.d/clr-dkms.motd".to_owned(),
        TRIAL.to_owned(),
        unit("service"),
        unit("path"),
    ];
    let paths = ["clr-dkms.path", "clr-dkms-watch.path", "clr-dkms-motd.path", "clr-dkms-motd.timer"];
    // In a unit file a dollar sign is doubled.
    format!(
        "# Written by clr-dkms; it ends with the next reboot.\n\
         [Unit]\n\
         Description=Give the boot files back to swupd after the removal of clr-dkms\n\
         Documentation=man:clr-dkms(8)\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # An update replaces the program; only a removal takes it away.\n\
         ExecCondition=/bin/sh -c '[ ! -e {program} ]'\n\
         ExecStart=-/bin/sed -i '/^{BEGIN}$$/,/^{END}$$/d' {CONFIG}\n\
         ExecStart=-/bin/sh -c '[ -s {CONFIG} ] || rm -f {CONFIG}; rmdir /run/swupd 2>/dev/null; true'\n\
         # Nothing would check the kernel that is booted once, on trial.\n\
         ExecStart=-/bin/sh -c 'grep -qs .entry.: {TRIAL} && {{ chattr -i {variable}; rm -f {variable}; }}'\n\
         ExecStart=-/bin/rm -rf {ours}\n\
         ExecStart=-/bin/sh -c '[ ! -x /usr/bin/motd-update.sh ] || exec /usr/bin/motd-update.sh'\n\
         ExecStart=-/bin/systemctl --no-block stop {paths} {NAME}.path\n\
         ExecStart=/bin/echo 'clr-dkms is removed: swupd writes the boot files itself again. Run clr-boot-manager \
         update to apply what waited for clr-dkms'\n",
        ours = ours.join(" "),
        variable = one_shot::path().display(),
        paths = paths.join(" "),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use crate::sys::RootKind;

    /// The command of the unit edits the file when it is run as systemd runs it.
    #[test]
    fn the_lines_are_taken_out_as_we_take_them_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::LiveCopy, directory.path()).unwrap();
        for foreign in ["", "# theirs\n[update]\nurl=x y\n", "[a]\n# clr-dkms: end\n"] {
            root.write(CONFIG, foreign.as_bytes(), 0o644).unwrap();
            assert!(deferral::arm(&root).unwrap());
            let text = service_text(Path::new("/usr/bin/clr-dkms"));
            let line = text.lines().find(|line| line.contains("/bin/sed")).unwrap();
            let words = shlex::split(line.strip_prefix("ExecStart=-").unwrap()).unwrap();
            let file = directory.path().join(CONFIG.trim_start_matches('/'));
            let mut sed = std::process::Command::new(&words[0]);
            sed.args([&words[1], &words[2].replace("$$", "$")]).arg(&file);
            assert!(sed.status().unwrap().success());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), foreign);
        }
        assert!(![BEGIN, END].iter().any(|line| line.contains(['/', '\'', '$', '*', '[', '.', '%', '\\'])));
    }
}
