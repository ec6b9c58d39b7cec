//! What a system lacks before modules can be built on it, and which bundles have it.

use crate::kernel::{Headers, Support, Variant};

/// A kernel that boots by default of its variant.
#[derive(Debug, Clone)]
pub struct SetupKernel {
    /// Its release.
    pub release: String,
    /// Its variant.
    pub variant: Variant,
    /// Its headers.
    pub headers: Headers,
    /// The DKMS bundle of the variant is installed.
    pub has_bundle: bool,
}

/// What is there.
#[derive(Debug, Clone, Default)]
pub struct SetupInputs {
    /// The kernels, the one that boots next first.
    pub kernels: Vec<SetupKernel>,
    /// The programs that a build needs and that are not installed.
    pub programs_missing: Vec<String>,
    /// The system has swupd.
    pub has_swupd: bool,
}

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetupGap {
    /// The headers of a kernel.
    Headers { kernel: String, reason: String },
    /// A program.
    Program(String),
}

/// Why no bundle fills a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfilled {
    /// The system has no swupd.
    NoSwupd,
    /// There is no DKMS bundle for the variant; perhaps for its successor. `move_to`: the bundle of the
    /// successor.
    NoBundle { variant: String, move_to: Option<&'static str> },
    /// The bundle is installed, and what it has is not there.
    Incomplete(&'static str),
    /// It cannot be determined what is there.
    Unknown,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetupDecision {
    /// The gaps; none if everything is there.
    pub gaps: Vec<SetupGap>,
    /// The bundles that fill them.
    pub bundles: Vec<&'static str>,
    /// The gaps that no bundle fills, with the reason.
    pub unfilled: Vec<(SetupGap, Unfilled)>,
}

/// Decides it.
pub fn setup(inputs: &SetupInputs) -> SetupDecision {
    let mut found = SetupDecision::default();
    for kernel in &inputs.kernels {
        let Some(reason) = wrong_with(&kernel.headers) else { continue };
        let gap = SetupGap::Headers { kernel: kernel.release.clone(), reason };
        let unknown = matches!(kernel.headers, Headers::Unreadable { .. }).then_some(Unfilled::Unknown);
        match unknown.map_or_else(|| bundle(inputs, kernel), Err) {
            Ok(bundle) => add(&mut found.bundles, bundle),
            Err(why) => found.unfilled.push((gap.clone(), why)),
        }
        found.gaps.push(gap);
    }
    // Every DKMS bundle has the programs.
    let mut of_programs = Err(Unfilled::NoSwupd);
    if !inputs.programs_missing.is_empty() {
        of_programs = match (found.bundles.first(), inputs.kernels.as_slice()) {
            (Some(bundle), _) => Ok(*bundle),
            (None, kernels) => {
                let all: Vec<_> = kernels.iter().map(|kernel| bundle(inputs, kernel)).collect();
                let first = all.first().cloned().unwrap_or(Err(Unfilled::NoSwupd));
                // One bundle is enough. Without any, the first reason is given.
                all.into_iter().find(Result::is_ok).unwrap_or(first)
            }
        };
    }
    for program in &inputs.programs_missing {
        let gap = SetupGap::Program(program.clone());
        match &of_programs {
            Ok(bundle) => add(&mut found.bundles, bundle),
            Err(why) => found.unfilled.push((gap.clone(), why.clone())),
        }
        found.gaps.push(gap);
    }
    found
}

fn add(bundles: &mut Vec<&'static str>, bundle: &'static str) {
    if !bundles.contains(&bundle) {
        bundles.push(bundle);
    }
}

/// The bundle that has the headers of a kernel and the programs.
fn bundle(inputs: &SetupInputs, kernel: &SetupKernel) -> Result<&'static str, Unfilled> {
    if !inputs.has_swupd {
        return Err(Unfilled::NoSwupd);
    }
    let no_bundle = |move_to| Unfilled::NoBundle { variant: kernel.variant.name.clone(), move_to };
    match kernel.variant.support {
        Support::Supported { dkms_bundle, .. } if kernel.has_bundle => Err(Unfilled::Incomplete(dkms_bundle)),
        Support::Supported { dkms_bundle, .. } => Ok(dkms_bundle),
        Support::Deprecated { move_to } => Err(no_bundle(Some(move_to))),
        Support::Unsupported => Err(no_bundle(None)),
    }
}

fn wrong_with(headers: &Headers) -> Option<String> {
    match headers {
        Headers::Present => None,
        Headers::Absent => Some("they are not installed".to_owned()),
        Headers::Incomplete => Some("they are incomplete".to_owned()),
        Headers::OtherRelease { release } => Some(format!("they are those of {release}")),
        Headers::Unreadable { reason } => Some(reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(variant: &str, headers: Headers, has_bundle: bool) -> SetupKernel {
        let release = format!("6.15.7-1591.{variant}");
        SetupKernel { release, variant: Variant::of(variant), headers, has_bundle }
    }

    fn decided(kernels: Vec<SetupKernel>, programs: &[&str], has_swupd: bool) -> SetupDecision {
        let programs_missing = programs.iter().map(|name| (*name).to_owned()).collect();
        setup(&SetupInputs { kernels, programs_missing, has_swupd })
    }

    #[test]
    fn a_complete_system_needs_nothing() {
        let there = |variant| kernel(variant, Headers::Present, false);
        for kernels in [vec![there("native")], vec![there("native"), there("kvm")], Vec::new()] {
            assert_eq!(decided(kernels, &[], true), SetupDecision::default());
        }
    }

    #[test]
    fn each_variant_gets_its_bundle() {
        let without = |variant| kernel(variant, Headers::Absent, false);
        let bundles = |kernels, programs: &[&str]| decided(kernels, programs, true).bundles;
        assert_eq!(bundles(vec![without("native")], &["make"]), ["kernel-native-dkms"]);
        let both = vec![without("native"), without("ltscurrent"), without("lts")];
        assert_eq!(bundles(both, &[]), ["kernel-native-dkms", "kernel-lts-dkms"]);
        // Programs alone come with the bundle of the kernel that boots next.
        let present =
            vec![kernel("native", Headers::Present, false), kernel("ltscurrent", Headers::Present, false)];
        assert_eq!(bundles(present, &["dkms"]), ["kernel-native-dkms"]);
        let installed =
            vec![kernel("native", Headers::Present, true), kernel("ltsprev", Headers::Present, false)];
        assert_eq!(bundles(installed, &["dkms"]), ["kernel-ltsprev-dkms"]);
    }

    #[test]
    fn what_no_bundle_fills() {
        let why = |kernel: SetupKernel, has_swupd| {
            let found = decided(vec![kernel], &[], has_swupd);
            assert_eq!((found.gaps.len(), found.bundles.len()), (1, 0));
            found.unfilled[0].1.clone()
        };
        let of = |variant: &str, move_to| Unfilled::NoBundle { variant: variant.to_owned(), move_to };
        assert_eq!(why(kernel("kvm", Headers::Absent, false), true), of("kvm", None));
        assert_eq!(why(kernel("lts2021", Headers::Absent, false), true), of("lts2021", Some("kernel-lts")));
        assert_eq!(why(kernel("native", Headers::Absent, false), false), Unfilled::NoSwupd);
        let other = Headers::OtherRelease { release: "6.1".to_owned() };
        assert_eq!(why(kernel("native", other, true), true), Unfilled::Incomplete("kernel-native-dkms"));
        let unread = Headers::Unreadable { reason: "x".to_owned() };
        assert_eq!(why(kernel("native", unread, false), true), Unfilled::Unknown);
        let found = decided(Vec::new(), &["dkms"], true);
        assert_eq!(found.unfilled.len(), 1);
    }
}
