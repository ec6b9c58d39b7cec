//! Runs programs that see less, or may do less, than the caller.
//!
//! unshare(2), seccomp(2) and Landlock change the calling process. The program is therefore started by a new
//! process of clr-dkms, which is selected by a hidden first argument and reads a request from standard input.
//! It writes its report after the request, into the same file in memory.
//!
//! For [`Confinement::View`] that process becomes the program. For [`Confinement::Rights`] it creates the
//! namespaces and starts a second process, the first of the new PID namespace: when that one ends for any
//! reason, the kernel kills everything that is left in it.
//!
//! Two layers confine an evaluation, and each of them is sufficient:
//!
//! | forbidden | namespaces | Landlock with seccomp |
//! | --- | --- | --- |
//! | write to a file | every mount is read-only, except a private `/tmp` of limited size | Landlock; seccomp for metadata and truncate(2) |
//! | signal or trace another process | PID namespace | seccomp |
//! | use the network | network namespace without a device | seccomp: no sockets |
//! | reach a socket of the host | `/run`, `/var`, `/tmp` are hidden; network namespace for abstract names | seccomp: no sockets |
//! | leave a process behind | PID namespace | seccomp keeps all in one process group, which is killed |
//! | use a terminal or a disk | a `/dev` with five files | Landlock; a separate session |
//! | mount, reboot, load modules | an identity without capabilities | the same, and seccomp |
//!
//! Limits of memory, processes, output and processor time apply in both cases, and no privilege can be
//! gained.

mod confine;
mod enter;
mod launch;
pub(super) mod mounts;
mod namespaces;
mod request;
mod restrict;
mod seccomp;
mod tree;
mod view;

pub use enter::enter;
pub(super) use launch::run;
pub use launch::{SandboxError, in_force, use_program};
pub use request::{Identity, Layers, ShownTree, Sight};
pub use view::{SandboxView, Shown, ShownDirectory};

use request::{Confinement, Strength};

/// How a program is confined.
#[derive(Debug, Clone)]
pub struct Sandbox {
    confinement: Confinement,
    is_trusted: bool,
}

impl Sandbox {
    /// The program sees other files than the rest of the system, with all rights of the caller.
    pub fn view(view: SandboxView) -> Sandbox {
        Sandbox { confinement: Confinement::View(view), is_trusted: false }
    }

    /// It may only read and compute.
    pub fn evaluate(sight: Sight) -> Sandbox {
        Sandbox { confinement: Confinement::Rights(Strength::Evaluate, sight), is_trusted: false }
    }

    /// It may write below the given directories, which are owned by its user from then on, with the resources
    /// for a compiler. Otherwise as an evaluation: for untrusted sources.
    pub fn scratch_build(sight: Sight) -> Sandbox {
        Sandbox { confinement: Confinement::Rights(Strength::ScratchBuild, sight), is_trusted: false }
    }

    /// It is root, sees the whole machine except `/run`, `/tmp` and devices, and may write below the given
    /// directories and in a private `/tmp`. For an image, directories of the image replace those of the
    /// machine.
    pub fn build(sight: Sight) -> Sandbox {
        Sandbox { confinement: Confinement::Rights(Strength::Build, sight), is_trusted: false }
    }

    /// It sees the installed system at `root` as `/`, with `/proc`, a minimal `/dev` and a private `/tmp` and
    /// `/run`, and nothing of this machine. It may change the system as far as it belongs to the caller. It
    /// starts in `directory` of that system.
    pub fn image(root: &std::path::Path, directory: &std::path::Path) -> Sandbox {
        let (root, directory) = (root.as_os_str().to_owned(), directory.as_os_str().to_owned());
        // Without namespaces it must not run, because it would change this machine.
        Sandbox { confinement: Confinement::Image { root, directory }, is_trusted: false }
    }

    /// Whether it runs even if the machine has no layer to confine it.
    #[must_use]
    pub fn trusted(mut self, is_trusted: bool) -> Sandbox {
        self.is_trusted = is_trusted;
        self
    }
}
