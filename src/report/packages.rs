//! The package manager that installs kernels, headers and compilers on a system.

use super::remedy::{AdminCommand, Remedy};
use crate::kernel::{Inventory, Variant};

/// The namespace of the kernels of Solus.
const SOLUS: &str = "com.solus-project";

/// The commands that install kernel headers and build tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packages {
    /// swupd of Clear Linux. `bundle`: the bundle with DKMS, compiler and headers; none if the kernel has
    /// none.
    Swupd { bundle: Option<&'static str> },
    /// eopkg of Solus. `headers`: the package with the headers.
    Eopkg { headers: String },
}

impl Packages {
    /// The package manager for a kernel. The namespace of the installed kernels identifies the distribution.
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

    /// The command that installs the headers of a kernel.
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

    /// The command that restores altered headers.
    pub(super) fn restore_headers(&self) -> AdminCommand {
        match self {
            Packages::Swupd { .. } => AdminCommand::change("swupd", &["repair"]),
            Packages::Eopkg { headers } => {
                AdminCommand::change("eopkg", &["install", "--reinstall", headers])
            }
        }
    }

    /// The command that installs a compiler.
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

    /// The command that updates the system.
    pub(super) fn update(&self) -> AdminCommand {
        match self {
            Packages::Swupd { .. } => AdminCommand::change("swupd", &["update"]),
            Packages::Eopkg { .. } => AdminCommand::change("eopkg", &["upgrade"]),
        }
    }

    /// The remedy for a missing file without a known bundle or package.
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

    /// Where to get clang.
    pub(super) fn clang(&self) -> &'static str {
        match self {
            Packages::Swupd { .. } => "install clang (bundle llvm)",
            Packages::Eopkg { .. } => "install clang",
        }
    }
}
