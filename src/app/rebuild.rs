//! Building what the plan says, kernel after kernel, and one `depmod` for each kernel that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::dkms::build::{self, Failure};
use crate::dkms::compiler_error::FirstError;
use crate::dkms::plan::State;
use crate::dkms::tree::TREE;
use crate::dkms::{Cache, Conf, Decision, ModuleName, Pair, Source, Step, Tree, plan};
use crate::facts::{Facts, pairs_of};
use crate::kernel::Installed;
use crate::kernel::inventory::MODULES;
use crate::sys::interrupt;
use crate::world::World;

/// How long one `depmod` may take; it takes about a second for 4,000 modules.
const INDEX_DEADLINE: Duration = Duration::from_secs(300);

/// Less free space than this is none, in bytes.
const ROOM: u64 = 256 << 10;

/// One module on one kernel that something is to be done about.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The module.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// What is to be done.
    pub steps: Vec<Step>,
    /// Why.
    pub why: String,
    source: Source,
    conf: Conf,
    in_circle: bool,
}

/// What became of one planned module.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The module.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// How it failed, in a state and in words.
    pub failure: Option<(State, String)>,
    /// The first error of its log.
    pub error: Option<FirstError>,
    /// Its log inside the root, when dkms was run.
    pub log: Option<String>,
    /// The kernel's folder may have been changed.
    touched: bool,
    /// The kernel's `depmod` failed.
    pub index_error: Option<String>,
}

/// The work, in order: the next boot's kernel first, what others are built upon before them.
pub fn plan(facts: &Facts) -> Vec<Planned> {
    let mut planned = Vec::new();
    for kernel in facts.inventory.tips() {
        let release = kernel.name.release();
        let pairs: Vec<&Pair> = facts.of_kernel(&release).collect();
        // A module without a usable dkms.conf is left alone, whatever it depends on.
        let conf = |p: &Pair| p.conf.clone().unwrap_or_default();
        let named: Vec<_> = pairs.iter().map(|p| (p.module.name.clone(), conf(p).depends)).collect();
        let (order, circle) = plan::order(&named);
        for at in order {
            let pair = pairs[at];
            if let Decision::Work { steps, why } = plan::decide(pair) {
                planned.push(Planned {
                    module: pair.module.clone(),
                    release: release.clone(),
                    steps,
                    why,
                    source: pair.source.clone(),
                    conf: conf(pair),
                    in_circle: circle.contains(&at),
                });
            }
        }
    }
    planned
}

/// Does the work. A failed module does not stop the others.
pub fn run(world: &World, cache: &mut Cache, facts: &Facts, planned: &[Planned]) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for kernel in facts.inventory.tips() {
        let release = kernel.name.release();
        let mut missing: BTreeSet<String> = not_ready(facts, &release);
        let mut changed = false;
        for p in planned.iter().filter(|p| p.release == release) {
            if interrupt::asked() {
                break;
            }
            let attempt = one(world, cache, kernel, p, &missing);
            if attempt.failure.is_none() {
                missing.remove(&p.module.name);
            }
            // A module that was refused, or did not compile, is no reason to let depmod near its kernel.
            changed |= attempt.touched || p.steps == [Step::Index];
            tell(world, &attempt);
            attempts.push(attempt);
        }
        if changed
            && !interrupt::asked()
            && let Err(e) = build::index(&world.root, &world.tools, &release, INDEX_DEADLINE)
        {
            tracing::error!("{e}");
            let of_kernel = attempts.iter_mut().filter(|a| a.release == release);
            of_kernel.take(1).for_each(|a| a.index_error = Some(e.clone()));
        }
    }
    attempts
}

/// The names of the modules of a kernel that are not proven: nothing can be built upon them.
fn not_ready(facts: &Facts, release: &str) -> BTreeSet<String> {
    let states: BTreeMap<&str, bool> =
        facts.of_kernel(release).map(|p| (p.module.name.as_str(), p.proof.is_ok())).collect();
    let named = facts.of_kernel(release).filter_map(|p| p.conf.as_ref().ok()).flat_map(|c| c.depends.iter());
    named.filter(|name| states.get(name.as_str()) != Some(&true)).cloned().collect()
}

