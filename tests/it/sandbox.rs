//! A hostile `dkms.conf` harms nobody: with namespaces, with Landlock and seccomp, with both; and where there
//! is neither, it is not evaluated. What a machine offers is taken away from outside, by a filter of system
//! calls.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use clr_dkms::sys::Sandbox;
use clr_dkms::sys::sandbox::{Identity, Layers, Sight};
use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
use serde_json::Value;

use crate::support::run::{as_nobody, set_mode};
use crate::support::{B, Run, TestRoot};

/// `landlock_create_ruleset` and `unshare`, which are the same everywhere, and `clone`'s way is open to
/// nobody but through them.
const LANDLOCK: i64 = 444;
#[cfg(target_arch = "x86_64")]
const UNSHARE: i64 = 272;
#[cfg(not(target_arch = "x86_64"))]
const UNSHARE: i64 = 97;

/// What the machine of a test lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    Namespaces,
    Landlock,
    Both,
}

impl Without {
    fn calls(self) -> Vec<i64> {
        match self {
            Without::Nothing => vec![],
            Without::Namespaces => vec![UNSHARE],
            Without::Landlock => vec![LANDLOCK],
            Without::Both => vec![UNSHARE, LANDLOCK],
        }
    }
}

/// Runs a command on a machine that lacks that: a filter is inherited by what a thread starts.
pub(crate) fn run_without(without: Without, command: &mut Command) -> std::process::Output {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                if without != Without::Nothing {
                    let calls = without.calls().into_iter().map(|call| (call, vec![])).collect();
                    let target: TargetArch = std::env::consts::ARCH.try_into().unwrap();
                    let refused = SeccompAction::Errno(1);
                    let filter = SeccompFilter::new(calls, SeccompAction::Allow, refused, target).unwrap();
                    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
                    seccompiler::apply_filter(&program).unwrap();
                }
                command.output().unwrap()
            })
            .join()
            .unwrap()
    })
}

/// A process that is to be killed.
struct Victim(Child);

impl Victim {
    fn of(user: &str) -> Victim {
        let mut command = Command::new("setpriv");
        command.args([
            &format!("--reuid={user}"),
            &format!("--regid={user}"),
            "--clear-groups",
            "sleep",
            "3600",
        ]);
        let mut plain = Command::new("sleep");
        plain.arg("3600");
        Victim(if rustix::process::geteuid().is_root() { command.spawn() } else { plain.spawn() }.unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What a `dkms.conf` answers is seen in the reason why it is not for a kernel.
fn answering(root: &TestRoot, first: &str, answer: &str) {
    root.module("hello", "1.0", &format!("{first}\nBUILD_EXCLUSIVE_KERNEL=\"never {answer}\"\n"));
}

fn status(root: &TestRoot, without: Without, nobody: bool, more: &[&str]) -> Option<(Value, String)> {
    let arguments = [&["status", "--json", "-v"], more].concat();
    let mut command = match nobody {
        true => as_nobody(root, "clr-dkms", &arguments)?,
        false => root.command("clr-dkms", &arguments),
    };
    let run = Run::of(run_without(without, &mut command), root);
    Some((run.json(), run.stderr.clone()))
}

fn reason(status: &Value) -> String {
    let modules = status["modules"].as_array().unwrap();
    let module = modules.iter().find(|m| m["name"] == "hello" && m["kernel"] == B).unwrap();
    module["reason"].as_str().unwrap_or_default().to_owned()
}

/// The process that sleeps for that time.
fn sleeping(argument: &str) -> Option<rustix::process::Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let found = processes.into_iter().find(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        words.next() == Some(b"sleep") && words.any(|word| word == argument.as_bytes())
    })?;
    rustix::process::Pid::from_raw(found.file_name().to_str()?.parse().ok()?)
}

/// What a hostile file goes for.
struct Targets {
    root: TestRoot,
    udp: UdpSocket,
    tcp: TcpListener,
    _sockets: [UnixListener; 2],
    victim: Victim,
    port: u16,
}

impl Targets {
    fn new(nobody: bool) -> Targets {
        let root = TestRoot::updated();
        let outside = root.outside();
        set_mode(&outside, 0o777);
        std::fs::write(outside.join("precious"), "precious").unwrap();
        set_mode(&outside.join("precious"), 0o666);
        let socket = UnixListener::bind(outside.join("socket")).unwrap();
        set_mode(&outside.join("socket"), 0o777);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let tcp = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let name = SocketAddr::from_abstract_name(format!("clr-dkms-{port}")).unwrap();
        let sockets = [socket, UnixListener::bind_addr(&name).unwrap()];
        let victim = Victim::of(if nobody { "65534" } else { "1879048193" });
        Targets { root, udp, tcp, _sockets: sockets, victim, port }
    }

