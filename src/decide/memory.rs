//! How long a module stays required after its last use.
//!
//! A requirement does not end because a file, or the entry of the module in the DKMS tree, has disappeared:
//! both can be lost by accident. It ends
//! - after a boot in which the module could load and nothing known or configured used it. Whether it could
//!   load is known only if an earlier boot of the same kernel had it, so this takes two complete boots of one
//!   kernel;
//! - when an admin runs `clr-dkms forget`, or lists the module in `[modules] optional`;
//! - when an admin removes the module with dkms, which is recognized by what `dkms remove` leaves:
//!   [`is_removed`].

use super::importance::KnownModule;
use crate::requirement::{IdleBoot, Importance, Requirement};
use crate::usage::Usage;

/// What happens to a recorded requirement that no current use confirms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// It stays required. The value is the boot in which the module could load and was not used, if it is
    /// known.
    Kept(Option<IdleBoot>),
    /// It is no longer required.
    Ended,
}

/// Decides whether the requirement `known` of the last run is kept.
pub fn recall(known: &Requirement, module: &KnownModule, in_use: &Usage, running: Option<&str>) -> Memory {
    if known.class == Importance::Optional {
        return Memory::Ended;
    }
    if in_use.configured.names(&known.modules(), &known.why) {
        return Memory::Kept(None);
    }
    let (Some(boot), Some(kernel)) = (&in_use.boot.id, running) else {
        return Memory::Kept(known.idle.clone());
    };
    if !module.is_loadable || !in_use.boot.is_complete {
        return Memory::Kept(known.idle.clone());
    }
    match &known.idle {
        Some(idle) if idle.kernel == kernel && idle.boot != *boot => Memory::Ended,
        Some(idle) if idle.kernel == kernel => Memory::Kept(Some(idle.clone())),
        _ => Memory::Kept(Some(IdleBoot { boot: boot.clone(), kernel: kernel.to_owned() })),
    }
}

/// What is left of a module that the DKMS tree listed at the last run and does not list now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The DKMS tree exists and is readable.
    pub has_tree: bool,
    /// The number of installed kernels that had the module at the last run.
    pub kernels: usize,
    /// The number of these kernels that have neither a file of the module nor a line in `modules.dep`.
    pub without: usize,
}

/// Whether `dkms remove` removed the module. It deletes the directory in the DKMS tree and all installed
/// files, and runs depmod. A lost tree leaves the installed files, and lost files leave the tree; in unclear
/// cases the requirement is kept.
pub fn is_removed(trace: Trace) -> bool {
    trace.has_tree && trace.kernels > 0 && trace.without == trace.kernels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::Use;
    use crate::usage::CurrentBoot;

    fn critical(idle: Option<(&str, &str)>) -> Requirement {
        Requirement {
            module: "zfs".to_owned(),
            class: Importance::Critical,
            reason: "backs /home (zfs)".to_owned(),
            why: vec![Use::Mount { point: "/home".to_owned(), fs: "zfs".to_owned() }],
            files: vec!["zfs".to_owned()],
            aliases: Vec::new(),
            origin: None,
            works: true,
            worked_on: None,
            idle: idle.map(|(boot, kernel)| IdleBoot { boot: boot.to_owned(), kernel: kernel.to_owned() }),
        }
    }

    /// Boot `boot` of kernel K.
    fn now(boot: &str, is_complete: bool) -> Usage {
        Usage { boot: CurrentBoot { id: Some(boot.to_owned()), is_complete }, ..Usage::default() }
    }

    fn kept(memory: &Memory) -> String {
        match memory {
            Memory::Ended => "ended".to_owned(),
            Memory::Kept(None) => "kept".to_owned(),
            Memory::Kept(Some(idle)) => format!("kept, idle in {} on {}", idle.boot, idle.kernel),
        }
    }

    #[test]
    fn it_takes_a_boot_in_which_it_could_load() {
        let could = KnownModule { is_loadable: true, ..KnownModule::default() };
        let shown =
            |idle, boot, complete| kept(&recall(&critical(idle), &could, &now(boot, complete), Some("K")));
        assert_eq!(shown(None, "2", true), "kept, idle in 2 on K");
        assert_eq!(shown(Some(("2", "K")), "2", true), "kept, idle in 2 on K");
        assert_eq!(shown(Some(("2", "K")), "3", true), "ended");
        // The other kernel may have got the module after it was booted.
        assert_eq!(shown(Some(("2", "J")), "3", true), "kept, idle in 3 on K");
        assert_eq!(shown(None, "2", false), "kept");
        assert_eq!(shown(Some(("2", "K")), "3", false), "kept, idle in 2 on K");
        let cannot = KnownModule::default();
        let lost = recall(&critical(Some(("2", "K"))), &cannot, &now("3", true), Some("K"));
        assert_eq!(kept(&lost), "kept, idle in 2 on K");
        let nothing_known = recall(&critical(None), &could, &Usage::default(), Some("K"));
        assert_eq!(kept(&nothing_known), "kept");
    }

    #[test]
    fn what_is_configured_is_remembered() {
        let could = KnownModule { is_loadable: true, ..KnownModule::default() };
        let known = critical(Some(("2", "K")));
        let shown = |in_use: &Usage| kept(&recall(&known, &could, in_use, Some("K")));
        let mut in_use = now("3", true);
        in_use.configured.mount_points.insert("/home".to_owned());
        assert_eq!(shown(&in_use), "kept");
        let mut in_use = now("3", true);
        in_use.configured.filesystems.insert("zfs".to_owned());
        assert_eq!(shown(&in_use), "kept");
        let mut in_use = now("3", true);
        in_use.configured.modules_load.insert("zfs".to_owned(), "/etc/modules-load.d/zfs.conf".to_owned());
        assert_eq!(shown(&in_use), "kept");
        assert_eq!(shown(&now("3", true)), "ended");
    }

    #[test]
    fn only_what_dkms_removes_whole_is_removed() {
        let removed = |has_tree, kernels, without| is_removed(Trace { has_tree, kernels, without });
        assert!(removed(true, 2, 2));
        assert!(!removed(true, 2, 1), "the directory below the tree is lost");
        assert!(!removed(false, 2, 2), "the tree is lost");
        assert!(!removed(true, 0, 0), "no kernel is left that had it");
    }
}
