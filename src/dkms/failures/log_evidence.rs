//! What the lines of a build log show besides errors: the directory of make, the compilers, the files that
//! were made.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::dkms::cause::Phase;
use crate::dkms::patterns::{Patterns, pattern};

/// Known facts about a build in addition to its log. All are optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildFacts {
    /// The kernel release that the build is for.
    pub release: Option<String>,
    /// The compiler of that kernel, according to its configuration.
    pub kernel_compiler: Option<String>,
    /// The kernel was built with clang.
    pub by_clang: bool,
    /// The modules that BUILD_DEPENDS names.
    pub depends: Vec<String>,
    /// The `.ko` files that were made, by name.
    pub built: Vec<String>,
    /// The directory that dkms builds in.
    pub directory: Option<String>,
}

/// What was collected from the lines so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::dkms) struct Evidence {
    /// The directories that make has entered and not left.
    directories: Vec<String>,
    /// The directory of the last `make -C` in the log.
    called_in: Option<String>,
    /// The kernel release according to the log.
    pub(in crate::dkms) release: Option<String>,
    /// The first release of other headers that make entered or was started in.
    pub(in crate::dkms) other_release: Option<String>,
    /// make entered the headers of the target kernel or was started there.
    pub(in crate::dkms) own_headers: bool,
    /// The compiler of the kernel.
    pub(in crate::dkms) kernel_compiler: Option<String>,
    /// The compiler that was used.
    pub(in crate::dkms) compiler: Option<String>,
    /// The `.ko` files that were made, as the log names them.
    pub(in crate::dkms) built: Vec<String>,
    /// SUBDIRS was set.
    pub(in crate::dkms) subdirs: bool,
    /// The kernel's list of symbols is missing.
    pub(in crate::dkms) no_symvers: bool,
    /// The directives whose hook scripts dkms skipped.
    pub(in crate::dkms) unrun_hooks: Vec<String>,
    /// The phase of dkms.
    pub(in crate::dkms) phase: Option<Phase>,
    /// What the next line names.
    awaits: Option<Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Header,
    Entering,
    Leaving,
    MakeIn,
    BuiltBy,
    Using,
    BuiltByNext,
    UsingNext,
    Made,
    Subdirs,
    NoSymvers,
    NotExecutable,
    InPhase(Phase),
}

/// Lines with facts. The group is the value.
const MARKS: &[(Mark, &str)] = &[
    (Mark::Header, r"^DKMS (?:\(\S+\) )?make\.log for \S+ for kernel (\S+)"),
    (Mark::Entering, r"^\S*make(?:\[\d+\])?: Entering directory ['`‘](.+)['’]$"),
    (Mark::Leaving, r"^\S*make(?:\[\d+\])?: Leaving directory ['`‘](.+)['’]$"),
    (Mark::MakeIn, r"\bmake\b.*?\s(?:-C|--directory=?)\s*(\S+)"),
    (Mark::BuiltBy, r"^\s*The kernel was built by: (.+)$"),
    (Mark::Using, r"^\s*You are using:\s+(\D.+)$"),
    (Mark::BuiltByNext, r"^compile the kernel:$"),
    (Mark::UsingNext, r"does not match the compiler used here:$"),
    (Mark::Made, r"^\s+LD \[M\]\s+(\S+\.ko)$"),
    (Mark::Subdirs, r"\bSUBDIRS="),
    (Mark::Subdirs, r"\bSUBDIRS'? (?:(?:will be|was|is|has been) removed|is (?:no longer|not) supported)"),
    (Mark::NoSymvers, r"Symbol version dump \S+|Module\.symvers'? (?:is missing|not found)"),
    (Mark::NotExecutable, r"^Warning:? +The (\w+) script is not executable"),
    (Mark::InPhase(Phase::Patch), r"^[Aa]pplying patch "),
    (Mark::InPhase(Phase::PreBuild), r"^Running the pre_build script"),
    (Mark::InPhase(Phase::PostBuild), r"^Running the post_build script"),
    (Mark::InPhase(Phase::PreInstall), r"^Running the pre_install script"),
    (Mark::InPhase(Phase::PostInstall), r"^Running the post_install script"),
    (Mark::InPhase(Phase::Make), r"^Building module(?:\(s\))?:?"),
    (
        Mark::InPhase(Phase::Install),
        r"^\s*(?:- )?Installing (?:\S+ )?to /|^Running module version sanity check",
    ),
];

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| Patterns::new(MARKS.iter().map(|(_, text)| *text)));
static HEADERS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:/usr)?/lib/modules/([^/]+)/(?:build|source)(?:/|$)|^/usr/src/(?:kernels/|linux-headers-)([^/]+)",
    )
});

