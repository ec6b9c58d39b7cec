//! What must hold on a machine at any moment.

use std::fs;

use crate::support::TestRoot;
use crate::trial::one_shot;

/// What boots next, as a boot loader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NextBoot {
    /// The release.
    pub(super) release: String,
    /// Why it does not boot with the critical module; none when it does.
    pub(super) lacks: Option<String>,
}

/// Entries by file name, the highest first, with their releases.
fn entries(root: &TestRoot) -> Vec<(String, String)> {
    let mut names: Vec<String> = fs::read_dir(root.at("boot/loader/entries"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".conf") && !name.starts_with('.'))
        .collect();
    names.sort_by(|a, b| b.cmp(a));
    let release = |name: &String| {
        let rest = name.strip_prefix("Clear-linux-")?.strip_suffix(".conf")?;
        let (variant, version) = rest.split_once('-')?;
        let text = fs::read_to_string(root.at("boot/loader/entries").join(name)).unwrap_or_default();
        // The boot loader ignores an entry that names no kernel, such as an empty one.
        text.contains("\nlinux ").then(|| (name.clone(), format!("{version}.{variant}")))
    };
    names.iter().filter_map(release).collect()
}

/// The choice for one boot, then the default; without one the boot loader takes the highest entry.
pub(super) fn next_boot(root: &TestRoot) -> NextBoot {
    let text = fs::read_to_string(root.at("boot/loader/loader.conf")).unwrap_or_default();
    let named = text.lines().find_map(|line| line.strip_prefix("default "));
    let entries = entries(root);
    let find = |named: Option<&str>| entries.iter().find(|(name, _)| named == Some(name));
    let once = one_shot(root);
    let Some((_, release)) = find(once.as_deref()).or_else(|| find(named)).or(entries.first()) else {
        return NextBoot { release: "none".to_owned(), lacks: Some("there is no entry".to_owned()) };
    };
    NextBoot { release: release.clone(), lacks: lacks(root, release) }
}

/// Why a kernel does not boot with the critical module.
fn lacks(root: &TestRoot, release: &str) -> Option<String> {
    let (version, variant) = release.rsplit_once('.').unwrap();
    let text = |path: &str| fs::read_to_string(root.at(path)).unwrap_or_default();
    let entry = text(&format!("boot/loader/entries/Clear-linux-{variant}-{version}.conf"));
    let of = |keyword: &str| {
        let lines = entry.lines().filter_map(|line| line.strip_prefix(keyword));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let missing = [of("linux "), of("initrd ")].concat().into_iter().find(|file| {
        let path = root.at(&format!("boot{file}"));
        !path.is_file() || path.metadata().unwrap().len() == 0
    });
    if let Some(missing) = missing {
        return Some(format!("{missing} is not on the boot partition"));
    }
    if !of("options ").iter().any(|line| line.split(' ').any(|word| word == "module.sig_unenforce")) {
        return Some(format!("its entry lacks the parameter: {entry:?}"));
    }
    let template = fs::read(root.tools().join(format!("templates/{release}.ko"))).unwrap();
    let file = fs::read(root.at(&TestRoot::ko("hello", release))).unwrap_or_default();
    if !file.starts_with(&template) {
        return Some("its module is missing, or for another kernel".to_owned());
    }
    // What modprobe reads; depmod writes modules.dep before it.
    let index = fs::read(root.at(&format!("usr/lib/modules/{release}/modules.dep.bin"))).unwrap_or_default();
    if memchr::memmem::find(&index, b"updates/dkms/hello.ko").is_none() {
        return Some("modprobe does not find its module".to_owned());
    }
    None
}

/// A kernel that boots with the critical module and has been the default, or runs.
fn has_proven(root: &TestRoot) -> bool {
    entries(root).iter().any(|(_, release)| lacks(root, release).is_none())
}

/// What is wrong with what boots next, where `before` is what would have booted before.
pub(super) fn broken_promise(root: &TestRoot, before: &NextBoot) -> Option<String> {
    let now = next_boot(root);
    let lacks = now.lacks.as_ref()?;
    let status = root.run("clr-dkms", &["status", "--json"]);
    let status = status.json();
    let verdict = status["verdict"].as_str().unwrap_or_default().to_owned();
    // An admin has asked for that kernel, whatever it lacks; the verdict says so.
    let wishes = &status["guard"]["wishes"];
    let is_released = |wish: &serde_json::Value| {
        wish.as_array().is_some_and(|all| all.contains(&now.release.as_str().into()))
    };
    let is_asked_for = wishes["hold"] == now.release.as_str() || is_released(&wishes["released"]);
    let is_running = root.text("proc/sys/kernel/osrelease").trim() == now.release;
    // Where nothing boots with it, the kernel that runs is the best there is.
    let is_best = is_running && !has_proven(root);
    if now.release != before.release && !is_best && !is_asked_for {
        return Some(format!("{} boots next: {lacks}; before it was {before:?}", now.release));
    }
    let says_so = matches!(verdict.as_str(), "unsafe" | "unknown");
    (!says_so).then(|| format!("{} boots next: {lacks}; the verdict is {verdict}", now.release))
}

/// Files that only an active run may have.
pub(super) fn leftovers(root: &TestRoot) -> Vec<String> {
    let is_temporary = |path: &String| {
        let name = path.rsplit('/').next().unwrap();
        let is_hidden = name.starts_with('.') && !name.starts_with(".config");
        is_hidden || name.ends_with(".TmpWrite") || path.ends_with("in-progress.json")
    };
    root.tree().into_keys().filter(is_temporary).collect()
}
