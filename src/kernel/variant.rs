//! Kernel variants, their families, and the bundles that DKMS needs for them.
//!
//! Source: the linux-* packages and clr-bundles of June to August 2025. A variant is compared as a whole word:
//! `hyperv-lts` is no LTS kernel that DKMS is supported on.

use serde::Serialize;

/// The family of a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// The mainline kernel.
    Native,
    /// A long-term kernel.
    Lts,
    /// Anything else: clouds, virtual machines, real time.
    Other,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Native => "native",
            Family::Lts => "lts",
            Family::Other => "other",
        })
    }
}

/// Whether the distribution supports DKMS for a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "dkms")]
pub enum Support {
    /// These bundles bring DKMS and the headers.
    Supported {
        /// The bundle with DKMS, compiler and headers.
        dkms_bundle: &'static str,
        /// The bundle with the headers alone.
        headers_bundle: &'static str,
    },
    /// The variant is given up; its users move to another one.
    Deprecated {
        /// The bundle of the kernel to move to.
        move_to: &'static str,
    },
    /// There is no bundle for it.
    Unsupported,
}

/// A variant and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// Its name, as `uname -r` ends.
    #[serde(rename = "variant")]
    pub name: String,
    /// Its family.
    pub family: Family,
    /// Bundles.
    #[serde(flatten)]
    pub support: Support,
}

/// The variants without a DKMS bundle that are known by name.
const WITHOUT_BUNDLE: [&str; 9] =
    ["kvm", "hyperv", "hyperv-lts", "gce", "preempt_rt", "preempt-rt", "rt", "iot-lts", "current"];

impl Variant {
    /// What is known of the variant of that name.
    pub fn of(name: &str) -> Variant {
        let supported = |dkms_bundle, headers_bundle| Support::Supported { dkms_bundle, headers_bundle };
        let (family, support) = match name {
            "native" => (Family::Native, supported("kernel-native-dkms", "linux-dev")),
            // `lts` is the guide's word, and Solus's variant.
            "ltscurrent" | "lts" => (Family::Lts, supported("kernel-lts-dkms", "linux-lts-dev")),
            "ltsprev" => (Family::Lts, supported("kernel-ltsprev-dkms", "linux-ltsprev-dev")),
            "aws" => (Family::Other, supported("kernel-aws-dkms", "kernel-aws-dkms")),
            year if is_lts_of_a_year(year) => (Family::Lts, Support::Deprecated { move_to: "kernel-lts" }),
            _ => (Family::Other, Support::Unsupported),
        };
        Variant { name: name.to_owned(), family, support }
    }

    /// The name is one that this table was made with, and not only one that was not excluded.
    pub fn is_known(&self) -> bool {
        self.support != Support::Unsupported || WITHOUT_BUNDLE.contains(&self.name.as_str())
    }

    /// DKMS is supported for it.
    pub fn is_supported(&self) -> bool {
        matches!(self.support, Support::Supported { .. })
    }

    /// The bundle that an admin installs to get headers and DKMS, if there is one.
    pub fn dkms_bundle(&self) -> Option<&'static str> {
        match self.support {
            Support::Supported { dkms_bundle, .. } => Some(dkms_bundle),
            _ => None,
        }
    }
}

/// `lts2018` … `lts2022` and their like.
fn is_lts_of_a_year(name: &str) -> bool {
    name.strip_prefix("lts").is_some_and(|year| year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let table = [
            ("native", Family::Native, Some("kernel-native-dkms"), true),
            ("ltscurrent", Family::Lts, Some("kernel-lts-dkms"), true),
            ("ltsprev", Family::Lts, Some("kernel-ltsprev-dkms"), true),
            ("lts", Family::Lts, Some("kernel-lts-dkms"), true),
            ("lts2018", Family::Lts, None, true),
            ("lts2022", Family::Lts, None, true),
            ("aws", Family::Other, Some("kernel-aws-dkms"), true),
            ("kvm", Family::Other, None, true),
            ("hyperv-lts", Family::Other, None, true),
            ("hyperv", Family::Other, None, true),
            ("gce", Family::Other, None, true),
            // As bundle kernel-rt names it, beside the spelling of other sources.
            ("preempt_rt", Family::Other, None, true),
            ("preempt-rt", Family::Other, None, true),
            ("rt", Family::Other, None, true),
            ("current", Family::Other, None, true),
            ("iot-lts", Family::Other, None, true),
            ("custom", Family::Other, None, false),
            ("ltsx", Family::Other, None, false),
            ("lts22", Family::Other, None, false),
        ];
        for (name, family, bundle, known) in table {
            let v = Variant::of(name);
            assert_eq!((v.family, v.dkms_bundle(), v.is_known()), (family, bundle, known), "{name}");
            assert_eq!(v.is_supported(), bundle.is_some(), "{name}");
        }
    }
}
