//! Machines with kernels in every role and modules in every state, made on a disk as each of them comes
//! about.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::OnceLock;

use clr_dkms::context::Context;
use clr_dkms::dkms::plan::State;
use clr_dkms::dkms::{Cache, ModuleName, architecture};
use clr_dkms::report::{Progress, StatusDocument, document};
use clr_dkms::requirement::Importance;
use clr_dkms::state::{BootRecord, CmdlineRecord, ModuleRecord, RECORD, RunRecord, Stored};
use clr_dkms::sys::{Clock, Root, RootKind, Tools};
use clr_dkms::system::System;
use clr_dkms::{boot, config};
use jiff::Timestamp;

use crate::support::guard::FAILS_ON_B;
use crate::support::{B, TestRoot, elf, machine};

/// Every state. A new one does not compile in [`Scene::put`], and is missed here by
/// `the_walk_knows_every_state`.
pub(super) const STATES: [State; 18] = [
    State::Ok,
    State::NotBuilt,
    State::Building,
    State::BuildFailed,
    State::DependencyFailed,
    State::HeadersMissing,
    State::HeadersMismatch,
    State::SkippedExclusive,
    State::NotAutoinstall,
    State::Conflict,
    State::CompilerMissing,
    State::BrokenSource,
    State::VermagicMismatch,
    State::SymbolsMismatch,
    State::SignatureRefused,
    State::NotInModulesDep,
    State::NotManaged,
    State::Unknown,
];

const LIST: &str =
    "0x0000aaaa\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n0x0000bbbb\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n";

/// What a kernel is like, whatever the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    Usual,
    /// Without headers.
    Bare,
    /// With the headers of another one.
    Mixed,
    /// Made by a compiler that is not there.
    Foreign,
    /// It takes no module without a trusted signature.
    Strict,
}

impl Flavour {
    /// The kernel that a module in this state needs; none where any will do.
    pub(super) fn for_state(state: State) -> Option<Flavour> {
        match state {
            State::HeadersMissing => Some(Flavour::Bare),
            State::HeadersMismatch => Some(Flavour::Mixed),
            State::CompilerMissing => Some(Flavour::Foreign),
            State::SignatureRefused => Some(Flavour::Strict),
            // These are seen before headers and compiler are asked for.
            State::SkippedExclusive | State::NotAutoinstall | State::BrokenSource => None,
            State::NotInModulesDep => None,
            _ => Some(Flavour::Usual),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) release: &'static str,
    pub(super) flavour: Flavour,
    pub(super) running: bool,
    /// The boot loader's default.
    pub(super) next: bool,
    pub(super) tip: bool,
    /// It has a boot entry.
    pub(super) entry: bool,
}

impl Kernel {
    /// `r`uns, boots `n`ext, `t`ip of its variant, has no boot entry (`-`).
    pub(super) fn new(release: &'static str, roles: &str) -> Kernel {
        Kernel {
            release,
            flavour: Flavour::Usual,
            running: roles.contains('r'),
            next: roles.contains('n'),
            tip: roles.contains('t'),
            entry: !roles.contains('-'),
        }
    }

    pub(super) fn id(&self) -> String {
        let (version, variant) = self.release.rsplit_once('.').unwrap();
        format!("org.clearlinux.{variant}.{version}")
    }
}

#[derive(Debug, Clone)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) version: &'static str,
    /// As the configuration lists it; none where it is left to the machine, and is optional or wanted.
    pub(super) class: Option<Importance>,
    /// By kernel, in their order.
    pub(super) on: Vec<State>,
}

/// A machine as it is meant to be: what the programs have to find out.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub(super) kernels: Vec<Kernel>,
    pub(super) modules: Vec<Module>,
}

/// A machine on a disk.
pub(super) struct Staged {
    pub(super) scene: Scene,
    pub(super) root: TestRoot,
    pub(super) context: Context,
    record: RunRecord,
    progress: Progress,
    run: Option<File>,
}

