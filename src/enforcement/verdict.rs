//! The rules, as pure functions: what a kernel does with a module, based on facts about the kernel.
//!
//! Source: measurements with 488 boots. Every measured row is a test.

use super::{KernelConfig, LoadOutcome, LoadRefusal, ModuleKind, Patch, SecureBoot, Tri};
use crate::cmdline::parameter::{Dialect, KernelArguments, LINE_LIMIT};
use crate::cmdline::{PARAMETER, Switch};

/// A boot: one kernel with one command line on one machine.
#[derive(Debug, Clone)]
pub struct Boot<'a> {
    /// The command line that the kernel is given.
    pub line: &'a [u8],
    /// Its build configuration. None if it cannot be read.
    pub config: Option<&'a KernelConfig>,
    /// Whether it knows `module.sig_unenforce`.
    pub patch: Patch,
    pub secure_boot: SecureBoot,
    /// Its version. None if the release does not contain it.
    pub version: Option<[u32; 3]>,
    /// The admin has an IMA policy that appraises modules.
    pub ima_policy: bool,
}

/// How a kernel treats modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnforcementVerdict {
    /// Loading of modules is disabled.
    pub disabled: Tri,
    /// IMA requires its own signature of modules.
    pub ima: Tri,
    /// The kernel checks signatures.
    pub checked: Tri,
    /// Trusted signatures are demanded, regardless of `module.sig_unenforce`.
    pub demanded: Tri,
    /// Modules without a trusted signature are refused.
    pub enforced: Tri,
    /// Lockdown refuses them even if enforcement does not.
    pub locked: Tri,
    /// The reasons, as sentences. The deciding reason comes first.
    pub because: Vec<String>,
    /// The unknown facts that matter, as phrases.
    pub missing: Vec<String>,
}

impl EnforcementVerdict {
    /// What happens to a module of that kind.
    pub fn of(&self, kind: ModuleKind) -> LoadOutcome {
        let signature = match (self.checked, kind) {
            (Tri::No, _) | (_, ModuleKind::Trusted) => LoadOutcome::Loads,
            (Tri::Yes, ModuleKind::Damaged) => LoadOutcome::Refused(Some(LoadRefusal::EKeyRejected)),
            (Tri::Yes, ModuleKind::Unparsable) => LoadOutcome::Refused(Some(LoadRefusal::EBadMsg)),
            (Tri::Unknown, _) => LoadOutcome::Unknown,
            (Tri::Yes, ModuleKind::Unsigned | ModuleKind::UnknownKey) => match (self.enforced, self.locked) {
                (Tri::Yes, _) => LoadOutcome::Refused(Some(LoadRefusal::EKeyRejected)),
                (Tri::No, Tri::Yes) => LoadOutcome::Refused(Some(LoadRefusal::EPerm)),
                (Tri::No, Tri::No) => LoadOutcome::Taints,
                (Tri::Unknown, Tri::Yes) => LoadOutcome::Refused(None),
                (_, Tri::Unknown) | (Tri::Unknown, _) => LoadOutcome::Unknown,
            },
        };
        let ima = gate(self.ima, LoadRefusal::EAcces, signature);
        gate(self.disabled, LoadRefusal::EPerm, ima)
    }
}

impl EnforcementVerdict {
    /// The same, if the command line may have other words because one of its files could not be read.
    pub fn with_unknown_words(self, reason: String) -> EnforcementVerdict {
        let open = Tri::Unknown;
        EnforcementVerdict {
            disabled: open,
            ima: open,
            checked: self.checked,
            demanded: open,
            enforced: open,
            locked: open,
            because: Vec::new(),
            missing: vec![reason],
        }
    }
}

/// A rule that takes precedence over the others.
fn gate(closed: Tri, error: LoadRefusal, behind: LoadOutcome) -> LoadOutcome {
    match (closed, behind) {
        (Tri::Yes, _) => LoadOutcome::Refused(Some(error)),
        (Tri::No, behind) => behind,
        (Tri::Unknown, LoadOutcome::Refused(other)) => LoadOutcome::Refused(other.filter(|o| *o == error)),
        (Tri::Unknown, _) => LoadOutcome::Unknown,
    }
}

/// Reasons and missing facts, collected while a verdict is determined.
#[derive(Default)]
pub(super) struct Reasons {
    pub(super) because: Vec<String>,
    pub(super) missing: Vec<String>,
}

impl Reasons {
    pub(super) fn because(&mut self, why: impl Into<String>) {
        self.because.push(why.into());
    }

    pub(super) fn missing(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.missing.contains(&what) {
            self.missing.push(what);
        }
    }

    pub(super) fn yes(&mut self, why: impl Into<String>) -> Tri {
        self.because(why);
        Tri::Yes
    }

