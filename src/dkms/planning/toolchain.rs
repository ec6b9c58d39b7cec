//! The programs that modules of a kernel are built with, according to the configuration of its headers.

use crate::dkms::first_error::BuildFacts;
use crate::kernel::config_file::value;
use crate::kernel::inventory::module_directory;
use crate::limits::TEXT;
use crate::sys::Root;

/// The configuration of a kernel's headers. Empty if it cannot be read; the usual programs are then assumed.
pub fn config(root: &Root, release: &str) -> Vec<u8> {
    let build = format!("{}/build", module_directory(release));
    let files = [".config", "include/config/auto.conf"].map(|file| format!("{build}/{file}"));
    // Without it no program is known to be missing, and the build reports that.
    files.iter().find_map(|file| root.read_within(file, TEXT).ok()).unwrap_or_default()
}

/// The facts that are known about every build for a kernel.
pub(in crate::dkms) fn facts(root: &Root, release: &str) -> BuildFacts {
    let config = config(root, release);
    BuildFacts {
        release: Some(release.to_owned()),
        kernel_compiler: version_text(&config),
        by_clang: value(&config, "CONFIG_CC_IS_CLANG") == Some(b"y"),
        ..BuildFacts::default()
    }
}

/// The compiler of the kernel: `gcc-12 (Debian 12.2.0-14) 12.2.0`.
pub fn version_text(config: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value(config, "CONFIG_CC_VERSION_TEXT")?);
    Some(text.strip_prefix('"')?.trim_end_matches('"').to_owned())
}

/// The programs that a build with that configuration lacks, as text; `has` returns whether one is installed.
///
/// dkms uses the compiler in the configuration if a program with that name exists, and otherwise leaves the
/// choice to make. For a kernel built with clang it requires clang. In doubt a program counts as present: a
/// failed build is more informative than one that was wrongly skipped.
pub fn missing(config: &[u8], has: impl Fn(&str) -> bool) -> Vec<String> {
    let is_set = |name: &str| value(config, name) == Some(b"y");
    // The first word, as dkms reads it.
    let text = version_text(config);
    let named = text.as_deref().and_then(|text| text.split([' ', '"']).next());
    let named = named.filter(|name| name.contains("cc") || name.contains("clang"));
    let mut compilers: Vec<&str> =
        if is_set("CONFIG_CC_IS_CLANG") { vec!["clang"] } else { vec!["gcc", "cc"] };
    compilers.splice(0..0, named.filter(|name| !compilers.contains(name)));
    let linkers = if is_set("CONFIG_LD_IS_LLD") { ["ld.lld", "ld"] } else { ["ld", "ld.lld"] };
    let needed: [(&str, &[&str]); 3] = [("compiler", &compilers), ("make", &["make"]), ("linker", &linkers)];
    let lacking = needed.iter().filter(|(_, any)| !any.iter().any(|name| has(name)));
    lacking
        .map(|(what, any)| match any {
            [only] if only == what => (*only).to_owned(),
            any => format!("the {what} {}", any[0]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_lacks() {
        let shown = |config: &str, there: &[&str]| {
            missing(config.as_bytes(), |name| there.contains(&name)).join(", ")
        };
        let debian = "CONFIG_CC_VERSION_TEXT=\"gcc-12 (Debian 12.2.0-14) 12.2.0\"\nCONFIG_CC_IS_GCC=y\n";
        let clang =
            "CONFIG_CC_VERSION_TEXT=\"Debian clang version 18\"\nCONFIG_CC_IS_CLANG=y\nCONFIG_LD_IS_LLD=y\n";
        for (config, there, lacking) in [
            ("", &["gcc", "make", "ld"][..], ""),
            ("", &["cc", "make", "ld"], ""),
            ("", &["clang", "make", "ld"], "the compiler gcc"),
            ("", &[], "the compiler gcc, make, the linker ld"),
            (debian, &["gcc-12", "make", "ld"], ""),
            (debian, &["gcc", "make", "ld"], ""),
            (debian, &["gcc-14", "make", "ld"], "the compiler gcc-12"),
            (debian, &["gcc-12", "make"], "the linker ld"),
            (debian, &["gcc-12", "ld"], "make"),
            (clang, &["gcc", "make", "ld.lld"], "the compiler clang"),
            (clang, &["clang", "make", "ld"], ""),
            (clang, &["clang", "make"], "the linker ld.lld"),
            (
                "CONFIG_CC_VERSION_TEXT=\"Some gcc y\"\nCONFIG_CC_IS_GCC=n\n",
                &["make", "ld"],
                "the compiler gcc",
            ),
            ("# CONFIG_CC_IS_CLANG is not set\nCONFIG_CC_VERSION_TEXT=", &["make", "ld"], "the compiler gcc"),
        ] {
            assert_eq!(shown(config, there), lacking, "{config:?} {there:?}");
        }
    }
}