    /// The arguments of the script.
    fn words(&self) -> [String; 3] {
        let outside = self.root.outside().display().to_string();
        [outside, self.port.to_string(), self.victim.0.id().to_string()]
    }

    /// What has been harmed, whatever the hostile file believes.
    fn harmed(&mut self) -> Vec<&'static str> {
        use std::os::unix::fs::MetadataExt;
        let outside = self.root.outside();
        let precious = outside.join("precious");
        let found = std::fs::metadata(&precious).ok();
        self.udp.set_nonblocking(true).unwrap();
        self.tcp.set_nonblocking(true).unwrap();
        let daemon = format!("86{}", self.port);
        let harms = [
            (!self.victim.lives(), "kill"),
            (std::fs::read_dir(&outside).unwrap().count() > 2, "write"),
            (found.as_ref().is_none_or(|found| found.len() != 8), "truncate"),
            (found.as_ref().is_none_or(|found| found.mode() & 0o777 != 0o666), "chmod"),
            (found.as_ref().is_none_or(|found| found.mtime() == 0), "utime"),
            (self.udp.recv(&mut [0; 16]).is_ok(), "udp"),
            (self.tcp.accept().is_ok(), "tcp"),
            (sleeping(&daemon).is_some(), "daemon"),
        ];
        harms.into_iter().filter(|(harmed, _)| *harmed).map(|(_, what)| what).collect()
    }
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/tools/hostile.py");

fn results(text: &str) -> Vec<(String, String)> {
    let modules_on_kernels = text.split_whitespace().filter_map(|word| word.split_once(':'));
    modules_on_kernels.map(|(name, result)| (name.to_owned(), result.to_owned())).collect()
}

/// Everything that the hostile file tries on a machine, and what each attempt came to.
fn attack(without: Without, nobody: bool) -> Option<Vec<(String, String)>> {
    let mut targets = Targets::new(nobody);
    let source = targets.root.at("usr/src/hello-1.0");
    let (outside, port) = (targets.root.outside().display().to_string(), targets.port);
    let script = source.join("hostile.py").display().to_string();
    let first = format!(
        "tried=$(python3 {script} {})\necho x >{outside}/by-bash\necho secret >/dev/udp/127.0.0.1/{port}",
        targets.words().join(" ")
    );
    answering(&targets.root, &first, "$tried");
    std::fs::copy(SCRIPT, source.join("hostile.py")).unwrap();
    let (status, said) = status(&targets.root, without, nobody, &[])?;
    let tried = results(&reason(&status));
    assert!(tried.len() > 25, "{without:?}: {}\n{said}", reason(&status));
    assert_eq!(targets.harmed(), Vec::<&str>::new(), "{without:?}, nobody {nobody}");
    for path in ["/dev/shm/clr-dkms-hostile", "/var/tmp/clr-dkms-hostile"] {
        assert!(!std::path::Path::new(path).exists(), "{without:?}: {path}");
    }
    Some(tried)
}

/// Outside of a sandbox the attempts succeed: else the tests below would show nothing.
#[test]
fn without_a_sandbox_the_hostile_file_does_harm() {
    let mut targets = Targets::new(true);
    let mut command = Command::new("/usr/bin/python3");
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-"]);
    } else {
        command.arg("-");
    }
    set_mode(targets.root.path().parent().unwrap(), 0o755);
    let only = ["write", "truncate", "udp", "tcp", "unix", "abstract", "kill", "daemon"];
    command.args(targets.words()).args(only).stdin(std::fs::File::open(SCRIPT).unwrap());
    let tried = results(&String::from_utf8(command.output().unwrap().stdout).unwrap());
    assert_eq!(tried, only.map(|name| (name.to_owned(), "done".to_owned())));
    // The script does not wait until its daemon has become another program.
    let (name, start) = (format!("86{}", targets.port), Instant::now());
    while sleeping(&name).is_none() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(targets.harmed(), ["kill", "write", "truncate", "udp", "tcp", "daemon"]);
    let daemon = sleeping(&name).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
}

