//! `clr-dkms status`: may I reboot, and will my modules be there?

mod show;

use clap::{Parser, Subcommand};

use super::add::{self, AddArguments};
use super::check::{self, CheckArguments};
use super::enforcement::{self, EnforcementArguments};
use super::explain::{self, ExplainArguments};
use super::export::{self, ExportArguments};
use super::forget::{self, ForgetArguments};
use super::gc::{self, GcArguments};
use super::guard::{self, GuardArguments};
use super::hold::{self, AllowArguments, HoldArguments, ReleaseArguments, UnholdArguments};
use super::import::{self, ImportArguments};
use super::lint::{self, LintArguments};
use super::logs::{self, LogsArguments};
use super::rebuild::{self, RebuildArguments};
use super::remove::{self, RemoveArguments};
use super::setup::{self, SetupArguments};
use super::wait::{self, WaitArguments};
use super::{Common, answer};
use show::StatusArguments;

use crate::exit;
use crate::report::render::nagios;
pub(super) use show::NeedsTerminal;

macro_rules! status_examples {
    () => {
        "  clr-dkms status\n  clr-dkms status v4l2loopback\n  clr-dkms status --watch\n  clr-dkms status --json | jq .verdict\n  clr-dkms status --root /mnt"
    };
}

/// Report whether a reboot is safe, and whether the next kernel has its DKMS modules and accepts them.
///
/// Start with `clr-dkms status`: its first line is the verdict and the next step, the lines below it give the
/// reasons. A KERNEL is named by its release (6.15.7-1591.native), by its id
/// (org.clearlinux.native.6.15.7-1591), by its variant (native, ltscurrent …) for the default kernel of that
/// variant, or by `running`.
///
/// The other programs: clr-dkms-post-update does all the work after an update, clr-dkms-pre-update looks at
/// the system before one, clr-dkms-cmdline changes module.sig_unenforce on the kernel command line,
/// clr-dkms-motd writes the message of the day, and clr-dkms-variant names the variant of a kernel and its
/// bundles.
///
/// Exit code 0: healthy, or done, or nothing to do; 1: attention, but safe, or not all done; 2: unsafe, the
/// kernel that boots next lacks something that is needed; 3: it cannot be determined.
#[derive(Debug, Parser)]
#[command(
    name = "clr-dkms",
    version,
    after_help = "Examples:\n  clr-dkms status\n  clr-dkms rebuild\n  clr-dkms help rebuild"
)]
pub struct AdminArguments {
    #[command(subcommand)]
    verb: AdminVerb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum AdminVerb {
    /// Show the verdict, the kernels and the modules; or everything that is known about one module
    ///
    /// The first line is the verdict and the next step, the lines below it give the reasons. The kernels, the
    /// modules on the kernels that matter, and the state of the boot files follow. What does not fit on the
    /// screen is counted; --all shows it. With MODULE: its versions, its class with the reason, and on each
    /// kernel its state, the cause, the first error, the log, the signatures and the remedy. Each word and
    /// each id is explained by `clr-dkms explain WORD`, and in clr-dkms-states(7).
    ///
    /// Exit code 0: everything is in place, even if a reboot is pending; 1: something is missing, has failed
    /// or is being built, but the next boot is safe; 2: the kernel that boots next lacks something that is
    /// needed; 3: it cannot be determined, or there is no such module.
    #[command(
        after_help = concat!("Examples:\n", status_examples!()),
        after_long_help = concat!("Examples:\n", status_examples!(), "\n\n", include_str!("status/screen.txt"))
    )]
    Status(StatusArguments),
    /// Show whether kernels accept modules without a trusted signature: as configured, at the next boot, and
    /// now
    ///
    /// Exit code 0: the kernel that boots next behaves as wanted, even if a reboot is needed for that; 1: a
    /// boot entry differs, something is not as wanted, or a module in use will be refused at the next boot;
    /// 2: a critical module will be refused, so that the next boot is not safe; 3: it cannot be determined.
    #[command(after_help = "Examples:\n  clr-dkms enforcement\n  clr-dkms enforcement --kernel native\n  \
        clr-dkms enforcement --json | jq '.kernels[0].next_boot.loads'")]
    Enforcement(EnforcementArguments),
    /// Build and install modules by hand, as clr-dkms-post-update does after an update
    ///
    /// Modules that are proven are left alone, unless --force is given; builds that failed before are tried
    /// again. A module that is named is built even if its dkms.conf has no AUTOINSTALL=yes. If a build with
    /// --force fails, the installed module stays. The progress is shown on a terminal; elsewhere a line is
    /// printed at the beginning and at the end of each module (on stderr; none with -q). The result of each
    /// module is printed last. Ctrl-C stops the current build and removes it; what was completed stays.
    ///
    /// Exit code 0: everything that was requested is installed; 1: something is not, or cannot be built; 3:
    /// there is no such module or kernel.
    #[command(after_help = "Examples:\n  clr-dkms rebuild\n  clr-dkms rebuild hello -k native --force\n  \
        clr-dkms rebuild --all-kernels --dry-run\n  clr-dkms rebuild -q --json | jq '.modules[] | select(.state != \"ok\")'")]
    Rebuild(RebuildArguments),
    /// Install a module from its source: find out how it is built, build it, and register it with DKMS
    ///
    /// SOURCE is a directory, a git checkout, an archive (tar, also compressed by gzip, xz, zstd or bzip2;
    /// zip), an archive of `dkms mktarball`, or a package for DKMS (.deb, .rpm). It is unpacked into a
    /// scratch directory; nothing is written outside it. Its dkms.conf is used, completed or generated, and
    /// each decision is shown with the line of the source that it rests on. No installation script of the
    /// source is run. The commands that find out how it is built, and a first build for each kernel with
    /// headers, run in a sandbox as a user that owns nothing.
    ///
    /// After a confirmation the source is copied to /usr/src, registered with DKMS, built and installed as
    /// after an update, with the kernel command line and the boot files. When a kernel does not get the
    /// module, everything is taken back.
    ///
    /// Exit code 0: the module is installed and proven on every kernel, or was before; with --dry-run: it can
    /// be adopted; 1: it cannot be adopted or built, or it was not confirmed; 3: something cannot be
    /// determined; 75: another run is active; 77: no permission.
    #[command(after_help = "Examples:\n  clr-dkms add ./v4l2loopback --dry-run\n  \
        clr-dkms add hello-1.0.tar.gz --yes\n  clr-dkms add ./driver --conf module/dkms.conf --version 1.2")]
    Add(AddArguments),
    /// Remove a module: unload it, take it from every kernel and from DKMS, and take back what `add` wrote
    ///
    /// The module is unloaded, if nothing uses it. Files in /etc that `clr-dkms add` wrote are removed,
    /// unless they were edited since. The module is removed from every kernel and from the DKMS tree, and its
    /// source from /usr/src if `clr-dkms add` put it there. The boot files are brought up to date as after an
    /// update. A run that is interrupted is completed by the next run of clr-dkms.
    ///
    /// A module that the machine depends on (a mounted filesystem, swap, the default route, the display, or
    /// [modules] critical in clr-dkms.conf) is only removed with --force.
    ///
    /// Exit code 0: it is removed, or with --dry-run would be; 1: it is in use, critical or has several
    /// versions, or not all of it could be removed; 2: it is removed, and the next boot lacks something
    /// critical; 3: there is no such module, or it cannot be determined; 75: another run is active; 77: no
    /// permission.
    #[command(after_help = "Examples:\n  clr-dkms remove hello --dry-run\n  clr-dkms remove hello/1.0\n  \
        clr-dkms remove nvidia --force")]
    Remove(RemoveArguments),
    /// Write an archive with the source of a module and its proven binaries, for other machines
    ///
    /// The archive is laid out as `dkms mktarball` does it. It also has a manifest, with the SHA-256 of each
    /// file, the vermagic and the symbol versions of the binaries, and a fingerprint of what they were built
    /// from. Only what is proven is exported: of each installed kernel, or of those that are named. A kernel
    /// that is named and not proven is an error.
    ///
    /// On other machines `clr-dkms import FILE` installs it. Sign it with `minisign -S -m FILE`: binaries
    /// without a valid signature are not used there.
    ///
    /// Exit code 0: the archive is written; 1: it is not; 3: it cannot be determined what is proven.
    #[command(after_help = "Examples:\n  clr-dkms export v4l2loopback v4l2loopback.tar.gz\n  \
        clr-dkms export hello/1.0 hello.tar.gz && minisign -S -m hello.tar.gz")]
    Export(ExportArguments),
    /// Install modules that another machine has exported, without a compiler where the binaries fit
    ///
    /// FILE is an archive of `clr-dkms export`, or of `dkms mktarball`. Everything in it is compared with its
    /// manifest, and the binaries with this machine: architecture, kernel release, vermagic, and the version
    /// of each symbol. Binaries that fit are installed. For other kernels the module is built from the source
    /// in the archive, as after an update.
    ///
    /// A manifest protects against damage only. Binaries are therefore used only when FILE.minisig is a valid
    /// signature by a key in /etc/clr-dkms/keys.d (NAME.pub, a public key of minisign), or with
    /// --trust-binaries. An archive that was changed after it was signed is refused.
    ///
    /// After a confirmation the sources are copied to /usr/src and registered with DKMS, and the modules are
    /// installed with the kernel command line and the boot files. A module that works on no kernel is taken
    /// back.
    ///
    /// Exit code 0: the modules are installed and proven on every kernel, or were before; with --dry-run:
    /// they can be imported; 1: something is not, or it was not confirmed; 3: something cannot be determined;
    /// 75: another run is active; 77: no permission.
    #[command(after_help = "Examples:\n  clr-dkms import hello.tar.gz --dry-run\n  \
        clr-dkms import --yes *.tar.gz\n  clr-dkms import --yes --root /mnt hello.tar.gz")]
    Import(ImportArguments),
    /// Make a system ready for modules: bundles, kernel command line, boot entries
    ///
    /// It looks for what a build needs: dkms, a compiler, make, and the headers of the kernels that boot by
    /// default. The bundles that have what is missing (kernel-native-dkms, kernel-lts-dkms …) are shown, and
    /// installed with swupd after a confirmation. module.sig_unenforce is set where a kernel refuses modules
    /// without a trusted signature, unless the configuration does not want it. Modules that are registered
    /// are built, the boot entries are brought up to date, and it is said whether a reboot is due. It can be
    /// repeated: what is there is left alone.
    ///
    /// On a system without swupd it says what is missing.
    ///
    /// Exit code 0: the system is ready, perhaps after a reboot; with --dry-run: it is, or can be made so; 1:
    /// something is missing, or it was not confirmed; 3: it cannot be determined what is there; 75: another
    /// run is active; 77: no permission.
    #[command(after_help = "Examples:\n  clr-dkms setup --dry-run\n  clr-dkms setup --yes\n  \
        clr-dkms setup --root /mnt --yes")]
    Setup(SetupArguments),
    /// Check dkms.conf files and their sources: what is wrong, in which line, and how to correct it
    ///
    /// Each dkms.conf is read as text, and run by bash as dkms would run it, but without write access. An
    /// error keeps a module from being built, or lets other users run commands as root; a warning is probably
    /// not what was meant. The name in brackets at the end of a finding stays the same in later versions.
    ///
    /// Exit code 0: no findings, or only advice; 1: warnings or errors; 3: something cannot be read.
    #[command(
        after_help = "Examples:\n  clr-dkms lint\n  clr-dkms lint v4l2loopback\n  clr-dkms lint ./my-module\n  \
        clr-dkms lint --kernel native hello/1.0\n  clr-dkms lint --json | jq '.targets[].findings[].id'"
    )]
    Lint(LintArguments),
    /// Show which kernel boots next, which one should, and why
    ///
    /// A new kernel becomes the boot default once the modules that this machine needs are proven for it.
    /// Until then the kernel that has them stays the default.
    ///
    /// Exit code 0: the newest kernel may be booted, or there is no kernel of clr-boot-manager; 1: another
    /// kernel is kept as the default and is safe, or the kernel boots without a wanted module, which an admin
    /// has allowed; 2: the kernel that boots next lacks a critical module; 3: it cannot be determined.
    #[command(
        after_help = "Examples:\n  clr-dkms guard\n  clr-dkms guard --json | jq '.needs[] | select(.class == \"critical\")'"
    )]
    Guard(GuardArguments),
    /// Report the verdict as an exit code, for monitors and scripts
    ///
    /// Nothing is printed unless --nagios or --json is given.
    ///
    /// Exit code 0: healthy, even if a reboot is pending; 1: attention, but safe; 2: unsafe; 3: it cannot be
    /// determined. These are the codes that Nagios and Icinga expect.
    #[command(
        after_help = "Examples:\n  clr-dkms check || clr-dkms status\n  clr-dkms check --reboot-pending && systemctl reboot\n  clr-dkms check --nagios"
    )]
    Check(CheckArguments),
    /// Show the log of the last build, the first error first
    ///
    /// Without MODULE: the newest log of a failed build; if there is none, the newest log. On a terminal a
    /// pager shows it: $PAGER, or less; with the rights of another user (sudo) it is always less, in its
    /// secure mode.
    ///
    /// Exit code 0: shown; 3: there is no such log, or it cannot be read.
    #[command(
        after_help = "Examples:\n  clr-dkms logs\n  clr-dkms logs v4l2loopback\n  clr-dkms logs hello/1.0 -k native | grep warning"
    )]
    Logs(LogsArguments),
    /// Explain a verdict, a state or a class of a module: its meaning, its cause, and what to do
    ///
    /// Exit code 0: explained; 3: there is no such id or word.
    #[command(
        after_help = "Examples:\n  clr-dkms explain\n  clr-dkms explain CD-102\n  clr-dkms explain build-failed\n  clr-dkms explain critical"
    )]
    Explain(ExplainArguments),
    /// Keep a kernel as the boot default, whatever is proven; without KERNEL, the running one
    ///
    /// The hold lasts until `clr-dkms unhold`, across updates and reboots. Until then `clr-dkms status` shows
    /// `held`, with the user, the time and the reason of the request. A hold ends everything that `clr-dkms
    /// allow` has accepted before.
    ///
    /// Exit code 0: done, or nothing to do; 1: done, but a module is missing on the kernel that boots next;
    /// 2: done, but the kernel that boots next lacks something that is needed; 3: there is no such kernel, or
    /// it cannot be determined which one.
    #[command(after_help = "Examples:\n  clr-dkms hold --reason 'the new driver flickers'\n  \
        clr-dkms hold 6.15.7-1591.native\n  clr-dkms hold --dry-run native")]
    Hold(HoldArguments),
    /// End a hold
    ///
    /// The newest kernel becomes the boot default if the modules that this machine needs are proven for it.
    ///
    /// Exit code 0: done, or no kernel is held; 1: done, but a module is missing; 2: done, but the kernel
    /// that boots next lacks something that is needed; 3: it cannot be determined.
    #[command(after_help = "Examples:\n  clr-dkms unhold\n  clr-dkms unhold --dry-run")]
    Unhold(UnholdArguments),
    /// Let a kernel boot without a module that this machine needs
    ///
    /// It applies to this kernel and this module only, and ends when the kernel is removed, or with the next
    /// `clr-dkms hold`. `clr-dkms status` shows it. On a terminal it asks for confirmation; --yes answers the
    /// question. Without a critical module (a disk, the network or the display depends on it) it also needs
    /// --force.
    ///
    /// Exit code 0: done; 1: done, but a module is missing, or it was not confirmed; 2: done, but what boots
    /// next lacks something that is needed, or a critical module needs --force; 3: there is no such kernel,
    /// or it does not lack that module.
    #[command(after_help = "Examples:\n  clr-dkms allow native --without v4l2loopback\n  \
        clr-dkms allow 6.15.8-1592.native --without zfs --force\n  \
        clr-dkms allow native --without hello --dry-run")]
    Allow(AllowArguments),
    /// End a hold; the name of `unhold` in version 0.1
    ///
    /// Without a hold nothing is changed, and the `clr-dkms allow` command is named that lets a kernel boot
    /// without a module.
    ///
    /// Exit code 0: done; 1: no kernel is held, or a module is missing; 2: the kernel that boots next lacks
    /// something that is needed; 3: it cannot be determined.
    #[command(hide = true, after_help = "Examples:\n  clr-dkms unhold")]
    Release(ReleaseArguments),
    /// Wait until no run is active, requested or queued
    ///
    /// `swupd update` ends before the modules are built. This command waits for the run that swupd has
    /// requested, and then prints the verdict. Ctrl-C ends only the wait.
    ///
    /// Exit code 0: a reboot is safe, even if a kernel is held back; 2: unsafe, the kernel that boots next
    /// lacks something that is needed; 3: it cannot be determined; 75: the timeout has expired, and a run is
    /// still active or requested.
    #[command(after_help = "Examples:\n  swupd update && clr-dkms wait && reboot\n  \
        clr-dkms wait --timeout 30min")]
    Wait(WaitArguments),
    /// Stop requiring a module that this machine used in the past
    ///
    /// A module that this machine has used is required on every kernel until a boot has shown that nothing
    /// uses it any more, even if its file or its entry in the DKMS tree is lost. This command ends the
    /// requirement at once. A module that is in use, installed for the running kernel, or listed in
    /// clr-dkms.conf stays required; to change that, add it to `[modules] optional` in clr-dkms.conf.
    ///
    /// Exit code 0: done, or the module was not required; 1: it is required for another reason, or something
    /// else is wrong; 2: the kernel that boots next lacks a critical module; 3: no such module is remembered.
    #[command(after_help = "Examples:\n  clr-dkms forget zfs\n  clr-dkms forget --dry-run zfs")]
    Forget(ForgetArguments),
    /// Remove what DKMS has left of kernels that are not installed any more
    ///
    /// It removes built modules, symlinks and directories in /var/lib/dkms and /usr/lib/modules of kernels
    /// without an image, a boot entry and files of their own. It uses `dkms unbuild`, so that every module
    /// stays registered for later kernels. Logs of builds for such kernels, and of modules that are not
    /// registered any more, are removed after 90 days. Whatever may still be needed stays, and if anything
    /// cannot be read, nothing is removed.
    ///
    /// Exit code 0: done, or nothing to do; 1: something could not be removed; 3: something could not be
    /// read, and nothing was changed; 75: another run is active; 77: no permission.
    #[command(after_help = "Examples:\n  clr-dkms gc --dry-run\n  clr-dkms gc\n  clr-dkms gc --root /mnt")]
    Gc(GcArguments),
}