fn one(
    world: &World,
    cache: &mut Cache,
    kernel: &Installed,
    p: &Planned,
    missing: &BTreeSet<String>,
) -> Attempt {
    let mut attempt = Attempt {
        module: p.module.clone(),
        release: p.release.clone(),
        failure: None,
        error: None,
        log: None,
        touched: false,
        index_error: None,
    };
    if p.steps == [Step::Index] {
        return attempt;
    }
    let needs: Vec<&String> = p.conf.depends.iter().filter(|name| missing.contains(*name)).collect();
    if p.in_circle {
        attempt.failure =
            Some((State::DependencyFailed, "BUILD_DEPENDS leads back to the module itself".to_owned()));
        return attempt;
    }
    if let Some(first) = needs.first() {
        attempt.failure =
            Some((State::DependencyFailed, format!("it is built upon {first}, which is not there")));
        return attempt;
    }
    if let Some(reason) = build::way_out_of_root(&world.root, &p.module, &p.release, &p.conf) {
        attempt.failure = Some((State::BuildFailed, reason));
        return attempt;
    }
    if let Err(missing) = world.tools.find("dkms") {
        attempt.failure = Some((State::DependencyFailed, missing.to_string()));
        return attempt;
    }
    tracing::info!("{} on {}: {}, because {}", p.module, p.release, spelt(&p.steps), p.why);
    attempt.log = Some(build::log_path(&p.module, &p.release));
    let timeout = world.settings.build_timeout;
    let run = |steps: &[Step]| {
        build::run(&world.root, &world.tools, &p.module, &p.source, &p.release, steps, timeout)
    };
    let mut done = run(&p.steps);
    let mut left = still_to_do(world, cache, kernel, &p.module);
    // dkms may say "installed" and leave another version's file in place: then, and only then, force it.
    if done.is_ok()
        && let Some((steps, _)) = left.as_ref().filter(|(steps, _)| steps.contains(&Step::Reinstall))
    {
        done = run(steps);
        left = still_to_do(world, cache, kernel, &p.module);
    }
    done = match (done, left) {
        // dkms gives 4 and 8 for another module's file after it has installed this one: the disk decides.
        (Err(Failure::Step { what, .. }), Some((steps, _))) if is_built(&steps) => {
            tracing::info!("{} on {}: {what}, and the module is there all the same", p.module, p.release);
            Ok(())
        }
        (Ok(()), Some((steps, why))) if !is_built(&steps) => {
            let what = format!("dkms says that it is done, and it is not: {why}");
            let error = build::logged_error(&world.root, &p.module, &p.release);
            Err(Failure::Step { what, error, last_lines: Vec::new(), touched: true })
        }
        (done, _) => done,
    };
    match done {
        Ok(()) => attempt.touched = true,
        Err(Failure::Excluded) => {
            attempt.failure = Some((
                State::SkippedExclusive,
                "dkms says that its dkms.conf excludes this kernel".to_owned(),
            ));
        }
        Err(Failure::Interrupted) => {
            attempt.failure = Some((State::NotBuilt, "the run was asked to stop".to_owned()));
        }
        Err(Failure::Step { what, error, last_lines, touched }) => {
            attempt.touched = touched;
            if !last_lines.is_empty() {
                tracing::error!(
                    "the end of the log of {} on {}:\n  {}",
                    p.module,
                    p.release,
                    last_lines.join("\n  ")
                );
            }
            let full = full_filesystem(world).map(|place| format!("; {place} is full")).unwrap_or_default();
            attempt.failure = Some((State::BuildFailed, what + &full));
            attempt.error = error;
        }
    }
    attempt
}

/// What would have to be done for a module now, and why; none when it would be left alone.
fn still_to_do(
    world: &World,
    cache: &mut Cache,
    kernel: &Installed,
    module: &ModuleName,
) -> Option<(Vec<Step>, String)> {
    let tree = Tree::observe(&world.root);
    let pairs = pairs_of(world, cache, &tree, kernel);
    match plan::decide(pairs.iter().find(|p| p.module == *module)?) {
        Decision::Work { steps, why } => Some((steps, why)),
        Decision::Proven => Some((Vec::new(), String::new())),
        Decision::Leave { .. } => None,
    }
}

/// At most the index is left to be made.
fn is_built(steps: &[Step]) -> bool {
    steps.is_empty() || steps == [Step::Index]
}

/// A place that builds write to and that has no room left: what its victims say of it is often lost with the room.
fn full_filesystem(world: &World) -> Option<String> {
    [TREE, MODULES, "/tmp"]
        .into_iter()
        .find(|place| world.root.free_space(place).is_ok_and(|free| free < ROOM))
        .map(|place| world.root.spell(place).display().to_string())
}

fn spelt(steps: &[Step]) -> String {
    steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", ")
}

/// One line a module: quiet on success, loud on failure.
fn tell(world: &World, attempt: &Attempt) {
    let (module, release) = (&attempt.module, &attempt.release);
    match (&attempt.failure, &attempt.error) {
        (None, _) => tracing::debug!("{module} on {release}: done"),
        (Some((State::SkippedExclusive, reason)), _) => tracing::info!("{module} on {release}: {reason}"),
        (Some((state, reason)), error) => {
            let error = error.as_ref().map(|e| format!("; {e}")).unwrap_or_default();
            let log = attempt.log.as_ref().map(|l| format!("; log: {}", world.root.spell(l).display()));
            let log = log.unwrap_or_default();
            tracing::error!("{module} on {release}: {state}: {reason}{error}{log}");
        }
    }
}
