//! Which kernel boots next. This is the only place that answers the question.
//!
//! The boot loader may choose an entry of a kernel that is no longer installed, or of another system. If the
//! boot files are not visible, the EFI variables, which every user can read, may still decide it. Otherwise
//! the next boot is unknown. What the last run saw is remembered, but does not count as known.

use crate::boot::counters::without_counters;
use crate::boot::files::usual_ending;
use crate::boot::loader_interface::{LoaderInterface, is_open, release_of_entry};
use crate::boot::{DefaultEntry, SetBy};
use crate::boot_decision::NextBootSource;
use crate::kernel::{Installed, Inventory, KernelName, Running};
use crate::system::{KernelCmdline, System};

/// The entry that the boot loader chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderChoice {
    /// The name of the entry.
    pub entry: String,
    /// What makes it the default.
    pub set_by: SetBy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextBoot {
    /// An installed kernel. `choice`: the entry. None for an image without boot files, where clr-boot-manager
    /// will choose it.
    Installed { release: String, choice: Option<LoaderChoice> },
    /// A kernel that is no longer installed: its entry and its image are still on the boot partition, but its
    /// modules are not on the disk.
    Removed { release: String, choice: LoaderChoice },
    /// Another system, or an EFI program.
    OtherSystem { choice: LoaderChoice },
    /// It cannot be determined. `reason`: the cause, as a sentence for people. `remembered`: the release that
    /// the last run saw as the next boot.
    Unknown { reason: String, remembered: Option<String> },
}

impl NextBoot {
    /// The release of the kernel that boots next. None if it is unknown, or if another system boots.
    pub fn release(&self) -> Option<&str> {
        match self {
            NextBoot::Installed { release, .. } | NextBoot::Removed { release, .. } => Some(release),
            NextBoot::OtherSystem { .. } | NextBoot::Unknown { .. } => None,
        }
    }

    /// The known or the remembered release. [`NextBoot::source`] distinguishes the two.
    pub fn shown(&self) -> Option<&str> {
        match self {
            NextBoot::Unknown { remembered, .. } => remembered.as_deref(),
            known => known.release(),
        }
    }

    /// How the value of [`NextBoot::shown`] is known.
    pub fn source(&self) -> Option<NextBootSource> {
        match self {
            NextBoot::Unknown { remembered, .. } => remembered.as_ref().map(|_| NextBootSource::Remembered),
            NextBoot::Installed { choice: None, .. } => Some(NextBootSource::Expected),
            NextBoot::Installed { .. } | NextBoot::Removed { .. } | NextBoot::OtherSystem { .. } => {
                let is_variable = |choice: &LoaderChoice| {
                    matches!(choice.set_by, SetBy::LoaderEntryDefault | SetBy::LoaderEntryOneShot)
                };
                Some(match self.choice().is_some_and(is_variable) {
                    true => NextBootSource::EfiVariable,
                    false => NextBootSource::Entry,
                })
            }
        }
    }

    /// The entry that the boot loader chooses, if it is known.
    pub fn choice(&self) -> Option<&LoaderChoice> {
        match self {
            NextBoot::Installed { choice, .. } => choice.as_ref(),
            NextBoot::Removed { choice, .. } | NextBoot::OtherSystem { choice } => Some(choice),
            NextBoot::Unknown { .. } => None,
        }
    }

    /// Whether that kernel certainly boots next.
    pub fn is(&self, release: &str) -> bool {
        self.release() == Some(release)
    }

    /// Why the next boot is unknown. None if it is known.
    pub fn unknown(&self) -> Option<&str> {
        if let NextBoot::Unknown { reason, .. } = self { Some(reason) } else { None }
    }

    pub fn is_removed(&self) -> bool {
        matches!(self, NextBoot::Removed { .. })
    }

    /// The installed kernel that boots next.
    pub fn kernel<'i>(&self, inventory: &'i Inventory) -> Option<&'i Installed> {
        if let NextBoot::Installed { release, .. } = self { inventory.of_release(release) } else { None }
    }
}