/// What may succeed: in a namespace of its own, or because it is without effect.
fn is_harmless(without: Without, name: &str) -> bool {
    let with_namespaces = !matches!(without, Without::Namespaces | Without::Both);
    match name {
        // They are the private /tmp there.
        "var-tmp" | "shm" | "kill-all" => with_namespaces,
        // It was started; that it is gone is seen from outside.
        "daemon" => true,
        _ => false,
    }
}

fn nothing_is_done(without: Without, nobody: bool) {
    let Some(tried) = attack(without, nobody) else { return };
    let done: Vec<_> =
        tried.iter().filter(|(name, result)| result == "done" && !is_harmless(without, name)).collect();
    assert!(done.is_empty(), "{without:?}, nobody {nobody}: {done:?}");
}

#[test]
fn with_both_layers_nothing_is_done() {
    nothing_is_done(Without::Nothing, false);
    nothing_is_done(Without::Nothing, true);
}

#[test]
fn namespaces_alone_are_enough() {
    nothing_is_done(Without::Landlock, false);
    nothing_is_done(Without::Landlock, true);
}

#[test]
fn landlock_and_seccomp_alone_are_enough() {
    nothing_is_done(Without::Namespaces, false);
    nothing_is_done(Without::Namespaces, true);
}

#[test]
fn without_a_layer_it_is_not_evaluated_unless_it_is_trusted() {
    for nobody in [false, true] {
        let root = TestRoot::updated();
        answering(&root, "ran=yes", "ran=$ran");
        let Some((refused, _)) = status(&root, Without::Both, nobody, &[]) else { return };
        assert!(reason(&refused).contains("--trust runs it anyway"), "{}", reason(&refused));
        let (trusted, said) = status(&root, Without::Both, nobody, &["--trust"]).unwrap();
        assert!(reason(&trusted).contains("ran=yes"), "{}", reason(&trusted));
        assert!(said.contains("evaluated in a sandbox: seccomp, "), "{said}");
    }
}

#[test]
fn the_layers_are_reported_and_recorded() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "");
    let mut command = root.command("clr-dkms-post-update", &["-v"]);
    let run = Run::of(run_without(Without::Landlock, &mut command), &root);
    let (layers, identity) = match rustix::process::geteuid().is_root() {
        true => ("an unprivileged user", "unprivileged"),
        false => ("the calling user", "caller"),
    };
    run.code(0).says(&[&format!("evaluated in a sandbox: namespaces, seccomp, {layers}")]);
    let expected = serde_json::json!({
        "namespaces": true, "landlock": false, "seccomp": true, "identity": identity
    });
    assert_eq!(root.record()["sandbox"], expected);
    // The next run evaluates nothing.
    root.post_update().code(0);
    assert_eq!(root.record()["sandbox"], expected);
}

/// A file that does not end by itself, or takes all that it can get.
fn ends(mark: u32, first: &str) {
    for without in [Without::Nothing, Without::Namespaces] {
        let root = TestRoot::updated();
        let id = format!("{mark}{}", std::process::id());
        answering(&root, &first.replace("MARK", &format!("97{id}")), "");
        let start = Instant::now();
        let (status, _) = status(&root, without, false, &[]).unwrap();
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        assert!(!reason(&status).is_empty());
        assert_eq!(sleeping(&format!("97{id}")), None, "{without:?}: {first}");
    }
}

