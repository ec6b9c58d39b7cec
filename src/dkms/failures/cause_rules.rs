//! Rules that derive the cause from an error in a build log, in the order in which they are applied.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::dkms::cause::{Cause, PackagingFault};
use crate::dkms::first_error::{ErrorKind, FirstError};
use crate::dkms::log_evidence::{BuildFacts, Evidence, headers_release};
use crate::dkms::patterns::{Patterns, pattern};

/// An error with everything that is known about it.
pub(in crate::dkms) struct Case<'a> {
    pub(in crate::dkms) error: &'a FirstError,
    /// The line of the error, and its context.
    pub(in crate::dkms) text: &'a str,
    /// The directory that make was in.
    pub(in crate::dkms) directory: Option<&'a str>,
    pub(in crate::dkms) evidence: &'a Evidence,
    pub(in crate::dkms) known: &'a BuildFacts,
}

/// Derives the cause from the groups of a pattern; none if another rule fits better.
type Find = fn(&Captures<'_>, &Case<'_>) -> Option<Cause>;

/// The group `what` is the subject of the cause.
const RULES: &[(&str, Find)] = &[
    // Compiler and libraries.
    (r"(?P<what>incompatible gcc/plugin versions|failed to initialize plugin|cannot load plugin)", toolchain),
    (r"Compiler version check failed|Failed CC version check", toolchain),
    (r"(?P<what>C compiler cannot create executables|cannot run C compiled programs)", toolchain),
    (r"Unable to build an empty module|does not include the required loadable module", empty_module),
    (r"no acceptable (?:C compiler|cc) found", no_compiler),
    (
        r"(?:unrecognized|unrecognised|unsupported|unknown)(?: command[- ]line)? (?:option|argument)(?: to)?:? ['‘`]?(?P<what>-[^\s'’]+)",
        option,
    ),
    (r"bad value .* for ['‘]?(?P<what>-[^\s'’]+)", option),
    (r"version [`'](?P<what>(?:GLIBC|GLIBCXX|CXXABI)\w*_[\d.]+)' not found", toolchain),
    (
        r"(?P<what>base BTF|load BTF|BTF)\b.*(?:-\d+|[Ii]nvalid|failed|[Ff]ailed|not|too old)|[Ff]ailed to .*(?:BTF)",
        toolchain,
    ),
    (r"(?:Producer: '.*' Reader: '|[Ii]nvalid bitcode|Unknown attribute kind)", toolchain),
    (r"unrecogni[sz]ed emulation mode: llvm", without_lld),
    (r"internal compiler error|\(core dumped\)|Segmentation fault|Illegal instruction", toolchain),
    (r"please install (?P<what>lib[\w.+]+)(?:-dev|-devel)?\b", toolchain),
    (r"cannot find -l(?P<what>[\w.+]+)", library),
    (r"cannot find (?P<what>[\w./+-]+\.[oa])\b", missing_file),
    // Headers, and modules that this one depends on.
    (
        r"Kernel configuration is invalid|(?P<what>include/generated/autoconf\.h) or|parse error in symbol dump file",
        headers,
    ),
    (r"Your kernel headers for kernel \S+ cannot be found", headers),
    (r"make sure the kmod (?P<what>\w+) devel", dependency),
    (r"missing BUILD_DEPENDS:? *\[?(?P<what>[^\s\],]+)", dependency),
    (
        r"(?i)sources? (?:tree |files )?(?:of|for) *\W*(?:the |your )?\W*(?:currently running|current|running)",
        running_kernel,
    ),
    (
        r"(?i)(?:install|find|locate|detect|determine|missing|no)\b.{0,40}\bkernel[- ](?:source|headers?|devel|version|build)|UTS_RELEASE|utsrelease\.h",
        headers,
    ),
    (r"ld: cannot open linker script file (?P<what>\S+?):", in_headers),
    (r"can't open (?P<what>arch/\S+) for reading", headers),
    // make.
    (r"SUBDIRS'? (?:was|is|has been) (?:removed|no longer)", subdirs),
    (r"\*\*\* (?P<what>(?:/usr)?/lib/modules/[^/]+/build)/?: No such file", build_directory),
    (r"\*\*\* (?:/usr)?/lib/modules//build/?: No such file", mistake),
    (r"\*\*\* (?P<what>/\S+): No such file or directory", missing_file),
    (r"No rule to make target ['`‘](?P<what>[^'’]+)['’]", no_rule),
    (r"(?:No targets specified and no makefile found|No targets\.)", no_makefile),
    // Programs and scripts.
    (r"(?P<what>[^\s:]+): bad interpreter", interpreter),
    (r"(?m)env: ['‘]?(?P<what>[^'’:]+?)(?:\\r)?['’]?: No such file", program),
    (r"Can't locate (?P<what>[\w/]+\.pm) in @INC", program),
    (r"No module named ['‘]?(?P<what>[\w.]+)", program),
    (r"(?:^|[\s:])(?P<what>[^\s:]+): (?:[Cc]ommand )?not found", command),
    (r"^\S*make(?:\[\d+\])?: (?:execvp: )?(?P<what>[^\s:]+): (?:No such file|Permission denied)", command),
    (
        r"^(?:/\S*/)?(?:ba|da)?sh: (?:(?:line )?\d+: )?(?P<what>[^\s:]+): (?:No such file|Permission denied)",
        command,
    ),
    (r"(?m)(?:[Cc]an't|[Cc]annot) (?:open|stat|read) (?:file )?['‘]?(?P<what>[^\s'’:]+)['’]?", missing_file),
    (r"(?:^|[\s:])(?P<what>\S*/\S+): (?:Permission denied|cannot execute|Exec format error)", command),
    (r"checking for (?P<what>[\w-]+)\.\.\. no", program),
    // dkms.
    (r"Patch (?P<what>\S+) as specified|patch (?P<name>\S+) failed", patch),
    (r"Build of (?P<what>\S+\.ko\S*) failed for", wrong_name),
    (r"Could not (?:locate dkms\.conf|find module source)|Bad conf file", mistake),
    // What the kernel lacks.
    (r"GPL-incompatible module .* uses (?:GPL-only )?symbol ['‘](?P<what>\w+)", symbol),
    (r"symbol (?P<what>\w+) from namespace", symbol),
    (r#""?(?P<what>\w+)"? \[\S+\] undefined!"#, undefined),
    (r"[Nn]one of the expected \W(?P<what>\w+)\W interface", symbol),
    (r"implicit declaration of function \W*(?P<what>\w+)", symbol),
    (r"has no member named \W*(?P<what>\w+)|no member named '(?P<name>\w+)'", symbol),
    (r"unknown type name \W*(?P<what>\w+)", symbol),
    (r"macro \W(?P<what>\w+)\W (?:requires|passed)", symbol),
    (r"arguments (?:to|for) function \W*(?P<what>\w+)", symbol),
    (r"undeclared identifier \W*(?P<what>\w+)|[‘'](?P<name>\w+)[’'] undeclared", symbol),
    (r"undefined (?:reference to|symbol:?) [`'‘]?(?P<what>\w+)", symbol),
];

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| Patterns::new(RULES.iter().map(|(text, _)| *text)));
static KERNEL_PATH: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^/usr/src/(?:linux(?:$|[-/])|kernels/|[\w-]*kernel-headers|ofa_kernel/)"));
static KERNEL_FILE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:\./)?(?:scripts|arch|tools|certs)/|^(?:\./)?include/(?:linux|asm|asm-generic|generated|config|uapi|net|scsi|sound|media|drm|vdso|trace|crypto|acpi|rdma)/",
    )
});
static KERNEL_HEADER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:\./include/|include/|generated/|config/|\./arch/|linux/(?:kconfig|compiler[-_]\w+|compiler)\.h|asm/(?:types|bitsperlong|posix_types|rwonce|unistd)\.h)",
    )
});
static LIBRARY_HEADER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:openssl/|libelf|gelf\.h|dwarf|elfutils/|sys/|bits/|gnu/|std\w+\.h|string\.h|errno\.h|unistd\.h|features\.h|curses|ncurses|zlib\.h|yaml\.h|gmp\.h|mpc\.h|mpfr\.h|gcc-plugin\.h)",
    )
});
static CLANG_OPTION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:-mretpoline-external-thunk|-fsplit-lto-unit|-mstack-alignment|-Qunused-arguments|-mno-global-merge|-mllvm|-fexperimental-|-flto=thin|-fdebug-info-for-profiling|-improved-fs-|-Wno-gnu$|-fno-sanitize-|-mharden-sls|--target=|-integrated-as|-Werror=unknown-warning-option|-fvisibility-|-Wno-initializer-overrides)",
    )
});
// Every kernel exports these to all modules. If one is missing, the list of symbols is not that of this
// kernel.
static BASIC_SYMBOL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:_?printk|__fentry__|mcount|module_layout|__stack_chk_fail|snprintf|sprintf|kfree|k?memcpy|memset|__kmalloc\w*|kmalloc_caches|mutex_lock|mutex_unlock|param_ops_\w+|__x86_return_thunk|_raw_spin_lock|__this_module)$",
    )
});
static NO_HEADER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^['‘]?(?P<what>[^\s'’:]+)['’]?(?:: No such file or directory| file not found)")
});
static BY_CLANG: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:\S*/)?clang(?:-[\d.]+)?:"));
static IS_SCRIPT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\.(?:sh|py|pl|bash|awk)$|^configure$"));
static PATH: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?:^|[\s'"‘`(])(?P<path>/[\w./+~-]*\w)"#));

/// The cause of an error.
pub(in crate::dkms) fn cause(case: &Case<'_>) -> Cause {
    let kind = case.error.kind;
    match kind {
        ErrorKind::NoSpace => {
            return Cause::NoSpace { filesystem: filesystem(case.text), inodes: false };
        }
        ErrorKind::NoMemory => return Cause::NoMemory,
        // A failure with the headers of another kernel proves nothing about the right ones.
        ErrorKind::Compiler
        | ErrorKind::Linker
        | ErrorKind::Modpost
        | ErrorKind::Objtool
        | ErrorKind::Make
        | ErrorKind::Dkms
        | ErrorKind::Other
            if case.evidence.other_release.is_some() =>
        {
            return other_kernel(case.evidence.other_release.clone());
        }
        _ => {}
    }
    if let Some(cause) = missing_header(case) {
        return cause;
    }
    let found = PATTERNS.find(case.text).find_map(|(at, captures)| RULES[at].1(&captures, case));
    found.unwrap_or_else(|| by_kind(case))
}

/// The cause if only the program that printed the error is known.
fn by_kind(case: &Case<'_>) -> Cause {
    let error = case.error;
    let of_kernel = error.file.as_deref().is_some_and(|file| is_kernels(file, case));
    match error.kind {
        // A compiler error without a place concerns its command line or the compiler itself.
        ErrorKind::Compiler if error.file.is_none() => lacking(case, None),
        ErrorKind::Compiler | ErrorKind::Modpost | ErrorKind::Objtool | ErrorKind::Linker => {
            Cause::Module { symbol: None, header: None }
        }
        ErrorKind::Patch => Cause::Packaging(PackagingFault::Patch { patch: None }),
        ErrorKind::Make if case.evidence.subdirs => Cause::Packaging(PackagingFault::Subdirs),
        ErrorKind::Make | ErrorKind::Script if of_kernel => Cause::Headers { missing: None },
        ErrorKind::Make if error.file.is_some() => Cause::Packaging(PackagingFault::Mistake),
        ErrorKind::Script => Cause::Packaging(PackagingFault::Script { script: error.file.clone() }),
        _ => Cause::Unknown,
    }
}

/// A header that the compiler cannot find.
fn missing_header(case: &Case<'_>) -> Option<Cause> {
    let error = case.error;
    if error.kind != ErrorKind::Compiler {
        return None;
    }
    let header = NO_HEADER.captures(&error.message)?["what"].to_owned();
    if LIBRARY_HEADER.is_match(&header) {
        return Some(lacking(case, Some(header)));
    }
    let by_kernel = error.file.as_deref().is_some_and(|file| is_kernels(file, case));
    Some(match by_kernel || KERNEL_HEADER.is_match(&header) || headers_release(&header).is_some() {
        true => Cause::Headers { missing: Some(header) },
        false => Cause::Module { symbol: None, header: Some(header) },
    })
}

/// Whether a path is in the kernel's headers. A relative path in a directory of kbuild is, unless make is in
/// the directory of the module.
fn is_kernels(path: &str, case: &Case<'_>) -> bool {
    if headers_release(path).is_some() || KERNEL_PATH.is_match(path) {
        return true;
    }
    let directory = case.directory.unwrap_or_default();
    let in_headers = headers_release(directory).is_some() || KERNEL_PATH.is_match(directory);
    KERNEL_FILE.is_match(path) && (in_headers || directory.is_empty())
}

/// The group `what`, or `name` in the alternative of a pattern.
fn said(captures: &Captures<'_>) -> Option<String> {
    let group = captures.name("what").or_else(|| captures.name("name"))?;
    Some(group.as_str().trim_end_matches(['.', ',']).to_owned())
}

fn toolchain(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    Some(lacking(case, said(captures)))
}

fn lacking(case: &Case<'_>, lacks: Option<String>) -> Cause {
    let compiler = case.evidence.compiler.clone();
    Cause::Toolchain { kernel_compiler: kernel_compiler(case), compiler, lacks }
}

fn library(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    Some(lacking(case, Some(format!("lib{}", said(captures)?))))
}

/// configure could not build even the smallest module and does not report why.
fn empty_module(_: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let kernel_compiler = kernel_compiler(case);
    Some(match is_by_clang(case) {
        true => Cause::Clang { kernel_compiler },
        false => lacking(case, None),
    })
}

fn kernel_compiler(case: &Case<'_>) -> Option<String> {
    case.evidence.kernel_compiler.as_ref().or(case.known.kernel_compiler.as_ref()).cloned()
}

fn is_by_clang(case: &Case<'_>) -> bool {
    let is_clang = |text: String| text.split([' ', '-']).any(|word| word == "clang");
    case.known.by_clang || kernel_compiler(case).is_some_and(is_clang)
}

/// An option that the compiler does not know. Options of clang come from the configuration of a kernel that
/// was built with clang.
fn option(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let option = said(captures)?;
    let used_clang = BY_CLANG.is_match(case.text);
    Some(match !used_clang && (is_by_clang(case) || CLANG_OPTION.is_match(&option)) {
        true => Cause::Clang { kernel_compiler: kernel_compiler(case) },
        false => lacking(case, Some(option)),
    })
}

/// A linker other than lld was given the options of a kernel that was built with clang.
fn without_lld(_: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    Some(Cause::Clang { kernel_compiler: kernel_compiler(case) })
}

fn headers(captures: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(Cause::Headers { missing: said(captures) })
}

fn in_headers(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    said(captures).filter(|path| is_kernels(path, case)).map(|path| Cause::Headers { missing: Some(path) })
}

fn dependency(captures: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(Cause::Dependency { needs: said(captures) })
}

fn other_kernel(release: Option<String>) -> Cause {
    Cause::Packaging(PackagingFault::OtherKernel { release })
}

fn running_kernel(_: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(other_kernel(None))
}

/// The `build` directory of a kernel is missing. If it is the target kernel, its headers are missing.
fn build_directory(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let path = said(captures)?;
    let release = headers_release(&path)?;
    let wanted = case.known.release.as_ref().or(case.evidence.release.as_ref());
    Some(match wanted.is_some_and(|wanted| wanted == release) {
        true => Cause::Headers { missing: Some(path) },
        false => other_kernel(Some(release.to_owned())),
    })
}

/// A file that make, a linker or a script cannot find.
fn missing_file(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let name = said(captures)?;
    Some(match is_kernels(&name, case) {
        true => Cause::Headers { missing: Some(name) },
        false => Cause::Packaging(PackagingFault::MissingFile { name: Some(name) }),
    })
}

fn no_rule(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let target = said(captures)?;
    if case.evidence.subdirs {
        return Some(Cause::Packaging(PackagingFault::Subdirs));
    }
    let directory = case.directory.unwrap_or_default();
    // A goal such as `modules`, which complete headers always have.
    let is_goal = !target.contains(['/', '.']);
    if is_goal && is_kernels(&format!("{directory}/"), case) || is_kernels(&target, case) {
        return Some(Cause::Headers { missing: Some(target) });
    }
    if let Some(directory) = target.strip_suffix("/Makefile").or_else(|| target.strip_suffix("/Kbuild")) {
        let directory = Some(directory.to_owned());
        return Some(Cause::Packaging(PackagingFault::NoMakefile { directory }));
    }
    Some(Cause::Packaging(match is_goal {
        true => PackagingFault::Mistake,
        false => PackagingFault::MissingFile { name: Some(target) },
    }))
}

fn no_makefile(_: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let directory = case.directory.or(case.known.directory.as_deref()).map(str::to_owned);
    Some(match directory.as_deref().is_some_and(|directory| is_kernels(&format!("{directory}/"), case)) {
        true => Cause::Headers { missing: directory.map(|directory| directory + "/Makefile") },
        false => Cause::Packaging(PackagingFault::NoMakefile { directory }),
    })
}

/// A program that could not be run: one of the machine, or a script of the headers or of the module.
fn command(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let name = said(captures)?.trim_matches(['\'', '"', '`', '‘', '’']).to_owned();
    if name.is_empty() || name.starts_with('-') {
        return None;
    }
    if is_kernels(&name, case) {
        return Some(Cause::Headers { missing: Some(name) });
    }
    if name.contains('=') {
        // An assignment that is none, as its left side is not a name.
        return Some(Cause::Packaging(PackagingFault::Mistake));
    }
    let is_system = ["/bin/", "/usr/bin/", "/usr/sbin/", "/sbin/"].iter().any(|at| name.starts_with(at));
    Some(match name.contains('/') && !is_system || IS_SCRIPT.is_match(&name) {
        true => Cause::Packaging(PackagingFault::Script { script: Some(name) }),
        false => Cause::MissingProgram { program: name },
    })
}

fn program(captures: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(Cause::MissingProgram { program: said(captures)? })
}

fn no_compiler(_: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(Cause::MissingProgram { program: "gcc".to_owned() })
}

/// The interpreter of a script. A carriage return at its end shows that the script has DOS line ends.
fn interpreter(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let program = said(captures)?;
    match program.ends_with("^M") || program.ends_with('\r') {
        true => Some(Cause::Packaging(PackagingFault::Script { script: case.error.file.clone() })),
        false => Some(Cause::MissingProgram { program }),
    }
}

fn patch(captures: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(Cause::Packaging(PackagingFault::Patch { patch: said(captures) }))
}

fn wrong_name(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let built = if case.known.built.is_empty() { &case.evidence.built } else { &case.known.built }.clone();
    Some(Cause::Packaging(PackagingFault::WrongName { expected: said(captures)?, built }))
}

fn mistake(_: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(Cause::Packaging(PackagingFault::Mistake))
}

fn subdirs(_: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(Cause::Packaging(PackagingFault::Subdirs))
}

/// What this kernel lacks. Only in a message of the compiler or of kbuild is it certainly a symbol.
fn symbol(captures: &Captures<'_>, _: &Case<'_>) -> Option<Cause> {
    Some(Cause::Module { symbol: said(captures), header: None })
}

/// A symbol that nothing exports.
fn undefined(captures: &Captures<'_>, case: &Case<'_>) -> Option<Cause> {
    let name = said(captures)?;
    if BASIC_SYMBOL.is_match(&name) {
        return Some(Cause::Headers { missing: Some("Module.symvers".to_owned()) });
    }
    let mut depends = case.known.depends.iter();
    if let Some(needs) = depends.find(|needs| name.starts_with(&format!("{}_", needs.replace('-', "_")))) {
        return Some(Cause::Dependency { needs: Some(needs.clone()) });
    }
    Some(match case.evidence.no_symvers {
        true => Cause::Headers { missing: Some("Module.symvers".to_owned()) },
        false => Cause::Module { symbol: Some(name), header: None },
    })
}

/// A path on the full file system, as the line names it.
fn filesystem(text: &str) -> Option<String> {
    let line = text.lines().next().unwrap_or_default();
    let paths = PATH.captures_iter(line).map(|found| found["path"].to_owned());
    paths.filter(|path| !path.contains("/bin/")).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_compiles() {
        assert_eq!(PATTERNS.compile(), RULES.len());
        let single = [
            &KERNEL_PATH,
            &KERNEL_FILE,
            &KERNEL_HEADER,
            &LIBRARY_HEADER,
            &CLANG_OPTION,
            &BASIC_SYMBOL,
            &NO_HEADER,
            &BY_CLANG,
            &IS_SCRIPT,
            &PATH,
        ];
        assert!(single.iter().all(|pattern| !pattern.is_match("")));
    }

    #[test]
    fn where_there_is_no_space() {
        for (line, path) in [
            ("cp: error writing '/dev/full': No space left on device", Some("/dev/full")),
            (
                "/tmp/ccX.s: Fatal error: can't write 3 bytes to section .text of /a/b.o: 'No space left on device'",
                Some("/a/b.o"),
            ),
            ("tar: linux-6.14/virt/kvm.h: Cannot write: No space left on device", None),
        ] {
            assert_eq!(filesystem(line).as_deref(), path, "{line}");
        }
    }
}
