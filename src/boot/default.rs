//! Making another kernel the boot default.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::entries::{self, Variables};
use super::files::usual_ending;
use super::{BootEntry, BootFiles, Loader, SetBy, write_ahead};
use crate::kernel::Inventory;
use crate::sys::{Root, RootKind, Tools};

/// Makes the kernel `id` the boot default with `clr-boot-manager set-kernel`, and reads the boot files back.
/// Returns false, and runs nothing, if it is the default already. `files` are the present boot files, and
/// [`super::preflight::prepare`] was called before. The next `clr-boot-manager update` makes a tip the
/// default again.
///
/// # Errors
///
/// Why it was refused or failed, with the next step. A refusal has changed nothing.
pub fn set(
    root: &Root,
    tools: &Tools,
    deadline: Duration,
    files: &BootFiles,
    inventory: &Inventory,
    id: &str,
) -> anyhow::Result<bool> {
    if boots(files, inventory, id) {
        return Ok(false);
    }
    let refused = || format!("{id} is not made the boot default");
    if let Some(why) = refusal(root, files, inventory, id) {
        return Err(anyhow!(why).context(refused()));
    }
    for what in super::preflight::repair(root).with_context(refused)? {
        tracing::warn!("{what}");
    }
    tools.find("clr-boot-manager").with_context(refused)?;
    if files.loader == Some(Loader::SystemdBoot)
        && let Some(entry) = files.of(id).filter(|entry| is_usual(entry, id))
        && let Err(why) = write_ahead::before_new_default(root, &entry.file)
    {
        tracing::warn!("loader.conf is left to clr-boot-manager: {why}");
    }
    let run = super::run(root, tools, deadline, &["set-kernel", id]);
    // The exit code proves neither success nor failure.
    let seen = BootFiles::observe(root, inventory);
    let said = run.err().map(|failed| failed.what);
    if boots(&seen, inventory, id) {
        if let Some(said) = said {
            tracing::warn!("{said}; the boot default is {id} nevertheless");
        }
        return Ok(true);
    }
    let is = match (&seen.default, seen.invisible) {
        (Some(default), _) => format!("it is {}", default.id.as_ref().unwrap_or(&default.entry)),
        (None, Some(why)) => why,
        (None, None) => "the boot files name none".to_owned(),
    };
    let said = said.map(|said| format!("{said}; ")).unwrap_or_default();
    bail!(
        "{said}{id} is not the boot default after `clr-boot-manager set-kernel`: {is}; choose it in the boot menu"
    )
}

/// Whether that kernel boots next, and not a copy of another kernel that uses its entry.
fn boots(files: &BootFiles, inventory: &Inventory, id: &str) -> bool {
    let default = files.default.as_ref().filter(|default| default.id.as_deref() == Some(id));
    default.is_some_and(|d| files.entries.iter().any(|e| e.file == d.entry && is_of(e, inventory, id)))
}

fn is_of(entry: &BootEntry, inventory: &Inventory, id: &str) -> bool {
    let image = || inventory.kernels.iter().find(|k| k.id == id).map(|k| &k.image);
    entry.id.as_deref() == Some(id) && (!entry.copy || entry.image.as_ref() == image())
}

/// Whether an entry has the name that clr-boot-manager uses.
fn is_usual(entry: &BootEntry, id: &str) -> bool {
    usual_ending(id).is_some_and(|usual| entry.file.ends_with(&usual))
}

/// Why it must not be tried.
fn refusal(root: &Root, files: &BootFiles, inventory: &Inventory, id: &str) -> Option<String> {
    if let Some(why) = super::unprivileged(root) {
        return Some(why);
    }
    if let Some(blocker) = super::blocker(root) {
        return Some(blocker.to_string());
    }
    let Some(loader) = files.loader else {
        let why = files.invisible.as_deref().unwrap_or("there is no kernel");
        return Some(format!("the boot files cannot be seen: {why}"));
    };
    if !inventory.kernels.iter().any(|k| k.id == id) {
        return Some("it is not installed".to_owned());
    }
    let entries = || files.entries.iter().filter(|entry| is_of(entry, inventory, id));
    let Some(first) = entries().next() else {
        let command = super::update_command(root);
        return Some(format!("it has no boot entry; `{command}` makes one of each tip"));
    };
    let usual = usual_ending(id).unwrap_or_default().to_ascii_lowercase();
    match loader {
        Loader::Grub => {
            return Some(format!(
                "with GRUB clr-boot-manager would make an entry that does not boot; with GRUB_DEFAULT=saved in \
                 /etc/default/grub, `grub-set-default '{}'` does it",
                first.file
            ));
        }
        // clr-boot-manager writes the name into loader.conf even if no such entry exists.
        Loader::SystemdBoot if !entries().any(|e| e.file.to_ascii_lowercase().ends_with(&usual)) => {
            return Some(format!(
                "its boot entry {} does not have the name that clr-boot-manager uses",
                first.file
            ));
        }
        Loader::Syslinux if !entries().any(|e| e.file == id) => {
            return Some(format!("its LABEL {} is not the one that clr-boot-manager uses", first.file));
        }
        Loader::SystemdBoot | Loader::Syslinux => {}
    }
    match &files.default {
        Some(default) if default.set_by.overrides() => {
            let what = default.id.as_ref().unwrap_or(&default.entry);
            Some(theirs(default.set_by, &format!("chooses {what}")))
        }
        Some(default) if default.id.is_none() => Some(format!(
            "{} is {}, which is not a kernel of this system; an admin has chosen it and can choose another one",
            default.set_by, default.entry
        )),
        Some(_) => None,
        // The EFI variables of the surrounding machine do not apply to an image.
        None if root.kind() == RootKind::Image || loader != Loader::SystemdBoot => None,
        None => match Variables::read(root) {
            Ok(variables) => entries::undecided(&files.entries, &variables)
                .map(|by| theirs(by, "leaves the choice to the boot loader")),
            Err(e) => Some(e.to_string()),
        },
    }
}

/// The message about a choice of an admin, with the command that takes it back.
fn theirs(by: SetBy, does: &str) -> String {
    let take_back = by.taken_back_by().map(|command| format!("; `{command}` takes it back"));
    let take_back = take_back.unwrap_or_default();
    format!("{by} {does}, whatever clr-boot-manager writes: that is an admin's choice{take_back}")
}