#[test]
fn a_fork_bomb_ends() {
    ends(1, "bomb() { sleep MARK & bomb | bomb & }; bomb; sleep 2");
}

#[test]
fn endless_output_ends() {
    ends(2, "while :; do printf '%01000000d' 1 >&3; done");
}

#[test]
fn a_background_process_is_gone() {
    ends(3, "sleep MARK & disown; (trap '' TERM HUP; sleep MARK) &");
}

/// Sources that only root may read, or that lie where only root may go.
#[test]
fn root_shows_what_only_root_can_read() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root has files that others cannot read");
        return;
    }
    for without in [Without::Nothing, Without::Landlock, Without::Namespaces] {
        let root = TestRoot::updated();
        answering(&root, ". \"$(dirname \"${BASH_SOURCE[0]}\")/sub/more\"", "more=$more");
        root.file("usr/src/hello-1.0/sub/more", "more=read\n");
        root.file("etc/dkms/hello.conf", "BUILD_EXCLUSIVE_KERNEL+=\" too\"\n");
        let closed = ["usr/src/hello-1.0/sub/more", "usr/src/hello-1.0/dkms.conf", "etc/dkms/hello.conf"];
        for file in closed {
            set_mode(&root.at(file), 0o600);
        }
        for directory in ["usr/src/hello-1.0/sub", "usr/src/hello-1.0", "usr/src", "etc/dkms", "var/lib/dkms"]
        {
            set_mode(&root.at(directory), 0o700);
        }
        set_mode(root.path(), 0o700);
        let (status, said) = status(&root, without, false, &[]).unwrap();
        let reason = reason(&status);
        assert!(reason.contains("more=read too"), "{without:?}: {reason}\n{said}");
    }
}

/// A shell in a sandbox of this process; what it prints.
fn shell(sandbox: Sandbox, script: &str) -> (String, Layers) {
    let path = std::ffi::OsStr::new("/usr/bin:/bin");
    let child = clr_dkms::sys::Child::new("/bin/sh".as_ref(), path, Duration::from_secs(60));
    let done = child.args(["-c", script]).confined(sandbox).run().unwrap();
    (String::from_utf8(done.output).unwrap(), done.layers.unwrap())
}

/// The attempts that a compiler cannot be kept from: to take memory, and to read what its user may read.
const HARMLESS_IN_BUILD: [&str; 7] = ["memory", "limit", "shadow", "daemon", "var-tmp", "shm", "kill-all"];

#[test]
fn a_scratch_build_writes_to_its_scratch_tree_alone() {
    let mut targets = Targets::new(false);
    let scratch = targets.root.at("scratch");
    std::fs::create_dir_all(scratch.join("sub")).unwrap();
    std::fs::copy(SCRIPT, scratch.join("hostile.py")).unwrap();
    for closed in [targets.root.path(), &scratch] {
        set_mode(closed, 0o700);
    }
    let sight = Sight { writable: vec![scratch.clone().into_os_string()], ..Sight::default() };
    let (at, words) = (scratch.display(), targets.words().join(" "));
    let script = format!(
        "cd {at} && echo made >sub/made && mkdir /tmp/x && head -c 100000000 /dev/zero >/tmp/x/large && \
         python3 {at}/hostile.py {words}"
    );
    let (said, layers) = shell(Sandbox::scratch_build(sight), &script);
    assert!(layers.are_enough(), "{layers}");
    let tried = results(&said);
    assert!(tried.len() > 25, "{said}");
    let done: Vec<_> = tried
        .iter()
        .filter(|(name, result)| result == "done" && !HARMLESS_IN_BUILD.contains(&name.as_str()))
        .collect();
    assert!(done.is_empty(), "{done:?}");
    assert_eq!(targets.harmed(), Vec::<&str>::new());
    assert_eq!(std::fs::read_to_string(scratch.join("sub/made")).unwrap(), "made\n");
    let unprivileged = rustix::process::geteuid().is_root();
    assert_eq!(layers.identity == Identity::Unprivileged, unprivileged, "{layers}");
}

