//! What a process gives up for itself and for all that it starts: its identity, its privileges, and its room.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::request::{Sight, Strength};
use super::tree::left_out;

/// Users and groups that own nothing, one for each sandbox: the number of processes is limited for a user,
/// and one that takes all of them must not stop another one. systemd leaves the numbers from here to
/// 0x7ffdffff unused.
const UNPRIVILEGED: u32 = 0x7000_0000;
/// Where these have no meaning, as in a container: systemd leaves it unused too, and `nobody` has processes
/// on some machines.
const UNPRIVILEGED_IN_CONTAINER: u32 = 65_533;
/// The capabilities that concern the owners and modes of files alone.
pub(super) const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// What an evaluation may take.
const EVALUATION: &[(Resource, u64)] = &[
    // What one process may map, in bytes.
    (Resource::RLIMIT_AS, 512 << 20),
    // The size of a file, the output included.
    (Resource::RLIMIT_FSIZE, 32 << 20),
    (Resource::RLIMIT_NPROC, 128),
    (Resource::RLIMIT_NOFILE, 256),
];
/// What a compiler may take: the largest public module needs a tenth of this.
const COMPILATION: &[(Resource, u64)] = &[
    (Resource::RLIMIT_AS, 8 << 30),
    (Resource::RLIMIT_FSIZE, 2 << 30),
    (Resource::RLIMIT_NPROC, 2048),
    (Resource::RLIMIT_NOFILE, 1024),
];

/// The user and the group of a sandbox; `number` is one of its processes.
pub(super) fn unprivileged(number: u32) -> u32 {
    UNPRIVILEGED | number
}

/// Becomes a user that owns nothing and is in no group; no capability is left then.
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

/// Gives up every other capability; none can be gained again, not even by a program of root.
pub(super) fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    rustix::thread::clear_ambient_capability_set()?;
    let kept = rustix::thread::capabilities(None)?.permitted.intersection(kept);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Sets the limits. The number of processes is that of a user: `others` are those that this one has outside.
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
        // A caller's lower limit stays.
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let others = if resource == Resource::RLIMIT_NPROC { others } else { 0 };
        let limit = (limit + others).min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Lets this process read what it is to see, and write to what it may write to; also to `/tmp` where that is
/// private, or where a build cannot do without. True when the kernel has Landlock.
///
/// # Errors
/// When the kernel has it and refuses what is asked for.
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
        // What is not there cannot be allowed, and need not be.
        let Ok(fd) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access)).map_err(|e| said(&e))?;
    }
    let status = ruleset.restrict_self().map_err(|e| said(&e))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