/// What a real run leaves in its record of a module that does not compile.
fn failure() -> &'static ModuleRecord {
    static FAILURE: OnceLock<ModuleRecord> = OnceLock::new();
    FAILURE.get_or_init(|| {
        let root = TestRoot::updated();
        root.module("hello", "1.0", "").behave(FAILS_ON_B).post_update().code(1);
        let record: RunRecord = serde_json::from_value(root.record()).unwrap();
        let failed = record.modules.iter().find(|m| m.kernel == B).unwrap().clone();
        assert_eq!(failed.state, State::BuildFailed);
        failed
    })
}

impl Module {
    /// DKMS knows it. Others are loaded in the running kernel.
    pub(super) fn is_managed(&self) -> bool {
        !self.on.contains(&State::NotManaged)
    }
}

impl Scene {
    pub(super) fn next(&self) -> usize {
        self.kernels.iter().position(|k| k.next).unwrap()
    }

    pub(super) fn running(&self) -> usize {
        self.kernels.iter().position(|k| k.running).unwrap()
    }

    /// What clr-boot-manager would make the default: the tip of the running kernel's variant.
    pub(super) fn target(&self) -> usize {
        let variant = |k: &Kernel| k.release.rsplit_once('.').unwrap().1;
        let running = variant(&self.kernels[self.running()]);
        self.kernels.iter().position(|k| k.tip && variant(k) == running).unwrap()
    }

    /// The modules that others make a file of the same name of, each beside the one that it takes it from.
    fn with_rivals(mut self) -> Scene {
        let state = |(kernel, state): (&Kernel, &State)| match (state, kernel.flavour) {
            (State::Conflict, Flavour::Strict) => State::SignatureRefused,
            (State::Conflict, _) => State::Ok,
            _ => State::SkippedExclusive,
        };
        let conflict = |m: &Module| Module {
            name: format!("rival-{}", m.name),
            version: "2",
            class: Some(Importance::Optional),
            on: self.kernels.iter().zip(&m.on).map(state).collect(),
        };
        let conflicts: Vec<Module> =
            self.modules.iter().filter(|m| m.on.contains(&State::Conflict)).map(conflict).collect();
        self.modules.extend(conflicts);
        self
    }

    /// Puts it on a disk.
    pub(super) fn stage(self) -> Staged {
        let scene = self.with_rivals();
        let root = TestRoot::new();
        for kernel in &scene.kernels {
            scene.put_kernel(&root, kernel);
        }
        let running = &scene.kernels[scene.running()];
        let unenforce = if running.flavour == Flavour::Strict { "N" } else { "Y" };
        root.secure_boot(false).booted(words(running), "Y", Some(unenforce));
        let root = root.running(running.release);
        let mut listed: BTreeMap<Importance, Vec<&str>> = BTreeMap::new();
        let mut record = record();
        let (mut builds, mut failed) = (Vec::new(), Vec::new());
        let mut indices: Vec<String> = vec!["kernel/own.ko:\n".to_owned(); scene.kernels.len()];
        for module in &scene.modules {
            if let Some(class) = module.class {
                listed.entry(class).or_default().push(&module.name);
            }
            if module.is_managed() {
                root.module(&module.name, module.version, &scene.conf(module));
            } else {
                root.loads(&[&module.name]);
            }
            for (at, state) in module.on.iter().enumerate() {
                let release = scene.kernels[at].release;
                scene.put(&root, module, at, &mut indices[at]);
                let name = ModuleName { name: module.name.clone(), version: module.version.to_owned() };
                match state {
                    State::Building => builds.push(format!("{name} on {release}")),
                    State::BuildFailed => {
                        let kernel = release.to_owned();
                        failed.push(ModuleRecord { module: name, kernel, ..failure().clone() });
                    }
                    _ => {}
                }
            }
        }
        record.modules = failed.into();
        for (kernel, index) in scene.kernels.iter().zip(&indices) {
            root.index(kernel.release, index);
        }
        let lists: String =
            listed.iter().map(|(class, names)| format!("{class} = {}\n", names.join(" "))).collect();
        root.conf(&format!("[modules]\n{lists}"));
        let (run, progress) = match builds.is_empty() {
            true => (None, Progress::None),
            false => {
                let texts: Vec<&str> = builds.iter().map(String::as_str).collect();
                (Some(root.at_work(&texts)), Progress::Working(builds))
            }
        };
        let root_there = Root::open(RootKind::LiveCopy, root.path()).unwrap();
        let (settings, errors) = config::load(&root_there);
        assert!(errors.is_empty(), "{errors:?}");
        let context =
            Context { root: root_there, tools: tools(&root), clock: Clock::Fixed(moment()), settings };
        let mut staged = Staged { scene, root, context, record, progress, run };
        // As the last run left it: with the boot files as they are.
        staged.record.boot.inputs = Some(boot::inputs(&staged.context.root));
        staged.root.file(RECORD, serde_json::to_string(&staged.record).unwrap());
        staged
    }