/// Runs it.
///
/// # Errors
/// When the root or the configuration cannot be used, or stdout cannot be written.
pub fn run(arguments: AdminArguments) -> anyhow::Result<u8> {
    let (is_nagios, color) =
        (matches!(&arguments.verb, AdminVerb::Check(asked) if asked.nagios), arguments.common.color);
    match run_verb(arguments) {
        // A monitor knows no other exit codes than those of its interface.
        Err(error) if is_nagios => {
            answer(&nagios::of_error(&error), color)?;
            Ok(exit::UNKNOWN)
        }
        done => done,
    }
}

fn run_verb(arguments: AdminArguments) -> anyhow::Result<u8> {
    let context = match arguments.verb {
        // A typo in the configuration must not keep the boot guard from its work.
        AdminVerb::Guard(_) | AdminVerb::Explain(_) => {
            let (mut context, errors) = arguments.common.context("clr-dkms")?;
            // Their units may make no namespaces, and must not wait for a dkms.conf: the cache has to do.
            if matches!(&arguments.verb, AdminVerb::Guard(asked) if asked.at_boot || asked.assert) {
                context.tools.evaluates_modules = false;
            }
            // The answer does not depend on it: what is valid applies.
            errors.iter().for_each(|e| tracing::warn!("{e}"));
            context
        }
        AdminVerb::Status(_) | AdminVerb::Check(_) | AdminVerb::Wait(_) | AdminVerb::Enforcement(_) => {
            arguments.common.report_world("clr-dkms")?
        }
        _ => arguments.common.strict_world("clr-dkms")?,
    };
    match arguments.verb {
        AdminVerb::Guard(asked) => guard::run(&context, asked, &arguments.common),
        AdminVerb::Hold(asked) => hold::hold(&context, &asked, &arguments.common),
        AdminVerb::Unhold(asked) => hold::unhold(&context, &asked, &arguments.common),
        AdminVerb::Allow(asked) => hold::allow(&context, &asked, &arguments.common),
        AdminVerb::Release(asked) => hold::release(&context, &asked, &arguments.common),
        AdminVerb::Wait(asked) => wait::run(&context, &asked, &arguments.common),
        AdminVerb::Forget(asked) => forget::run(&context, &asked, &arguments.common),
        AdminVerb::Add(asked) => add::run(&context, asked, &arguments.common),
        AdminVerb::Remove(asked) => remove::run(&context, &asked, &arguments.common),
        AdminVerb::Export(asked) => export::run(&context, &asked, &arguments.common),
        AdminVerb::Import(asked) => import::run(&context, &asked, &arguments.common),
        AdminVerb::Setup(asked) => setup::run(&context, &asked, &arguments.common),
        AdminVerb::Status(asked) => show::run(&context, &asked, &arguments.common),
        AdminVerb::Logs(asked) => logs::run(&context, &asked, &arguments.common),
        AdminVerb::Explain(asked) => explain::run(&asked, &arguments.common),
        AdminVerb::Check(asked) => check::run(&context, &asked, &arguments.common),
        AdminVerb::Enforcement(asked) => enforcement::run(&context, &asked, &arguments.common),
        AdminVerb::Rebuild(asked) => rebuild::run(&context, asked, &arguments.common),
        AdminVerb::Lint(asked) => lint::run(&context, &asked, &arguments.common),
        AdminVerb::Gc(asked) => gc::run(&context, &asked, &arguments.common),
    }
}
