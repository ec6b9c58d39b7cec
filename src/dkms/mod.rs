//! DKMS: its tree on disk, `dkms.conf`, the decision what to build, running one build, and proving the
//! result.
//!
//! The result on disk counts. Exit codes and the word "installed" of dkms are only hints.

mod building;
pub mod cache;
mod cleanup;
pub mod conf;
mod failures;
pub mod lint;
mod planning;
mod proving;
pub mod tree;

use std::cmp::Ordering;
use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

pub use building::{build, hooks, probe, register, replace, unbuild};
use building::{build_for_target, build_hooks, call, staging, uname};
pub use cache::Cache;
pub use cleanup::{gc, leftovers};
pub use conf::DkmsConf;
pub use failures::{cause, first_error, log, old_logs};
use failures::{cause_rules, failure, first_error_classes, log_evidence, patterns};
pub(crate) use patterns::pattern;
pub use plan::{Decision, ModuleOnKernel, PlanStep};
pub use planning::{conflict, inputs, order, plan, source_change, toolchain};
pub use proof::{Flaw, Proof};
pub use proving::{depmod, kernel_symbols, loadable, modfile, proof, signature, symbols};
use proving::{own_versions, pkcs7};
pub use signature::Signature;
pub use tree::{Registered, Source, Stage, Tree};

/// A DKMS module: `name/version`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModuleName {
    /// Its name: the directory below the DKMS tree.
    pub name: String,
    /// Its version: the directory below that.
    pub version: String,
}

impl ModuleName {
    /// DKMS knows the module. Others have no version.
    pub fn is_managed(&self) -> bool {
        !self.version.is_empty()
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_managed() {
            true => write!(f, "{}/{}", self.name, self.version),
            false => f.write_str(&self.name),
        }
    }
}

/// Whether dkms can handle this name or version: it is a shell script that splits at blanks, slashes and
/// commas.
pub fn is_usable_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+~-:@%=^".contains(&b);
    !text.is_empty() && !text.starts_with(['-', '.']) && text.bytes().all(plain)
}

/// Compares versions as `sort -V` does for simple ones: runs of digits by value, everything else by bytes.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() && !b.is_empty() {
        let (run_a, run_b) = (leading_run(a), leading_run(b));
        let order = if a[0].is_ascii_digit() && b[0].is_ascii_digit() {
            let number = |run: &[u8]| run.iter().skip_while(|c| **c == b'0').copied().collect::<Vec<_>>();
            let (x, y) = (number(run_a), number(run_b));
            x.len().cmp(&y.len()).then_with(|| x.cmp(&y))
        } else {
            run_a.cmp(run_b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (&a[run_a.len()..], &b[run_b.len()..]);
    }
    a.len().cmp(&b.len())
}

/// The digits, or the other bytes, at the start.
fn leading_run(text: &[u8]) -> &[u8] {
    let digits = text[0].is_ascii_digit();
    let end = text.iter().position(|b| b.is_ascii_digit() != digits).unwrap_or(text.len());
    &text[..end]
}

/// The architecture, as dkms and `uname -m` name it.
pub fn architecture() -> String {
    static MACHINE: OnceLock<String> = OnceLock::new();
    // uname(2) fails for an invalid address only.
    let machine = || {
        nix::sys::utsname::uname()
            .map_or_else(|_| String::new(), |name| name.machine().to_string_lossy().into_owned())
    };
    MACHINE.get_or_init(machine).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let sorted = ["1.0", "1.0.1", "1.2", "1.10", "1.10-rc1", "2", "r10"];
        for pair in sorted.windows(2) {
            assert_eq!(compare_versions(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare_versions(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare_versions("1.01", "1.1"), Ordering::Equal);
    }

    #[test]
    fn names_that_dkms_cannot_take() {
        for good in ["v4l2loopback", "nvidia-open", "zfs_2", "1.0~rc1", "2:1.3+git"] {
            assert!(is_usable_name(good), "{good}");
        }
        for bad in ["", "a b", "a'b", "a\"b", "a\nb", "-rf", ".hidden", "a$b", "a/b", "a,b", "a[1]", "ä"] {
            assert!(!is_usable_name(bad), "{bad:?}");
        }
    }
}
