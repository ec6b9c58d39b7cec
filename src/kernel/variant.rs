//! Kernel variants, their families, and the bundles that DKMS needs for them.
//!
//! Source: the linux-* packages and clr-bundles of June to August 2025. A variant is compared as a whole:
//! DKMS is not supported for `hyperv-lts`, although its name contains `lts`.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Family {
    /// The mainline kernel.
    Native,
    /// A long-term kernel.
    Lts,
    /// Other kernels: for clouds, virtual machines, real time.
    Other,
}

/// Whether the distribution supports DKMS for a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "dkms")]
pub enum Support {
    /// These bundles contain DKMS and the headers. `dkms_bundle`: the bundle with DKMS, compiler and headers.
    /// `headers_bundle`: the bundle with the headers only.
    Supported { dkms_bundle: &'static str, headers_bundle: &'static str },
    /// The variant is discontinued, with a successor. `move_to`: the bundle of the successor.
    Deprecated { move_to: &'static str },
    /// No bundle exists for it.
    Unsupported,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// The name, which is the last part of `uname -r`.
    #[serde(rename = "variant")]
    pub name: String,
    pub family: Family,
    #[serde(flatten)]
    pub support: Support,
}

/// Known variants without a DKMS bundle.
const WITHOUT_BUNDLE: [&str; 9] =
    ["kvm", "hyperv", "hyperv-lts", "gce", "preempt_rt", "preempt-rt", "rt", "iot-lts", "current"];

impl Variant {
    /// What is known about the variant of that name.
    pub fn of(name: &str) -> Variant {
        let supported = |dkms_bundle, headers_bundle| Support::Supported { dkms_bundle, headers_bundle };
        let (family, support) = match name {
            "native" => (Family::Native, supported("kernel-native-dkms", "linux-dev")),
            // The documentation says `lts`, which is also a variant of Solus.
            "ltscurrent" | "lts" => (Family::Lts, supported("kernel-lts-dkms", "linux-lts-dev")),
            "ltsprev" => (Family::Lts, supported("kernel-ltsprev-dkms", "linux-ltsprev-dev")),
            "aws" => (Family::Other, supported("kernel-aws-dkms", "kernel-aws-dkms")),
            year if is_lts_of_a_year(year) => (Family::Lts, Support::Deprecated { move_to: "kernel-lts" }),
            _ => (Family::Other, Support::Unsupported),
        };
        Variant { name: name.to_owned(), family, support }
    }

    /// The name is in this table, and not only unknown.
    pub fn is_known(&self) -> bool {
        self.support != Support::Unsupported || WITHOUT_BUNDLE.contains(&self.name.as_str())
    }

    pub fn is_supported(&self) -> bool {
        matches!(self.support, Support::Supported { .. })
    }

    /// The bundle that installs the headers and DKMS, if one exists.
    pub fn dkms_bundle(&self) -> Option<&'static str> {
        if let Support::Supported { dkms_bundle, .. } = self.support { Some(dkms_bundle) } else { None }
    }
}

/// `lts2018` to `lts2022`, and similar names.
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
            // The bundle kernel-rt uses this name; other sources use another one.
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