    pub(super) fn no(&mut self, why: impl Into<String>) -> Tri {
        self.because(why);
        Tri::No
    }

    pub(super) fn unknown(&mut self, without: impl Into<String>) -> Tri {
        self.missing(without);
        Tri::Unknown
    }
}

/// The verdict on a kernel that is booted with that line.
pub fn at_boot(boot: &Boot<'_>) -> EnforcementVerdict {
    let whole = whole_line(boot);
    let arguments = KernelArguments::read(&whole);
    let dialect = dialect(boot);
    let mut reasons = Reasons::default();
    let checked = checked(boot, &mut reasons);
    let disabled = disabled(&arguments, dialect, &mut reasons);
    let ima = ima(boot, &arguments, &mut reasons);
    let (mut demanded, mut enforced, mut locked) = (Tri::No, Tri::No, Tri::No);
    if checked != Tri::No {
        (demanded, enforced) = self::enforced(boot, &arguments, dialect, &mut reasons);
        let before = reasons.because.len();
        locked = self::locked(boot, &arguments, dialect, enforced, &mut reasons);
        if (enforced, locked) == (Tri::No, Tri::Yes) {
            // The deciding reason comes first.
            reasons.because.rotate_left(before);
        }
    }
    for remark in arguments.remarks(PARAMETER) {
        reasons.because(remark);
    }
    if whole.len() > LINE_LIMIT {
        reasons
            .because(format!("the line has {} bytes, of which the kernel keeps {LINE_LIMIT}", whole.len()));
    }
    EnforcementVerdict {
        disabled,
        ima,
        checked,
        demanded,
        enforced,
        locked,
        because: reasons.because,
        missing: reasons.missing,
    }
}

/// The command line together with the built-in one, as x86 joins them.
fn whole_line(boot: &Boot<'_>) -> Vec<u8> {
    let built_in = boot.config.filter(|c| c.has("CMDLINE_BOOL"));
    match built_in.and_then(|c| c.text("CMDLINE").map(|text| (text, c.has("CMDLINE_OVERRIDE")))) {
        Some((text, true)) => text.into_bytes(),
        Some((text, false)) => [text.as_bytes(), b" ", boot.line].concat(),
        None => boot.line.to_vec(),
    }
}

pub(super) fn dialect(boot: &Boot<'_>) -> Dialect {
    dialect_of(boot.config, boot.version)
}

/// How a kernel reads its command line.
pub fn dialect_of(config: Option<&KernelConfig>, version: Option<[u32; 3]>) -> Dialect {
    Dialect {
        // Measured: 6.1 and 6.12 do not accept these words, some later kernels do.
        enabled_words: version.is_none_or(|[major, minor, _]| (major, minor) > (6, 12)),
        bootconfig: config.is_none_or(|c| c.has("BOOT_CONFIG")),
    }
}

fn checked(boot: &Boot<'_>, reasons: &mut Reasons) -> Tri {
    // MODULE_SIG_FORCE depends on MODULE_SIG.
    let said = |option| boot.config.is_some_and(|c| c.has(option));
    if said("MODULE_SIG") || said("MODULE_SIG_FORCE") {
        return Tri::Yes;
    }
    if boot.config.is_some_and(|c| c.denies("MODULE_SIG")) {
        return reasons.no("the kernel was built without module signatures: it loads every module");
    }
    // A kernel that has the parameters also has the code that checks signatures.
    if boot.patch != Patch::Unknown {
        return Tri::Yes;
    }
    reasons.unknown("the kernel's configuration")
}

fn disabled(arguments: &KernelArguments, dialect: Dialect, reasons: &mut Reasons) -> Tri {
    let nomodule = arguments.last_switch("nomodule", dialect);
    if nomodule == Switch::On {
        return reasons.yes("nomodule on the command line: no module is loaded at all");
    }
    // The name of a sysctl is a path, so `-` and `_` differ.
    let path = b"sysctl.kernel.modules_disabled";
    let dotted =
        |name: &[u8]| -> Vec<u8> { name.iter().map(|b| if *b == b'/' { b'.' } else { *b }).collect() };
    let mut heard = arguments.heard.iter().filter(|a| dotted(&a.name) == path);
    if heard.any(|a| a.value.as_deref().is_some_and(|value| number(value) == Some(1))) {
        return reasons
            .yes("sysctl.kernel.modules_disabled=1 on the command line: no module is loaded at all");
    }
    let cut = arguments.cut.as_ref().is_some_and(|a| dotted(&a.name) == path);
    if nomodule == Switch::Unknown || cut {
        return reasons.unknown(AT_THE_END);
    }
    Tri::No
}

/// Used for the value of a word that the end of the line leaves unknown.
const AT_THE_END: &str = "how the kernel reads the end of the line: a quote is not closed, or a word is cut";