    fn put_kernel(&self, root: &TestRoot, kernel: &Kernel) {
        let release = kernel.release;
        root.kernel(release).file(&format!("var/lib/kernel/k_booted_{release}"), "");
        root.file(&format!("usr/lib/kernel/cmdline-{release}"), words(kernel).replace(' ', "\n") + "\n")
            .file(&format!("usr/lib/modules/{release}/modules.builtin"), "kernel/fs/built-in.ko\n");
        let build = format!("usr/lib/modules/{release}/build");
        if kernel.flavour != Flavour::Bare {
            root.headers(release).file(&format!("{build}/Module.symvers"), LIST);
        }
        match kernel.flavour {
            Flavour::Mixed => {
                root.file(&format!("{build}/include/config/kernel.release"), "6.15.1-1500.native\n").forget();
            }
            Flavour::Foreign => root.file(&format!("{build}/.config"), "CONFIG_CC_IS_CLANG=y\n").forget(),
            Flavour::Strict => root.config(release, machine::CLEAR).modinfo(release, true).forget(),
            Flavour::Usual | Flavour::Bare => {}
        }
        if kernel.tip {
            root.tip(release);
        }
        if kernel.entry {
            root.entry(&kernel.id(), words(kernel), kernel.next);
        }
    }

    /// What is added to the dkms.conf of a module.
    fn conf(&self, module: &Module) -> String {
        let on = |is_it: &dyn Fn(State) -> bool| {
            let releases = self.kernels.iter().zip(&module.on).filter(|(_, s)| is_it(**s));
            releases.map(|(k, _)| k.release.replace('.', "\\.")).collect::<Vec<_>>().join("|")
        };
        let mut conf = String::new();
        if let Some(of) = module.name.strip_prefix("rival-") {
            conf += &format!("BUILT_MODULE_NAME[0]={of}\n");
        }
        if module.on.contains(&State::SkippedExclusive) {
            let others = on(&|state| state != State::SkippedExclusive);
            let pattern = if others.is_empty() { "9\\.9".to_owned() } else { others };
            conf += &format!("BUILD_EXCLUSIVE_KERNEL=\"^({pattern})$\"\n");
        }
        for (state, line) in
            [(State::NotAutoinstall, "AUTOINSTALL=no"), (State::BrokenSource, "BUILT_MODULE_NAME[0]=../x")]
        {
            let releases = on(&|on| on == state).replace('\\', "");
            if !releases.is_empty() {
                conf += &format!("case $kernelver in {releases}) {line};; esac\n");
            }
        }
        conf
    }

