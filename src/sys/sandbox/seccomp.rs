//! The system calls that a confined program may use.

use std::io;

use libc::c_long;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

type Rules = std::collections::BTreeMap<c_long, Vec<SeccompRule>>;

/// The last system call that is known here (`mseal`). Later ones, io_uring, and clone3, whose flags a filter
/// cannot read, fail as on an older kernel.
const LAST: c_long = 462;
const UNKNOWN: [c_long; 4] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_clone3];
/// System calls that no evaluation and no build needs: for other processes, other namespaces, the network and
/// the kernel.
const FORBIDDEN: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_mq_open,
    libc::SYS_msgget,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_semget,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_shmget,
    libc::SYS_socket,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];
/// System calls that are harmless only in a PID namespace with read-only mounts: signals, leaving the process
/// group, and changes to files that Landlock does not cover.
const FORBIDDEN_OUTSIDE: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_ioprio_set,
    libc::SYS_kill,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_pidfd_send_signal,
    libc::SYS_removexattr,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_setpgid,
    libc::SYS_setpriority,
    libc::SYS_setsid,
    libc::SYS_setxattr,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_truncate,
    libc::SYS_utimensat,
    // fchmodat2, which libc does not define for every architecture.
    452,
];
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[c_long] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_modify_ldt,
    libc::SYS_nfsservctl,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[c_long] = &[libc::SYS_kexec_file_load];
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_OUTSIDE_HERE: &[c_long] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_futimesat,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_OUTSIDE_HERE: &[c_long] = &[];
/// The flags of clone(2) that create a namespace.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];
/// ioctl(2): TIOCSTI and TIOCLINUX insert text into the input of a terminal.
const TERMINAL: [u64; 2] = [0x5412, 0x541c];
/// ioctl(2): FIOSETOWN and SIOCSPGRP direct signals to another process; FS_IOC_SETFLAGS changes a file.
const OWNER: [u64; 3] = [0x8901, 0x8902, 0x4008_6602];
/// fcntl(2): F_SETOWN, F_SETSIG and F_SETOWN_EX direct signals to another process.
const SIGNALS: [u64; 3] = [8, 10, 15];

/// Filters the system calls of this process from now on. Returns false if there is no filter for this
/// architecture.
///
/// # Errors
///
/// If the kernel refuses the filter.
pub(super) fn filter(has_namespaces: bool) -> io::Result<bool> {
    let Ok(target) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(false) };
    let failed = |e: &dyn std::fmt::Display| io::Error::other(format!("seccomp: {e}"));
    let refused = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let known = (0..=LAST).filter(|call| !UNKNOWN.contains(call)).map(|call| (call, Vec::new())).collect();
    let filters = [
        SeccompFilter::new(forbidden(has_namespaces)?, SeccompAction::Allow, refused(libc::EPERM), target),
        SeccompFilter::new(known, refused(libc::ENOSYS), SeccompAction::Allow, target),
    ];
    for filter in filters {
        let program: seccompiler::BpfProgram = filter.and_then(TryInto::try_into).map_err(|e| failed(&e))?;
        seccompiler::apply_filter(&program).map_err(|e| failed(&e))?;
    }
    Ok(true)
}

fn forbidden(has_namespaces: bool) -> io::Result<Rules> {
    let when = |argument: u8, length: Length, is: Is, value: u64| {
        SeccompCondition::new(argument, length, is, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|e| io::Error::other(format!("seccomp: {e}")))
    };
    let (mut calls, mut requests) = ([FORBIDDEN, FORBIDDEN_HERE].concat(), TERMINAL.to_vec());
    let mut rules = Rules::new();
    if !has_namespaces {
        calls.extend([FORBIDDEN_OUTSIDE, FORBIDDEN_OUTSIDE_HERE].concat());
        requests.extend(OWNER);
        let commands = SIGNALS.iter().map(|command| when(1, Length::Dword, Is::Eq, *command));
        rules.insert(libc::SYS_fcntl, commands.collect::<Result<_, _>>()?);
        // The limits of another process; 0 is the caller.
        rules.insert(libc::SYS_prlimit64, vec![when(0, Length::Dword, Is::Ne, 0)?]);
    }
    rules.extend(calls.into_iter().map(|call| (call, Vec::new())));
    let flags = NAMESPACES.iter().map(|flag| u64::from(flag.unsigned_abs()));
    let flags = flags.map(|flag| when(0, Length::Qword, Is::MaskedEq(flag), flag));
    rules.insert(libc::SYS_clone, flags.collect::<Result<_, _>>()?);
    let requests = requests.into_iter().map(|request| when(1, Length::Dword, Is::Eq, request));
    rules.insert(libc::SYS_ioctl, requests.collect::<Result<_, _>>()?);
    Ok(rules)
}
