//! Really booted kernels: scenes on machines under QEMU, each prediction of clr-dkms compared with what the
//! kernel and the boot loader then do.
//!
//! `make test-vm` runs them, `make test-vm-long` the long ones too. Without `CLR_DKMS_VM=1` nothing is done,
//! so that plain `cargo test` needs nothing; with it, a missing part of this machine is a failure. Root is
//! needed to build the disk, which is kept in `target/vm`. Arguments name scenes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::print_stdout)]

mod base64;
mod carried;
mod facts;
mod image;
mod machine;
mod prediction;
mod scene;
mod scenes;
mod table;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use image::Image;
use machine::{Machine, Outcome};
use scene::{From, Play, Row, Scene, When};

/// How many machines run at a time, unless `CLR_DKMS_VM_MACHINES` says it.
const MACHINES: usize = 2;

/// What the workers share.
struct Stage {
    image: Image,
    queue: Mutex<VecDeque<Scene>>,
    /// Whether the machine that most scenes begin with is there; none while it is being made.
    ready: Mutex<Option<bool>>,
    changed: Condvar,
    /// Whether each scene that was played has passed.
    results: Mutex<Vec<bool>>,
}

fn main() -> ExitCode {
    if std::env::var_os("CLR_DKMS_VM").is_none_or(|value| value != "1") {
        println!("booted kernels: left out; `make test-vm` runs them");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            println!("booted kernels: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<bool> {
    let start = Instant::now();
    let names: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let long = std::env::var_os("CLR_DKMS_VM_LONG").is_some();
    let chosen =
        |scene: &Scene| names.is_empty() || names.iter().any(|name| scene.name.contains(name.as_str()));
    let mut queue: VecDeque<Scene> = scenes::all()
        .into_iter()
        .filter(|scene| (long || scene.when == When::Always) && chosen(scene))
        .collect();
    if queue.is_empty() {
        return Err(format!("no scene is named like {}", names.join(" or ")));
    }
    let image = Image::prepare()?;
    println!("the image is there after {} s", start.elapsed().as_secs());
    let reuse = std::env::var_os("CLR_DKMS_VM_REUSE").is_some() && image.ready().join("disk.qcow2").exists();
    if !reuse && queue.front().is_none_or(|scene| scene.name != scenes::FIRST) {
        queue.push_front(scenes::first());
    }
    let machines = match std::env::var("CLR_DKMS_VM_MACHINES") {
        Ok(text) => text.parse().map_err(|e| format!("CLR_DKMS_VM_MACHINES={text}: {e}"))?,
        Err(_) => MACHINES,
    };
    let stage = Stage {
        image,
        queue: Mutex::new(queue),
        ready: Mutex::new(reuse.then_some(true)),
        changed: Condvar::new(),
        results: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for number in 0..machines {
            let stage = &stage;
            scope.spawn(move || work(stage, number));
        }
    });
    let results = stage.results.into_inner().map_err(|e| e.to_string())?;
    report(&stage.image, &results, start)
}

/// Prints the result, and writes the table of the last run of each scene.
fn report(image: &Image, results: &[bool], start: Instant) -> Outcome<bool> {
    let limits = table::Limits::read()?;
    let text = table::of_all(image.dir(), &limits)?;
    std::fs::write(image.dir().join("tested-on-vm.md"), &text).map_err(|e| e.to_string())?;
    if std::env::var_os("CLR_DKMS_VM_DOCS").is_some() {
        table::into_docs(&text)?;
    }
    println!("{} s", start.elapsed().as_secs());
    let passed = results.iter().filter(|passed| **passed).count();
    println!("{passed} passed, {} failed", results.len() - passed);
    Ok(passed == results.len())
}

/// Plays scenes until none is left.
fn work(stage: &Stage, number: usize) {
    let dir = stage.image.dir().join(format!("machine-{number}"));
    let mut origin: Option<PathBuf> = None;
    while let Some(scene) = next(stage) {
        let start = Instant::now();
        let mut machine = Machine::at(&dir);
        let mut rows = Vec::new();
        let mut done = play(stage, &scene, &mut machine, &mut origin, &mut rows);
        let seconds = start.elapsed().as_secs();
        // At once: a run that is interrupted later loses only the scenes that were not yet played.
        let kept = if done.is_ok() { &rows[..] } else { &[] };
        done = done.and(table::keep(stage.image.dir(), scene.name, kept, seconds));
        let agrees = rows.iter().all(|row| row.differences.is_empty());
        // Without the limits a difference counts as a failure.
        let is_explained = || table::Limits::read().is_ok_and(|limits| limits.explain_all(&rows));
        let passed = done.is_ok() && (agrees || is_explained());
        let word = match passed {
            false => "FAILED",
            true if agrees => "ok",
            true => "differs, see docs/limits.md",
        };
        println!("scene {} ... {word} ({} boots, {seconds} s)", scene.name, machine.boots);
        for row in rows.iter().filter(|row| !row.differences.is_empty()) {
            println!("  {}\n    predicted {}\n    happened  {}", row.situation, row.predicted, row.happened);
            row.differences.iter().for_each(|difference| println!("    differs:  {difference}"));
        }
        if let Err(e) = &done {
            println!("  {}", e.trim_end().replace('\n', "\n  "));
            let journal = machine.run("journalctl -b --no-pager -o short-monotonic -n 40");
            println!("  its journal:\n{}", journal.map_or_else(|e| e, |answer| answer.text));
        }
        if scene.name == scenes::FIRST {
            let made =
                done.is_ok() && keep(stage, &mut machine, &dir).inspect_err(|e| println!("  {e}")).is_ok();
            *stage.ready.lock().unwrap() = Some(made);
            stage.changed.notify_all();
        }
        machine.cut_power();
        stage.results.lock().unwrap().push(passed);
    }
    // They are large.
    std::fs::remove_dir_all(&dir).ok();
}

/// The next scene: one that needs the machine which is not there yet comes later.
fn next(stage: &Stage) -> Option<Scene> {
    let mut ready = stage.ready.lock().unwrap();
    loop {
        let mut queue = stage.queue.lock().unwrap();
        let at = queue.iter().position(|scene| scene.from == From::Clear || *ready == Some(true));
        if let Some(at) = at {
            return queue.remove(at);
        }
        if queue.is_empty() {
            return None;
        }
        if *ready == Some(false) {
            println!("left out: {} scenes, because {} has failed", queue.len(), scenes::FIRST);
            stage.results.lock().unwrap().extend(queue.drain(..).map(|_| false));
            return None;
        }
        drop(queue);
        ready = stage.changed.wait(ready).unwrap();
    }
}

fn play(
    stage: &Stage,
    scene: &Scene,
    machine: &mut Machine,
    origin: &mut Option<PathBuf>,
    rows: &mut Vec<Row>,
) -> Outcome<()> {
    let (from, state) = match scene.from {
        From::Clear => (stage.image.clear(), "clear"),
        From::Ready => (stage.image.ready(), "ready"),
    };
    // What a scene has left on the disk is undone by loading the saved state.
    if origin.as_ref() != Some(&from) {
        *machine = Machine::copy_of(&machine.dir, &from)?;
        *origin = Some(from);
    }
    machine.switch_on(Some(state))?;
    machine.resume()?;
    let mut play = Play::new(machine, scene.name, seed(scene.name));
    let done = scene.steps.iter().try_for_each(|step| play.step(step));
    rows.append(&mut play.rows);
    // The table takes a scene without rows for one that has failed.
    done.and_then(|()| if rows.is_empty() { Err("the scene has predicted nothing".into()) } else { Ok(()) })
}

/// The seed of the random moments: of the scene, and of the run where `CLR_DKMS_VM_SEED` gives one.
fn seed(name: &str) -> u64 {
    let own = name.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |sum, b| sum.rotate_left(7) ^ u64::from(b));
    let run = std::env::var("CLR_DKMS_VM_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    own ^ run.unwrap_or(1)
}

/// Keeps the machine as the one that other scenes begin with.
fn keep(stage: &Stage, machine: &mut Machine, dir: &std::path::Path) -> Outcome<()> {
    machine.run("sync")?;
    machine.save("ready")?;
    machine.cut_power();
    Machine::copy_of(&stage.image.ready(), dir).map(drop)
}
