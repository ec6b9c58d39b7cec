//! The package manager that installs kernels, headers and compilers on a system.

use super::remedy::{AdminCommand, Remedy};
use crate::kernel::{Inventory, Variant};

/// The namespace of the kernels of Solus.
const SOLUS: &str = "com.solus-project";

/// What installs the headers of a kernel, and what a build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packages {
    /// swupd of Clear Linux.
    Swupd {
        /// The bundle with DKMS, compiler and headers; none where the kernel has none.
        bundle: Option<&'static str>,
    },
    /// eopkg of Solus.
    Eopkg {
        /// The package with the headers.
        headers: String,
    },
}

impl Packages {
    /// Those of a kernel, by its release. The namespace of the installed kernels is that of a distribution.
    pub fn of(release: &str, inventory: &Inventory) -> Packages {
        let variant = release.rsplit('.').next().unwrap_or_default();
        match inventory.namespace.as_str() {
            SOLUS => Packages::Eopkg { headers: format!("linux-{variant}-headers") },
            _ => {
                let installed = inventory.kernels.iter().any(|k| k.name.is_release(release));
                let bundle = Variant::of(variant).dkms_bundle().filter(|_| installed);
                Packages::Swupd { bundle }
            }
        }
    }

    /// What installs the headers of a kernel.
    pub fn install_headers(&self, kernel: &str) -> Remedy {
        let install = match self {
            Packages::Swupd { bundle: Some(bundle) } => {
                AdminCommand::change("swupd", &["bundle-add", bundle])
            }
            Packages::Swupd { bundle: None } => {
                return Remedy::by_hand(format!("install the headers of kernel {kernel}"));
            }
            Packages::Eopkg { headers } => AdminCommand::change("eopkg", &["install", headers]),
        };
        install.to("install the headers").into()
    }

    /// What restores headers that are not as they were installed.
    pub(super) fn restore_headers(&self) -> AdminCommand {
        match self {
            Packages::Swupd { .. } => AdminCommand::change("swupd", &["repair"]),
            Packages::Eopkg { headers } => {
                AdminCommand::change("eopkg", &["install", "--reinstall", headers])
            }
        }
    }

    /// What installs a compiler.
    pub(super) fn install_compiler(&self) -> AdminCommand {
        match self {
            Packages::Swupd { .. } => {
                let add = AdminCommand::change("swupd", &["bundle-add", "c-basic"]);
                add.to("install the compiler (for clang: llvm)")
            }
            Packages::Eopkg { .. } => {
                let install = AdminCommand::change("eopkg", &["install", "-c", "system.devel"]);
                install.to("install the compiler")
            }
        }
    }

    /// What installs the newest version of everything.
    pub(super) fn update(&self) -> AdminCommand {
        match self {
            Packages::Swupd { .. } => AdminCommand::change("swupd", &["update"]),
            Packages::Eopkg { .. } => AdminCommand::change("eopkg", &["upgrade"]),
        }
    }

    /// What installs a file that no bundle or package is known of.
    pub(super) fn install_file(&self, file: &str) -> Remedy {
        match self {
            Packages::Swupd { .. } => {
                let search =
                    AdminCommand::look("swupd", &["search-file", file]).to("see which bundle has it");
                Remedy::from(search).then(Remedy::by_hand("install that bundle"))
            }
            Packages::Eopkg { .. } => Remedy::by_hand(format!("install the package that has {file}")),
        }
    }

    /// Where clang comes from.
    pub(super) fn clang(&self) -> &'static str {
        match self {
            Packages::Swupd { .. } => "install clang (bundle llvm)",
            Packages::Eopkg { .. } => "install clang",
        }
    }
}