/// The first number of a sysctl value, as the kernel reads it: octal after 0, hexadecimal after 0x.
fn number(value: &[u8]) -> Option<u64> {
    // What is not a number is refused by the kernel too, here and below.
    let text = std::str::from_utf8(value).ok()?.trim_start();
    let first = text.split_ascii_whitespace().next()?;
    let hexadecimal = first.strip_prefix("0x").or_else(|| first.strip_prefix("0X"));
    // As above.
    match (hexadecimal, first.strip_prefix('0')) {
        (Some(digits), _) => u64::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
        _ => first.parse().ok(),
    }
}

fn ima(boot: &Boot<'_>, arguments: &KernelArguments, reasons: &mut Reasons) -> Tri {
    let asked = arguments.values("ima_policy").any(|value| {
        value.split(|b| matches!(b, b' ' | b'|' | b'\n')).any(|policy| policy == b"secure_boot")
    });
    let open = arguments.is_open("ima_policy") || (asked && arguments.is_open("ima_appraise"));
    if !asked && !boot.ima_policy && !open {
        return Tri::No;
    }
    let Some(config) = boot.config else {
        return reasons.unknown("whether the kernel has IMA");
    };
    if !config.has("IMA") || !config.has("IMA_APPRAISE") {
        return Tri::No;
    }
    if open {
        return reasons.unknown(AT_THE_END);
    }
    if is_lenient(arguments) && !config.denies("IMA_APPRAISE_BOOTPARAM") {
        match boot.secure_boot {
            SecureBoot::Off => return Tri::No,
            // Under Secure Boot the parameter is ignored.
            SecureBoot::On => {}
            SecureBoot::Unknown => {
                return reasons
                    .unknown("whether Secure Boot is on, which decides whether ima_appraise= counts");
            }
        }
    }
    if asked {
        return reasons.yes("ima_policy=secure_boot: a module needs an IMA signature");
    }
    reasons.unknown("whether the IMA policy in /etc/ima/ima-policy is loaded before the modules")
}

/// Whether IMA only logs, repairs or skips what it would refuse. The last valid mode counts.
pub(super) fn is_lenient(arguments: &KernelArguments) -> bool {
    let mode = |value: &[u8]| {
        let known = [b"log".as_slice(), b"fix", b"off", b"enforce"];
        known.into_iter().find(|mode| value.starts_with(mode)).map(|mode| mode != b"enforce")
    };
    arguments.values("ima_appraise").filter_map(mode).last().unwrap_or(false)
}

/// Whether signatures are demanded, and whether that is enforced.
fn enforced(
    boot: &Boot<'_>,
    arguments: &KernelArguments,
    dialect: Dialect,
    reasons: &mut Reasons,
) -> (Tri, Tri) {
    let force = Tri::of(boot.config.map(|c| c.has("MODULE_SIG_FORCE")));
    let asked = of_switch(arguments.switch("module.sig_enforce", dialect));
    let secure = of_switch(boot.secure_boot);
    let by_ima = Tri::of(boot.config.map(|c| c.has("IMA_ARCH_POLICY"))).and(secure);
    let switch = arguments.switch(PARAMETER, dialect);
    let enforce = force.or(asked).or(by_ima);
    if enforce == Tri::No {
        reasons.because("nothing asks this kernel to enforce signatures");
        return (Tri::No, Tri::No);
    }
    match (force, asked, by_ima) {
        (Tri::Yes, ..) => {
            reasons.because("the kernel was built with CONFIG_MODULE_SIG_FORCE: it demands signatures")
        }
        (_, Tri::Yes, _) => reasons.because("module.sig_enforce is on the command line"),
        (.., Tri::Yes) => reasons.because("IMA enforces module signatures under Secure Boot"),
        _ => {}
    }
    let effective = match (boot.patch, switch) {
        (_, Switch::Off) => {
            reasons.because(format!("{PARAMETER} is not on the command line"));
            enforce
        }
        (Patch::Absent, _) => {
            reasons.because(format!("this kernel does not know the parameter {PARAMETER}"));
            enforce
        }
        (Patch::Unknown, _) => reasons.unknown(format!("whether the kernel knows {PARAMETER}")),
        (Patch::V2, switch) => {
            if switch == Switch::On {
                reasons.because(format!("{PARAMETER} is on the command line"));
            }
            enforce.and(of_switch(switch).not())
        }
        (Patch::V1, switch) => {
            // The parameter works only with MODULE_SIG_FORCE and only without Secure Boot. It then overrides
            // sig_enforce too.
            if force == Tri::No || secure == Tri::Yes {
                reasons.because(if force == Tri::No {
                    format!(
                        "in a kernel before 5.19.1 {PARAMETER} has no effect without CONFIG_MODULE_SIG_FORCE"
                    )
                } else {
                    format!("in a kernel before 5.19.1 {PARAMETER} has no effect while Secure Boot is on")
                });
                enforce
            } else if force == Tri::Yes && secure == Tri::No {
                if switch == Switch::On {
                    reasons.because(format!("{PARAMETER} is on the command line, and Secure Boot is off"));
                }
                of_switch(switch).not()
            } else {
                if secure == Tri::Unknown {
                    reasons.missing(format!(
                        "whether Secure Boot is on, which in a kernel before 5.19.1 disables {PARAMETER}"
                    ));
                }
                Tri::Unknown
            }
        }
    };
    if effective == Tri::Unknown {
        missing_for(boot, arguments, dialect, (force, secure, switch), reasons);
    }
    (enforce, effective)
}

