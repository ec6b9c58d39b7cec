//! The table of the rules. A new rule is a row here, a function next to similar ones, and a case in
//! `tests/it/lint_conf.rs`, or in `tests/it/lint.rs` for the source.

use super::Severity::{Advice, Error, Warning};
use super::view::{ConfView, Hit};
use super::{LintSubject, Severity, conf_rules as conf, source_rules as source, text_rules as text};
use crate::dkms::conf::RefusalKind::{self, *};
use Check::{Refused, Subject, Text, Values};

/// The input of a rule.
#[derive(Clone, Copy)]
pub(super) enum Check {
    /// How the value for a kernel was computed. Kernels that the module excludes are included.
    Text(fn(&ConfView<'_>) -> Vec<Hit>),
    /// The value for a kernel that the module does not exclude.
    Values(fn(&ConfView<'_>) -> Vec<Hit>),
    /// A reason for which dkms refuses the file.
    Refused(RefusalKind),
    /// Everything that is known of the module, once.
    Subject(fn(&LintSubject<'_>) -> Vec<Hit>),
}

/// A rule.
pub(super) struct LintRule {
    /// The id of the problem, which never changes.
    pub(super) id: &'static str,
    /// The default severity.
    pub(super) severity: Severity,
    /// The default remedy.
    pub(super) clear: &'static str,
    /// After a finding of this rule the following rules would only find consequences.
    pub(super) is_last: bool,
    /// The function.
    pub(super) check: Check,
}

impl PartialEq for LintRule {
    fn eq(&self, other: &LintRule) -> bool {
        self.id == other.id
    }
}

/// The remedy for a file whose shell ends early.
const TO_THE_END: &str = "let bash reach the end of the file: dkms reads the values there";

const fn rule(id: &'static str, severity: Severity, check: Check, clear: &'static str) -> LintRule {
    LintRule { id, severity, clear, is_last: false, check }
}

const fn refused(id: &'static str, kind: RefusalKind, clear: &'static str) -> LintRule {
    rule(id, Error, Refused(kind), clear)
}

const fn last(rule: LintRule) -> LintRule {
    LintRule { is_last: true, ..rule }
}

const RENAME: &str = "make them the same: directory /usr/src/PACKAGE_NAME-PACKAGE_VERSION";
const DESTINATION: &str = "use /extra, /updates, or a directory below /kernel";

/// The rules, in order.
pub(super) const RULES: &[LintRule] = &[
    // How the value was computed.
    rule(
        "no-answer",
        Error,
        Subject(text::no_answer),
        "look at what it does when bash runs it: it must end by itself, within ten seconds",
    ),
    rule("not-text", Warning, Subject(text::not_text), "save the file as plain text"),
    rule("blank-at-equals", Warning, Text(text::blank_at_equals), "take the blanks around = away"),
    rule("directive-misspelt", Warning, Text(text::misspelled), "correct the name"),
    rule(
        "running-kernel",
        Warning,
        Text(text::running_kernel),
        "use $kernelver, the kernel that dkms builds for",
    ),
    last(refused("ends-early", EndsEarly, TO_THE_END)),
    rule("ends-early-unused", Warning, Text(text::ends_early_unused), TO_THE_END),
    last(rule("unterminated-quote", Error, Text(text::unterminated_quote), "close the quote")),
    last(rule(
        "syntax-error",
        Error,
        Text(text::syntax_error),
        "correct the line, and check it with `bash -n`",
    )),
    last(rule("carriage-return", Error, Text(text::carriage_return), "take them out: sed -i 's/\\r$//'")),
    rule("quote-swallows", Warning, Text(text::quote_swallows), "close the quote on its own line"),
    rule("excluded", Warning, Subject(text::excluded), "none, if that is intended"),
    // The value itself.
    refused("name-missing", NameMissing, "give PACKAGE_NAME a value"),
    refused("version-missing", VersionMissing, "give PACKAGE_VERSION a value"),
    rule(
        "placeholder",
        Warning,
        Values(conf::placeholder),
        "write the value, or use the file that the project's build makes of this one",
    ),
    rule("name-unusable", Warning, Values(conf::name_unusable), "use letters, digits, dots and dashes only"),
    rule("name-differs", Warning, Values(conf::name_differs), RENAME),
    rule("version-differs", Warning, Values(conf::version_differs), RENAME),
    rule("autoinstall-missing", Warning, Values(conf::autoinstall_missing), "write AUTOINSTALL=\"yes\""),
    rule(
        "autoinstall-no",
        Warning,
        Values(conf::autoinstall_no),
        "none, if that is intended; otherwise write yes",
    ),
    rule("autoinstall-word", Warning, Values(conf::autoinstall_word), "write AUTOINSTALL=\"yes\""),
    refused(
        "no-module",
        NoModule,
        "write BUILT_MODULE_NAME[0] (the file without .ko) and DEST_MODULE_LOCATION[0]=\"/extra\"",
    ),
    refused("module-name-missing", ModuleNameMissing, "write BUILT_MODULE_NAME"),
    refused("module-name-ending", ModuleNameEnding, "take the ending away"),
    rule(
        "module-name-unusable",
        Warning,
        Values(conf::module_name_unusable),
        "write the file's name alone; its directory belongs in BUILT_MODULE_LOCATION",
    ),
    refused("destination-missing", DestinationMissing, DESTINATION),
    rule("destination", Error, Values(conf::destination), DESTINATION),
    rule("deprecated", Advice, Values(conf::deprecated), "remove it"),
    rule("depends-itself", Error, Values(conf::depends_itself), "remove it from BUILD_DEPENDS"),
    rule(
        "depends-unknown",
        Warning,
        Values(conf::depends_unknown),
        "install that module first, or remove it from BUILD_DEPENDS",
    ),
    rule("kernel-module", Advice, Values(conf::kernel_module), "none, if that is intended"),
    // The value and the source.
    rule("no-makefile", Error, Values(source::no_makefile), "write a Makefile, or MAKE[0]"),
    rule(
        "patch-missing",
        Error,
        Values(source::patch_missing),
        "put the file into the directory patches, or remove it from PATCH",
    ),
    rule(
        "hook-missing",
        Warning,
        Values(source::hook_missing),
        "put the script there, or take the directive out",
    ),
    rule("hook-not-executable", Warning, Values(source::hook_not_executable), "chmod +x"),
    rule(
        "location-missing",
        Error,
        Values(source::location_missing),
        "for a git submodule: `git submodule update --init`; else correct BUILT_MODULE_LOCATION",
    ),
    rule(
        "module-not-made",
        Warning,
        Values(source::module_not_made),
        "make BUILT_MODULE_NAME and obj-m the same, with the same - and _",
    ),
    rule(
        "module-conditional",
        Warning,
        Values(source::module_conditional),
        "write obj-m, or give the option in MAKE",
    ),
    rule(
        "make-running-kernel",
        Warning,
        Values(source::make_running_kernel),
        "give the kernel in MAKE: $kernelver or $kernel_source_dir",
    ),
    rule("subdirs", Error, Values(source::subdirs), "write M= instead"),
    // The source alone.
    rule("precompiled-only", Error, Subject(source::precompiled_only), "get the source of the module"),
    rule("precompiled-beside", Advice, Subject(source::precompiled_beside), "remove them from the source"),
    rule(
        "no-license",
        Error,
        Subject(source::no_license),
        "add MODULE_LICENSE(\"GPL\"), or what the license is",
    ),
    rule("not-registered", Warning, Subject(source::not_registered), "register it"),
    rule("writable-by-others", Warning, Subject(source::writable_by_others), "take the right away"),
    rule(
        "not-all-seen",
        Advice,
        Subject(source::not_all_seen),
        "run it as root, or look at the rest yourself",
    ),
];