#[test]
fn a_build_writes_to_its_tree_alone() {
    use std::os::unix::fs::MetadataExt;
    let mut targets = Targets::new(false);
    let tree = targets.root.at("var/lib/dkms");
    std::fs::copy(SCRIPT, tree.join("hostile.py")).unwrap();
    let user = rustix::process::geteuid().as_raw();
    let sight = Sight { writable: vec![tree.clone().into_os_string()], ..Sight::default() };
    let (at, words) = (tree.display(), targets.words().join(" "));
    let script = format!(
        "cd {at} && echo made >made && grep ^CapEff /proc/self/status && \
         for d in / /etc /usr /usr/lib /root /var /var/lib /run /home; do true >$d/hostile; done 2>/dev/null; \
         python3 {at}/hostile.py {words}"
    );
    let (said, layers) = shell(Sandbox::build(sight), &script);
    assert!(layers.are_enough(), "{layers}");
    let capabilities = if user == 0 { "CapEff:\t000000000000001b" } else { "CapEff:\t0000000000000000" };
    assert!(said.contains(capabilities), "{said}");
    let done: Vec<_> = results(&said)
        .into_iter()
        .filter(|(name, result)| result == "done" && !HARMLESS_IN_BUILD.contains(&name.as_str()))
        .collect();
    assert!(results(&said).len() > 25 && done.is_empty(), "{done:?}\n{said}");
    assert_eq!(targets.harmed(), Vec::<&str>::new());
    assert_eq!(std::fs::metadata(tree.join("made")).unwrap().uid(), user);
    for directory in ["/", "/etc", "/usr", "/usr/lib", "/root", "/var", "/var/lib", "/run", "/home"] {
        assert!(!std::path::Path::new(directory).join("hostile").exists(), "{directory}");
    }
}

/// dkms as it is called for an image, with a hostile PRE_BUILD and PRE_INSTALL.
#[test]
fn a_build_for_an_image_harms_nobody() {
    let mut targets = Targets::new(false);
    let words = targets.words().join(" ");
    let root = &targets.root;
    std::fs::copy(SCRIPT, root.tools().join("hostile.py")).unwrap();
    root.module("hello", "1.0", "").behave(&format!(
        "case $verb in build | install) /usr/bin/python3 $here/hostile.py {words} >>$here/tried-$verb ;; esac"
    ));
    root.post_update().code(0);
    for verb in ["build", "install"] {
        let tried = results(&std::fs::read_to_string(root.tools().join(format!("tried-{verb}"))).unwrap());
        // HOME is the private /tmp.
        let is_harmless = |name: &str| name == "home" || HARMLESS_IN_BUILD.contains(&name);
        let done: Vec<_> =
            tried.iter().filter(|(name, result)| result == "done" && !is_harmless(name)).collect();
        assert!(tried.len() > 25 && done.is_empty(), "{verb}: {done:?} of {tried:?}");
    }
    assert_eq!(targets.harmed(), Vec::<&str>::new());
    for path in ["/tmp/.clr-dkms-hostile", "/dev/shm/clr-dkms-hostile", "/var/tmp/clr-dkms-hostile"] {
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
}

#[test]
fn a_build_that_is_asked_to_stop_can_put_things_in_order() {
    let root = TestRoot::updated();
    let tree = root.at("var/lib/dkms");
    let sight = Sight { writable: vec![tree.clone().into_os_string()], ..Sight::default() };
    let script = format!("trap 'echo ended >{}/ended; exit 3' TERM; sleep 59 & wait", tree.display());
    let path = std::ffi::OsStr::new("/usr/bin:/bin");
    let child = clr_dkms::sys::Child::new("/bin/sh".as_ref(), path, Duration::from_secs(1));
    let done = child.args(["-c", &script]).confined(Sandbox::build(sight)).run().unwrap();
    assert_eq!(done.ended, clr_dkms::sys::Ended::TimedOut);
    assert!(done.took < Duration::from_secs(4), "{:?}", done.took);
    assert_eq!(std::fs::read_to_string(tree.join("ended")).unwrap(), "ended\n");
}