    /// One module on one kernel.
    fn put(&self, root: &TestRoot, module: &Module, at: usize, index: &mut String) {
        let release = self.kernels[at].release;
        let file = module.name.strip_prefix("rival-").unwrap_or(&module.name);
        let good = || elf::module(release);
        let with = |depends: &str, layout: u32| {
            let takes = [("printk", 0xaaaa, false), ("module_layout", layout, false)];
            elf::with_symbols(release, depends, &takes, &[])
        };
        if !module.is_managed() {
            if module.on[at] == State::Ok {
                root.file(&format!("usr/lib/modules/{release}/extra/{file}.ko"), good());
                *index += &format!("extra/{file}.ko:\n");
            }
            return;
        }
        let (bytes, listed) = match module.on[at] {
            State::Ok | State::SignatureRefused | State::Blocked | State::InitrdStale | State::HookFailed => {
                (good(), true)
            }
            State::NotInModulesDep => (good(), false),
            State::VermagicMismatch => (elf::module("6.15.1-1500.native"), true),
            State::SymbolsMismatch => (with("", 1), true),
            State::DependencyFailed => (with("gone-one", 0xbbbb), true),
            State::Unknown => {
                // A circle: as nobody is denied anything to root, this is what cannot be read.
                self.install(root, module, release, file, &good());
                root.remove(&TestRoot::ko(file, release));
                root.link(&TestRoot::ko(file, release), format!("{file}.ko"));
                *index += &format!("updates/dkms/{file}.ko:\n");
                return;
            }
            State::NotBuilt
            | State::Building
            | State::BuildFailed
            | State::HeadersMissing
            | State::HeadersMismatch
            | State::SkippedExclusive
            | State::NotAutoinstall
            | State::Conflict
            | State::CompilerMissing
            | State::NotManaged
            | State::BrokenSource => return,
        };
        self.install(root, module, release, file, &bytes);
        if listed {
            *index += &format!("updates/dkms/{file}.ko:\n");
        }
    }

    /// As dkms installs a file that it has built.
    fn install(&self, root: &TestRoot, module: &Module, release: &str, file: &str, bytes: &[u8]) {
        let (name, version) = (&module.name, module.version);
        let bytes = [bytes, format!("{name}/{version}").as_bytes()].concat();
        let build = TestRoot::build(name, version, release);
        root.file(&format!("{build}/module/{file}.ko"), &bytes)
            .file(&format!("{build}/log/make.log"), "make\n")
            .file(&TestRoot::ko(file, release), &bytes)
            .link(
                &format!("var/lib/dkms/{name}/kernel-{release}-{}", architecture()),
                format!("{version}/{release}/{}", architecture()),
            );
    }
}

/// The command line of a kernel.
fn words(kernel: &Kernel) -> &'static str {
    if kernel.flavour == Flavour::Strict { "quiet rw" } else { "quiet rw module.sig_unenforce" }
}

fn moment() -> Timestamp {
    "2025-07-29T12:00:00Z".parse().unwrap()
}

/// The programs of a fixture, with no clang, whatever this machine has.
fn tools(root: &TestRoot) -> Tools {
    let mut tools = Tools::from_environment();
    for program in ["gcc", "make", "ld", "dkms", "depmod", "clr-boot-manager", "motd-update.sh"] {
        tools.name(program, &root.tools().join(program));
    }
    tools.name("clang", &root.tools().join("clang"));
    tools
}

/// That of a run that found nothing to tell.
fn record() -> RunRecord {
    RunRecord {
        schema: 1,
        started: moment(),
        finished: moment(),
        running: None,
        next_boot: None,
        next_boot_source: None,
        new_kernels: Vec::new(),
        modules: Vec::new().into(),
        cmdline: CmdlineRecord { wanted: true, in_force: true, blockers: Vec::new() },
        boot: BootRecord { updated: Some(moment()), ..BootRecord::default() },
        faults: Vec::new(),
        problems: Vec::new(),
        needs: Vec::new(),
        checked: Default::default(),
        built_from: BTreeMap::new(),
        verdict: None,
        guard: None,
        sandbox: None,
    }
}

impl Staged {
    /// The document, made in this process.
    pub(super) fn document(&self) -> StatusDocument {
        let record = Stored::Good(self.record.clone());
        let system = System::observe(&self.context, &mut Cache::default());
        document(&system, &record, &self.progress, &self.context.settings, self.context.clock.now())
    }

    /// The active run is killed.
    pub(super) fn end_run(&mut self) {
        self.run = None;
    }

    /// The pairs in the document are in the states that they were put into.
    #[track_caller]
    pub(super) fn is_as_meant(&self, document: &StatusDocument) {
        for found in &document.modules {
            let found = &found.record;
            let module = self.scene.modules.iter().find(|m| m.name == found.module.name).unwrap();
            let at = self.scene.kernels.iter().position(|k| k.release == found.kernel).unwrap();
            assert_eq!(found.state, module.on[at], "{} on {}: {:?}", module.name, found.kernel, found.reason);
        }
    }
}
