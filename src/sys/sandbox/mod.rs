//! The one way to run a program that sees less, or may do less, than we do.
//!
//! unshare(2), seccomp(2) and Landlock change the process that calls them. So the program is started by a new
//! process of ours, which is asked for with a hidden first argument and is given a request on standard input.
//! What it reports is written behind the request, into the same file in memory.
//!
//! For [`Confinement::View`] that process becomes the program. For [`Confinement::Rights`] it makes the
//! namespaces and starts a second one of ours, the first process of the new PID namespace: when that one
//! ends, for whatever reason, the kernel ends everything that is left in it.
//!
//! Two layers confine an evaluation, and each is enough by itself:
//!
//! | it may not | namespaces | Landlock with seccomp |
//! | --- | --- | --- |
//! | write to a file | every mount is read-only, but a private `/tmp` of limited size | Landlock; of metadata and truncate(2): seccomp |
//! | signal or trace another process | PID namespace | seccomp |
//! | use the network | network namespace without a device | seccomp: no socket |
//! | reach a socket of the host | `/run`, `/var`, `/tmp` are hidden; network namespace for abstract names | seccomp: no socket |
//! | leave a process behind | PID namespace | seccomp keeps all in one process group, which is killed |
//! | use a terminal or a disk | a `/dev` with five files | Landlock; a session of its own |
//! | mount, reboot, load modules | an identity without capabilities | the same, and seccomp |
//!
//! Limits of memory, processes, output and processor time are set in both cases, and no privilege can be
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
pub use launch::{SandboxError, in_force, is_refusal, use_program};
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
    /// It sees other files than everybody else, and may do whatever we may.
    pub fn view(view: SandboxView) -> Sandbox {
        Sandbox { confinement: Confinement::View(view), is_trusted: false }
    }

    /// It may read and compute, and nothing else.
    pub fn evaluate(sight: Sight) -> Sandbox {
        Sandbox { confinement: Confinement::Rights(Strength::Evaluate, sight), is_trusted: false }
    }

    /// It may write below the given directories, which belong to its user from then on, and has room and time
    /// for a compiler. Apart from that it is an evaluation: for sources that nobody vouches for.
    pub fn scratch_build(sight: Sight) -> Sandbox {
        Sandbox { confinement: Confinement::Rights(Strength::ScratchBuild, sight), is_trusted: false }
    }

    /// It is root, sees the whole machine but `/run`, `/tmp` and devices, and may write below the given
    /// directories and in a `/tmp` of its own. For an image, trees of that are in the place of the machine's.
    pub fn build(sight: Sight) -> Sandbox {
        Sandbox { confinement: Confinement::Rights(Strength::Build, sight), is_trusted: false }
    }

    /// It sees the installed system at `root` as `/`, which it may change as far as that belongs to our user,
    /// with `/proc`, a minimal `/dev` and a `/tmp` and `/run` of its own, and nothing of this machine. It
    /// begins in `directory` of that system.
    pub fn image(root: &std::path::Path, directory: &std::path::Path) -> Sandbox {
        let (root, directory) = (root.as_os_str().to_owned(), directory.as_os_str().to_owned());
        // Without namespaces it cannot be run: it would change this machine.
        Sandbox { confinement: Confinement::Image { root, directory }, is_trusted: false }
    }

    /// Whether it is run also where the machine offers no layer that confines it.
    #[must_use]
    pub fn trusted(mut self, is_trusted: bool) -> Sandbox {
        self.is_trusted = is_trusted;
        self
    }
}