/// The unknown facts that leave enforcement undecided.
fn missing_for(
    boot: &Boot<'_>,
    arguments: &KernelArguments,
    dialect: Dialect,
    (force, secure, switch): (Tri, Tri, Switch),
    reasons: &mut Reasons,
) {
    if force == Tri::Unknown {
        reasons.missing("the kernel's configuration");
    }
    if secure == Tri::Unknown && boot.config.is_some_and(|c| c.has("IMA_ARCH_POLICY")) {
        reasons.missing("whether Secure Boot is on");
    }
    if asks_for_bootconfig(arguments, dialect) {
        reasons.missing(BOOTCONFIG);
        return;
    }
    let asked = arguments.switch("module.sig_enforce", dialect);
    for name in ["module.sig_enforce", PARAMETER] {
        if arguments.is_open(name) {
            reasons.missing(AT_THE_END);
            return;
        }
    }
    if asked == Switch::Unknown {
        reasons.missing("how this kernel reads module.sig_enforce as it is written");
    }
    if switch == Switch::Unknown {
        reasons.missing(format!("how this kernel reads {PARAMETER} as it is written"));
    }
}

fn of_switch(switch: Switch) -> Tri {
    match switch {
        Switch::On => Tri::Yes,
        Switch::Off => Tri::No,
        Switch::Unknown => Tri::Unknown,
    }
}

fn locked(
    boot: &Boot<'_>,
    arguments: &KernelArguments,
    dialect: Dialect,
    enforced: Tri,
    reasons: &mut Reasons,
) -> Tri {
    let Some(config) = boot.config else {
        // A kernel with an unknown configuration may have it.
        if enforced != Tri::Yes {
            reasons.missing("the kernel's configuration");
        }
        return Tri::Unknown;
    };
    if !config.has("SECURITY_LOCKDOWN_LSM") {
        return Tri::No;
    }
    // `lsm=` or CONFIG_LSM selects the security modules that start, but an early one always starts.
    let built_in = config.text("LSM").unwrap_or_default().into_bytes();
    let list = arguments.values("lsm").last().unwrap_or(&built_in);
    let early = config.has("SECURITY_LOCKDOWN_LSM_EARLY");
    if !early && arguments.is_open("lsm") {
        return reasons.unknown(AT_THE_END);
    }
    if !early && !list.split(|b| *b == b',').any(|name| name == b"lockdown") {
        if arguments.values("lockdown").next().is_some() {
            reasons.because("lockdown is not among the security modules that start: it refuses nothing");
        }
        return Tri::No;
    }
    let levels: [&[u8]; 2] = [b"integrity", b"confidentiality"];
    if arguments.values("lockdown").any(|value| levels.contains(&value)) {
        return reasons.yes("lockdown= on the command line: unsigned modules are refused");
    }
    if config.has("LOCK_DOWN_KERNEL_FORCE_INTEGRITY") || config.has("LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY")
    {
        return reasons.yes("the kernel was built to be locked down: unsigned modules are refused");
    }
    if config.has("LOCK_DOWN_IN_EFI_SECURE_BOOT") {
        match boot.secure_boot {
            SecureBoot::On => {
                return reasons
                    .yes("Secure Boot is on, which locks this kernel down: unsigned modules are refused");
            }
            SecureBoot::Off => {}
            SecureBoot::Unknown => {
                return reasons.unknown("whether Secure Boot is on, which locks this kernel down");
            }
        }
    }
    if asks_for_bootconfig(arguments, dialect) {
        return reasons.unknown(BOOTCONFIG);
    }
    if arguments.is_open("lockdown") {
        return reasons.unknown(AT_THE_END);
    }
    Tri::No
}

/// The unknown fact if a bootconfig is requested.
const BOOTCONFIG: &str = "the bootconfig in the initrd, which may hold more parameters";

fn asks_for_bootconfig(arguments: &KernelArguments, dialect: Dialect) -> bool {
    dialect.bootconfig && arguments.heard.iter().any(|a| a.name == b"bootconfig")
}
