//! What a process gives up for itself and its children: identity, privileges and resources.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::request::{Sight, Strength};
use super::tree::left_out;

/// The first number of users and groups that own nothing. Each sandbox has its own: the limit of processes is
/// per user, and a program that uses all of them must not affect other sandboxes. systemd leaves the numbers
/// from here to 0x7ffdffff unused.
const UNPRIVILEGED: u32 = 0x7000_0000;
/// Used if those numbers are not mapped, as in a container. systemd leaves this one unused too; `nobody` has
/// processes on some machines.
const UNPRIVILEGED_IN_CONTAINER: u32 = 65_533;
/// The capabilities that concern the owners and modes of files only.
pub(super) const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// The limits of an evaluation.
const EVALUATION: &[(Resource, u64)] = &[
    // The memory that one process may map, in bytes.
    (Resource::RLIMIT_AS, 512 << 20),
    // The size of a file, including the output.
    (Resource::RLIMIT_FSIZE, 32 << 20),
    (Resource::RLIMIT_NPROC, 128),
    (Resource::RLIMIT_NOFILE, 256),
];
/// The limits of a compilation. The largest public module needs a tenth of this.
const COMPILATION: &[(Resource, u64)] = &[
    (Resource::RLIMIT_AS, 8 << 30),
    (Resource::RLIMIT_FSIZE, 2 << 30),
    (Resource::RLIMIT_NPROC, 2048),
    (Resource::RLIMIT_NOFILE, 1024),
];

/// The number of the user and group of a sandbox; `number` is the id of one of its processes.
pub(super) fn unprivileged(number: u32) -> u32 {
    UNPRIVILEGED | number
}

/// Becomes a user without files and groups, and loses all capabilities.
pub(super) fn become_unprivileged(number: u32) -> io::Result<()> {
    setgroups(&[])?;
    let become_user = |number: u32| {
        let (user, group) = (Uid::from_raw(number), Gid::from_raw(number));
        setresgid(group, group, group)?;
        setresuid(user, user, user)
    };
    match become_user(unprivileged(number)) {
        Err(Errno::EINVAL) => Ok(become_user(UNPRIVILEGED_IN_CONTAINER)?),
        other => Ok(other?),
    }
}

/// Whether a user is one of those that own nothing.
pub(super) fn is_unprivileged(user: Uid) -> bool {
    user.as_raw() == UNPRIVILEGED_IN_CONTAINER || user.as_raw() >= UNPRIVILEGED
}

/// Gives up all other capabilities. None can be gained again, not even by a set-user-ID program.
pub(super) fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    rustix::thread::clear_ambient_capability_set()?;
    let kept = rustix::thread::capabilities(None)?.permitted.intersection(kept);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Sets the limits. The limit of processes is per user: `others` are those outside of the sandbox.
pub(super) fn limit(strength: Strength, seconds: u64, others: u64) -> io::Result<()> {
    let of_strength = match strength {
        Strength::Evaluate => EVALUATION,
        Strength::ScratchBuild => COMPILATION,
        Strength::Build => return Ok(()),
    };
    let common = [
        (Resource::RLIMIT_CPU, seconds),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ];
    for (resource, limit) in of_strength.iter().copied().chain(common) {
        // A lower limit of the caller is kept.
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let others = if resource == Resource::RLIMIT_NPROC { others } else { 0 };
        let limit = (limit + others).min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Restricts this process with Landlock to the paths that it may read and write. `/tmp` is writable if it is
/// private, or if a build needs it. Returns whether the kernel has Landlock.
///
/// # Errors
///
/// If the kernel has Landlock and refuses the rules.
pub(super) fn landlock(strength: Strength, sight: &Sight, has_own_root: bool) -> io::Result<bool> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetStatus, Scope,
    };
    const KNOWN: ABI = ABI::V6;
    let said = |e: &dyn std::fmt::Display| io::Error::other(format!("Landlock: {e}"));
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|r| r.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|r| r.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(|e| said(&e))?;
    let mut readable: Vec<std::path::PathBuf> = Vec::new();
    if has_own_root {
        readable.push("/".into());
    } else {
        readable.push("/proc".into());
        for root in std::iter::once(Path::new("/")).chain(sight.roots.iter().map(Path::new)) {
            #[allow(clippy::disallowed_methods)] // of the machine we run on, whatever the root is
            // What cannot be looked at gets no permission.
            let entries = std::fs::read_dir(root)?.filter_map(Result::ok);
            let shown =
                entries.filter(|entry| !left_out(strength).iter().any(|name| entry.file_name() == *name));
            readable.extend(shown.map(|entry| entry.path()));
        }
        readable.extend(sight.shown.iter().chain(&sight.readable).map(Into::into));
    }
    let mut rules = readable.into_iter().map(|path| (path, AccessFs::from_read(KNOWN))).collect::<Vec<_>>();
    for (name, _) in super::mounts::DEVICES {
        rules.push((Path::new("/dev").join(name), AccessFs::ReadFile | AccessFs::WriteFile));
    }
    if has_own_root || strength == Strength::Build {
        rules.push(("/tmp".into(), AccessFs::from_all(KNOWN)));
    }
    rules.extend(sight.writable.iter().map(|path| (path.into(), AccessFs::from_all(KNOWN))));
    for (path, access) in rules {
        // A path that does not exist needs no permission.
        let Ok(fd) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access)).map_err(|e| said(&e))?;
    }
    let status = ruleset.restrict_self().map_err(|e| said(&e))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