/// The release of the kernel whose headers a path lies in.
pub(in crate::dkms) fn headers_release(path: &str) -> Option<&str> {
    let captures = HEADERS.captures(path)?;
    captures.get(1).or_else(|| captures.get(2)).map(|m| m.as_str())
}

impl Evidence {
    /// The directory that make is in.
    pub(in crate::dkms) fn directory(&self) -> Option<&str> {
        self.directories.last().or(self.called_in.as_ref()).map(String::as_str)
    }

    /// Examines a line.
    pub(in crate::dkms) fn line(&mut self, line: &str, known: &BuildFacts) {
        match self.awaits.take() {
            Some(Mark::BuiltByNext) => self.kernel_compiler = Some(line.trim().to_owned()),
            Some(Mark::UsingNext) => self.compiler = Some(line.trim().to_owned()),
            _ => {}
        }
        for (at, captures) in PATTERNS.find(line) {
            self.take(MARKS[at].0, &captures, known);
        }
    }

    fn take(&mut self, mark: Mark, captures: &Captures<'_>, known: &BuildFacts) {
        let said = || captures.get(1).map_or("", |m| m.as_str()).to_owned();
        match mark {
            Mark::Header => {
                self.release = Some(said());
                self.phase = Some(Phase::Make);
                self.directories.clear();
                self.called_in = None;
            }
            Mark::Entering => {
                self.enters(&said(), known);
                self.directories.push(said());
            }
            Mark::Leaving => {
                let left = said();
                if let Some(at) = self.directories.iter().rposition(|inside| *inside == left) {
                    self.directories.truncate(at);
                }
            }
            Mark::MakeIn => {
                self.enters(&said(), known);
                self.called_in = Some(said());
            }
            Mark::BuiltBy => self.kernel_compiler = Some(said()),
            // Messages about versions of pahole use the same words, with plain numbers.
            Mark::Using if self.kernel_compiler.is_some() => self.compiler = Some(said()),
            Mark::Using => {}
            Mark::BuiltByNext | Mark::UsingNext => self.awaits = Some(mark),
            Mark::Made => {
                let file = said().rsplit('/').next().unwrap_or_default().to_owned();
                if !self.built.contains(&file) && self.built.len() < 16 {
                    self.built.push(file);
                }
            }
            Mark::Subdirs => self.subdirs = true,
            Mark::NoSymvers => self.no_symvers = true,
            Mark::NotExecutable => {
                let directive = said().to_uppercase();
                if !self.unrun_hooks.contains(&directive) {
                    self.unrun_hooks.push(directive);
                }
            }
            Mark::InPhase(phase) => self.phase = Some(phase),
        }
    }

    /// A directory that make works in.
    fn enters(&mut self, directory: &str, known: &BuildFacts) {
        let Some(release) = headers_release(directory) else { return };
        let Some(wanted) = known.release.as_ref().or(self.release.as_ref()) else { return };
        // `build` may be a symlink to a directory with any name, and kernels of Debian share a part of their
        // headers.
        let may_be_own =
            directory.starts_with("/usr/src/") && (self.own_headers || release.ends_with("-common"));
        if release == wanted {
            self.own_headers = true;
        } else if !may_be_own {
            self.other_release.get_or_insert_with(|| release.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_compiles() {
        assert_eq!(PATTERNS.compile(), MARKS.len());
        assert!(!HEADERS.is_match(""));
    }

    #[test]
    fn whose_headers_a_path_lies_in() {
        for (path, release) in [
            ("/lib/modules/6.1/build", Some("6.1")),
            ("/usr/lib/modules/6.1-2.native/build/scripts", Some("6.1-2.native")),
            ("/usr/src/linux-headers-6.1.0-20-amd64", Some("6.1.0-20-amd64")),
            ("/usr/src/kernels/5.14.0.x86_64/include", Some("5.14.0.x86_64")),
            ("/usr/src/hello-1.0", None),
            ("/var/lib/dkms/hello/1.0/build", None),
            ("/lib/modules/6.1/updates", None),
        ] {
            assert_eq!(headers_release(path), release, "{path}");
        }
    }

    #[test]
    fn where_make_is() {
        let mut evidence = Evidence::default();
        let known = BuildFacts { release: Some("2".to_owned()), ..BuildFacts::default() };
        for (line, directory) in [
            ("make -C /lib/modules/1/build M=/x modules", Some("/lib/modules/1/build")),
            ("make[1]: Entering directory '/a'", Some("/a")),
            ("make[2]: Entering directory '/b'", Some("/b")),
            ("make[2]: Leaving directory '/b'", Some("/a")),
            ("make[1]: Leaving directory '/a'", Some("/lib/modules/1/build")),
        ] {
            evidence.line(line, &known);
            assert_eq!(evidence.directory(), directory, "{line}");
        }
        assert_eq!(evidence.other_release.as_deref(), Some("1"));
    }
}
