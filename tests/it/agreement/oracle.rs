//! What is true of a machine, by the rules of the README and without a look at how the programs find it out.

use clr_dkms::dkms::plan::State;
use clr_dkms::requirement::Importance;

use super::publish::Shown;
use super::scene::{Flavour, Module, Scene};

impl Scene {
    fn is_ok(&self, module: &Module, kernel: usize) -> bool {
        module.on[kernel] == State::Ok
    }

    /// Another module has installed a file of the same name there, which is loaded in its place.
    fn has_twin(&self, module: &Module, at: usize) -> bool {
        let plain = |m: &Module| m.name.trim_start_matches("rival-").to_owned();
        let twin = |m: &&Module| plain(m) == plain(module) && m.name != module.name;
        self.modules.iter().filter(twin).any(|m| self.is_ok(m, at))
    }

    /// What the machine needs of it is there: for what is critical the module itself, else any file of its
    /// name.
    fn has(&self, module: &Module, at: usize) -> bool {
        self.is_ok(module, at) || (!Scene::is_critical(module) && self.has_twin(module, at))
    }

    /// It works now: what DKMS does not know is loaded, whether or not there is a file.
    fn works(&self, module: &Module) -> bool {
        self.is_ok(module, self.running()) || !module.is_managed()
    }

    fn is_critical(module: &Module) -> bool {
        module.class == Some(Importance::Critical)
    }

    /// The kernels for which a module ought to be there: the one that boots next, and each variant's own.
    fn matters(&self, at: usize) -> bool {
        let kernel = &self.kernels[at];
        at == self.next() || (kernel.tip && kernel.flavour != Flavour::Bare)
    }

    fn modules_on_kernels(&self) -> impl Iterator<Item = (&Module, usize, State)> {
        self.modules.iter().flat_map(|m| m.on.iter().enumerate().map(move |(at, state)| (m, at, *state)))
    }

    /// Some kernel that this machine can fall back to, or boots anyway, has all that it needs: what is
    /// critical and there is somewhere, and what is wanted and works now.
    fn has_a_whole_kernel(&self) -> bool {
        let is_there = |m: &Module| (0..self.kernels.len()).any(|at| self.is_ok(m, at));
        let needed = |m: &&Module| match m.class {
            Some(Importance::Optional) => false,
            Some(Importance::Critical) => is_there(m),
            _ => self.works(m),
        };
        let whole = |at: usize| self.modules.iter().filter(needed).all(|m| self.has(m, at));
        (0..self.kernels.len()).any(whole)
    }

    /// Fails where a report is wrong.
    pub(super) fn is_reported_by(&self, shown: &Shown) {
        let (next, running) = (self.next(), self.running());
        let critical = || self.modules.iter().filter(|m| Scene::is_critical(m));
        let lost = || critical().filter(|m| !self.is_ok(m, next));
        let known_lost = lost().any(|m| m.on[next] != State::Unknown);
        let unknown =
            self.modules_on_kernels().any(|(_, at, state)| state == State::Unknown && self.matters(at));
        let builds = self.modules_on_kernels().any(|(.., state)| state == State::Building);

        // No kernel without what is critical is the default, if there is one with it. The one that runs is
        // not left for what cannot be determined of it.
        let has_critical = |at: usize| critical().all(|m| self.is_ok(m, at));
        let default = self.kernels.iter().position(|k| Some(k.release) == shown.default()).unwrap();
        // Nor for another module's file of the same name, which may serve as well.
        let unclear = |m: &Module| {
            matches!(m.on[default], State::Unknown | State::BrokenSource) || self.has_twin(m, default)
        };
        let kept = critical().all(|m| self.is_ok(m, default) || (default == running && unclear(m)));
        let better = (0..self.kernels.len()).find(|at| self.kernels[*at].entry && has_critical(*at));
        assert!(kept || better.is_none(), "the guard's default is {default}, not {better:?}");

        // Unsafe is what boots next without something critical, or where no kernel has all that is needed.
        if known_lost {
            assert_eq!((shown.verdict(), shown.may_reboot(), shown.code), ("unsafe", Some(false), 2));
            return;
        }
        if shown.verdict() == "unsafe" {
            assert!(
                lost().next().is_some() || !self.has_a_whole_kernel(),
                "nothing critical will be missing"
            );
            return;
        }
        // What cannot be determined is not reported.
        assert_eq!(shown.code == 3, unknown, "{}", shown.verdict());
        if unknown {
            assert_eq!((shown.verdict(), shown.may_reboot()), ("unknown", None));
            return;
        }
        assert_eq!(shown.verdict() == "building", builds);
        if builds {
            return;
        }
        assert_eq!(shown.may_reboot(), Some(true), "{}", shown.verdict());

        // What is missed keeps it from being all good.
        let is_missed = |(module, at, state): &(&Module, usize, State)| match state {
            State::Ok | State::Building => false,
            // Nobody asks for it there, but it is installed for the kernel that runs.
            State::SkippedExclusive | State::NotAutoinstall => {
                *at == next
                    && !self.has(module, next)
                    && matches!(module.on[running], State::Ok | State::SignatureRefused)
            }
            State::NotManaged => *at == next,
            _ => self.matters(*at),
        };
        let missed: Vec<_> = self.modules_on_kernels().filter(is_missed).collect();
        for module in shown.modules() {
            let (name, kernel) = (module["name"].as_str().unwrap(), module["kernel"].as_str().unwrap());
            let is_it =
                |(m, at, _): &&(&Module, usize, State)| m.name == name && self.kernels[*at].release == kernel;
            assert_eq!(module["missed"] == true, missed.iter().any(|m| is_it(&m)), "{module:#}");
        }
        let lacks_what_works = self
            .modules
            .iter()
            .any(|m| m.class != Some(Importance::Optional) && self.is_ok(m, running) && !self.has(m, next));
        assert!(!lacks_what_works || shown.code != 0, "what works now will be gone");
        let loses = missed.iter().any(|(m, at, _)| *at == next && self.is_ok(m, running));
        let said = shown.on_reboot.as_deref().map(|said| said != "a reboot is safe");
        assert_eq!(said.unwrap_or(loses), loses, "{:?}", shown.on_reboot);
        if !missed.is_empty() {
            assert_eq!(shown.code, 1, "{} with {} missed", shown.verdict(), missed.len());
        } else if next == self.target() {
            let expected = if next == running { "healthy" } else { "reboot-pending" };
            assert_eq!(shown.verdict(), expected);
        }
        // A kernel is held back where it lacks what the one that boots next has.
        let held = |m: &Module| {
            m.class != Some(Importance::Optional) && self.is_ok(m, running) && !self.has(m, self.target())
        };
        if next == running && next != self.target() {
            assert_eq!(shown.verdict() == "held", self.modules.iter().any(held), "{:#}", shown.json);
        } else if next == self.target() {
            assert_ne!(shown.verdict(), "held");
        }
    }
}