/// Determines which kernel boots next.
pub fn next_boot(system: &System) -> NextBoot {
    let inventory = &system.inventory;
    if let Some(default) = &system.boot.default {
        return of_default(default, inventory);
    }
    let unknown = |reason: String| NextBoot::Unknown {
        reason,
        remembered: system.boot.loader.is_none().then(|| system.remembered_boot.clone()).flatten(),
    };
    if inventory.kernels.is_empty() {
        return unknown("no kernel is installed".to_owned());
    }
    if inventory.running == Running::None {
        return match inventory.boot_default() {
            Some(kernel) => NextBoot::Installed { release: kernel.name.release(), choice: None },
            None => unknown("no kernel is installed".to_owned()),
        };
    }
    if system.boot.loader.is_some() {
        let reason = match system.boot.entries.is_empty() {
            true => format!("there is no boot entry in {}", system.boot.place),
            false => "the boot files name no default that is an entry".to_owned(),
        };
        return unknown(reason);
    }
    let hidden = system.boot.invisible.clone().unwrap_or_else(|| "the boot files are not visible".to_owned());
    match &system.loader_interface {
        Some(Ok(seen)) => by_variables(seen, inventory).unwrap_or_else(|| unknown(hidden)),
        Some(Err(reason)) => unknown(format!("{hidden}; {reason}")),
        None => unknown(hidden),
    }
}

fn of_default(default: &DefaultEntry, inventory: &Inventory) -> NextBoot {
    let choice = LoaderChoice { entry: default.entry.clone(), set_by: default.set_by };
    let Some(id) = &default.id else { return NextBoot::OtherSystem { choice } };
    if let Some(kernel) = inventory.kernels.iter().find(|k| k.id == *id) {
        return NextBoot::Installed { release: kernel.name.release(), choice: Some(choice) };
    }
    match KernelName::from_any_id(id) {
        Some((name, _)) => NextBoot::Removed { release: name.release(), choice },
        None => NextBoot::OtherSystem { choice },
    }
}

/// What the EFI variables say about the next boot when the entries are not visible. None if the variables
/// leave the choice to the configuration of the boot loader.
fn by_variables(seen: &LoaderInterface, inventory: &Inventory) -> Option<NextBoot> {
    let overrides = [
        (&seen.overrides.one_shot, SetBy::LoaderEntryOneShot),
        (&seen.overrides.default, SetBy::LoaderEntryDefault),
    ];
    for (name, set_by) in overrides {
        let Some(name) = name else { continue };
        let choice = LoaderChoice { entry: name.clone(), set_by };
        if is_open(name) {
            let reason = format!("{set_by} chooses {name}: only the boot loader knows which entry that is");
            return Some(NextBoot::Unknown { reason, remembered: None });
        }
        let lower = without_counters(name).to_ascii_lowercase();
        let names = |kernel: &&Installed| {
            let usual = usual_ending(&kernel.id).unwrap_or_default().to_ascii_lowercase();
            !usual.is_empty() && (lower.ends_with(&usual) || format!("{lower}.conf").ends_with(&usual))
        };
        if let Some(kernel) = inventory.kernels.iter().find(names) {
            return Some(NextBoot::Installed { release: kernel.name.release(), choice: Some(choice) });
        }
        match (seen.lists(name), release_of_entry(name)) {
            // The boot loader ignores a name that does not match an entry.
            (Some(false), _) => {}
            (Some(true), Some(release)) => return Some(NextBoot::Removed { release, choice }),
            (Some(true), None) => return Some(NextBoot::OtherSystem { choice }),
            (None, _) => {
                let reason = format!("{set_by} names {name}, and whether that is an entry is unknown");
                return Some(NextBoot::Unknown { reason, remembered: None });
            }
        }
    }
    None
}

/// What boots after a kernel that was chosen for one boot, if it is not known to be the kernel `fallback`:
/// the release of a kernel, or the name of an entry. A choice of an admin for every boot counts also if it is
/// that kernel, because it stays when the default changes.
pub fn follows_trial(system: &System, fallback: &str) -> Option<(String, SetBy)> {
    let chosen = match (&system.boot.loader, &system.loader_interface) {
        (Some(_), _) => system.boot.persistent.as_ref().map(|chosen| &chosen.entry),
        // The boot loader ignores a name that does not match an entry.
        (None, Some(Ok(seen))) => {
            seen.overrides.default.as_ref().filter(|name| is_open(name) || seen.lists(name) != Some(false))
        }
        (None, _) => None,
    };
    let shown = |entry: &str| release_of_entry(entry).unwrap_or_else(|| entry.to_owned());
    if let Some(entry) = chosen {
        return Some((shown(entry), SetBy::LoaderEntryDefault));
    }
    let configured = system.boot.configured.as_ref()?;
    let is_fallback = configured.id == system.inventory.of_release(fallback).map(|kernel| kernel.id.clone());
    (!is_fallback).then(|| (shown(&configured.entry), configured.set_by))
}

/// The kernel that questions about the next boot refer to: the kernel that boots next. If that is unknown or
/// another system, the remembered kernel, or the one that clr-boot-manager makes the default.
pub fn presumed(system: &System) -> Option<&Installed> {
    let next = next_boot(system);
    let remembered = || system.inventory.of_release(next.shown()?);
    next.kernel(&system.inventory).or_else(remembered).or_else(|| system.inventory.boot_default())
}

/// The command lines of the tips and of the next boot. An old kernel that is still running is not booted
/// again.
pub fn coming_lines(system: &System) -> impl Iterator<Item = &KernelCmdline> {
    let next = presumed(system).map(|k| k.id.clone());
    let tips = system.inventory.tips();
    let lines = system.lines.iter().chain(&system.fallback_lines);
    lines.filter(move |l| next.as_ref() == Some(&l.id) || tips.iter().any(|k| k.id == l.id))
}

/// Whether the current boot used the entry of an installed kernel. True if no EFI variable names the entry.
pub fn booted_from_installed(system: &System) -> bool {
    let Some(Ok(seen)) = &system.loader_interface else { return true };
    let Some(selected) = &seen.selected else { return true };
    release_of_entry(selected).is_some_and(|release| system.inventory.of_release(&release).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::entries::Variables;

    fn inventory(releases: &[&str]) -> Inventory {
        use crate::kernel::inventory::{Companions, Images, There};
        let kernel = |release: &&str| {
            let name = KernelName::from_release(release, "org.clearlinux")?;
            let no = There::No;
            Some(Installed {
                id: name.id(),
                image: name.id(),
                name,
                copies: Vec::new(),
                companions: Companions { config: no, system_map: no, vmlinux: no, initrd: no },
                headers: crate::kernel::Headers::Absent,
                modules: There::Yes,
                booted: no,
                is_named: true,
                tip: true,
                running: false,
            })
        };
        Inventory {
            namespace: "org.clearlinux".to_owned(),
            running: Running::Known { release: "6.15.7-1591.native".to_owned() },
            kernels: releases.iter().filter_map(kernel).collect(),
            oddities: Vec::new(),
            images: Images::Listed,
        }
    }

    fn said(one_shot: Option<&str>, default: Option<&str>, entries: Option<&[&str]>) -> String {
        let own = |text: &str| text.to_owned();
        let seen = LoaderInterface {
            overrides: Variables { one_shot: one_shot.map(own), default: default.map(own) },
            selected: None,
            entries: entries.map(|names| names.iter().map(|n| own(n)).collect()),
        };
        match by_variables(&seen, &inventory(&["6.15.7-1591.native", "6.12.38-1550.lts"])) {
            Some(NextBoot::Installed { release, .. }) => format!("installed {release}"),
            Some(NextBoot::Removed { release, .. }) => format!("removed {release}"),
            Some(NextBoot::OtherSystem { choice }) => format!("other {}", choice.entry),
            Some(NextBoot::Unknown { .. }) => "unknown".to_owned(),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn the_variables_decide_where_the_entries_are_hidden() {
        let (lts, old) = ("Clear-linux-lts-6.12.38-1550.conf", "Clear-linux-lts-6.1.1-7.conf");
        assert_eq!(said(None, None, None), "none");
        assert_eq!(said(None, Some(lts), None), "installed 6.12.38-1550.lts");
        assert_eq!(said(Some("clear-LINUX-lts-6.12.38-1550"), None, None), "installed 6.12.38-1550.lts");
        assert_eq!(said(Some("x"), Some(lts), Some(&[lts])), "installed 6.12.38-1550.lts");
        assert_eq!(said(Some(old), Some(lts), Some(&[lts, old])), "removed 6.1.1-7.lts");
        assert_eq!(said(None, Some(old), None), "unknown");
        assert_eq!(said(None, Some(old), Some(&[lts])), "none", "the loader ignores it");
        assert_eq!(said(None, Some("auto-windows"), Some(&["auto-windows"])), "other auto-windows");
        assert_eq!(said(None, Some("@saved"), Some(&[lts])), "unknown");
        let counted = "Clear-linux-lts-6.12.38-1550+3-1.conf";
        assert_eq!(said(Some(counted), None, None), "installed 6.12.38-1550.lts");
        assert_eq!(said(Some("Clear-linux-lts-6.1.1-7+3.conf"), None, Some(&[old])), "removed 6.1.1-7.lts");
    }
}
