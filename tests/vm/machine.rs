//! A machine under QEMU: its disk, its power switch, and the line over which commands reach it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base64;
use crate::scene::Failing;

/// Why a step did not work, for people.
pub(crate) type Outcome<T> = Result<T, String>;

/// How long a boot may take: emulated, and on a busy host.
const BOOT: Duration = Duration::from_secs(600);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(900);
/// What the initrd of a machine writes before it hangs.
const HANGS: &str = "initrd: hangs";
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/// A kernel that is up, as the agent reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) release: String,
    id: String,
}

/// How a command in the machine ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) text: String,
}

/// A machine, switched on or off.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) dir: PathBuf,
    qemu: Option<Child>,
    agent: Option<Line>,
    boot: Option<Boot>,
    commands: u32,
    /// How often a kernel was booted.
    pub(crate) boots: u32,
}

impl Machine {
    /// A machine whose disk is `base`; what it writes is below `dir`.
    pub(crate) fn new(dir: &Path, base: &Path, variables: &Path) -> Outcome<Machine> {
        // What is left of an earlier run, if anything.
        fs::remove_dir_all(dir).ok();
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let mut disk = Command::new("qemu-img");
        disk.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(base).arg(dir.join("disk.qcow2"));
        host(&mut disk)?;
        let mut copy = Command::new("qemu-img");
        copy.args(["convert", "-O", "qcow2"]).arg(variables).arg(dir.join("vars.qcow2"));
        host(&mut copy)?;
        Ok(Machine::at(dir))
    }

    /// A copy of a machine that is off, with the states that were saved in it.
    pub(crate) fn copy_of(dir: &Path, other: &Path) -> Outcome<Machine> {
        fs::remove_dir_all(dir).ok();
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for name in ["disk.qcow2", "vars.qcow2", "payload.img"] {
            let mut copy = Command::new("cp");
            copy.args(["--reflink=auto", "--sparse=always"]).arg(other.join(name)).arg(dir.join(name));
            host(&mut copy)?;
        }
        Ok(Machine::at(dir))
    }

    /// The machine whose files are in `dir`.
    pub(crate) fn at(dir: &Path) -> Machine {
        Machine { dir: dir.to_owned(), qemu: None, agent: None, boot: None, commands: 0, boots: 0 }
    }

    /// Switches it on: from the firmware on, or with a state that was saved.
    pub(crate) fn switch_on(&mut self, state: Option<&str>) -> Outcome<()> {
        for name in ["agent", "monitor"] {
            // Only left over if QEMU was killed.
            fs::remove_file(self.dir.join(name)).ok();
        }
        let acceleration =
            std::env::var("CLR_DKMS_VM_ACCEL").unwrap_or_else(|_| "tcg,thread=multi,tb-size=512".into());
        let processor = if acceleration.starts_with("kvm") { "host" } else { "Nehalem,+rdrand" };
        // It ends with a run that is killed, too.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null());
        command.args(["-M", "q35", "-accel", &acceleration, "-cpu", processor, "-smp", "1", "-m", "1024"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}")]);
        command.args(["-drive", "if=pflash,format=qcow2,unit=1,file=vars.qcow2"]);
        command.args(["-drive", "if=virtio,format=qcow2,file=disk.qcow2,cache=writeback"]);
        command.args(["-drive", "if=virtio,format=raw,readonly=on,file=payload.img"]);
        command.args(["-netdev", "user,id=n0,restrict=on", "-device", "i82557b,netdev=n0"]);
        command.args(["-chardev", "file,id=c0,path=console.log,append=on", "-serial", "chardev:c0"]);
        command.args(["-chardev", "socket,id=c1,path=agent,server=on,wait=off", "-serial", "chardev:c1"]);
        command.args(["-qmp", "unix:monitor,server=on,wait=off"]);
        if let Some(state) = state {
            command.args(["-loadvm", state]);
        }
        let errors = fs::File::create(self.dir.join("qemu.log")).map_err(|e| e.to_string())?;
        let child = command.stderr(errors).spawn().map_err(|e| format!("qemu-system-x86_64: {e}"))?;
        self.qemu = Some(child);
        self.agent =
            Some(Line::to(&self.dir.join("agent")).map_err(|e| format!("{e}: {}", self.log("qemu.log")))?);
        self.boot = None;
        Ok(())
    }

    /// Waits for the next kernel to be up, as far as systemd has started all that it starts.
    pub(crate) fn wait_for_boot(&mut self) -> Outcome<Boot> {
        let boot = self.next_kernel()?;
        self.run("systemctl is-system-running --wait")?;
        Ok(boot)
    }

    /// Waits for the agent of the next kernel.
    fn next_kernel(&mut self) -> Outcome<Boot> {
        let before = self.boot.take();
        let end = Instant::now() + BOOT;
        loop {
            let Some(line) = self.line()?.read(end)? else {
                let console = self.log("console.log");
                return Err(format!("it does not boot within {BOOT:?}; the end of its console:\n{console}"));
            };
            let Some(boot) = ready(&line) else { continue };
            if Some(&boot) != before.as_ref() {
                self.boots += 1;
                self.boot = Some(boot.clone());
                return Ok(boot);
            }
        }
    }

    /// After it was switched on with a saved state: the kernel that runs in it.
    pub(crate) fn resume(&mut self) -> Outcome<Boot> {
        self.line()?.write("PING")?;
        let end = Instant::now() + COMMAND;
        while let Some(line) = self.line()?.read(end)? {
            if let Some(boot) = ready(&line) {
                self.boot = Some(boot.clone());
                // Its clock stood still.
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                self.run(&format!("date -s @{} >/dev/null", now.map_err(|e| e.to_string())?.as_secs()))?;
                return Ok(boot);
            }
        }
        Err("its agent does not answer".into())
    }

    /// Runs a script with bash, as root.
    pub(crate) fn run(&mut self, script: &str) -> Outcome<Answer> {
        self.send(script)?;
        let id = format!("@@END {} ", self.commands);
        let begin = format!("@@BEGIN {}", self.commands);
        let (mut text, end) = (String::new(), Instant::now() + COMMAND);
        while let Some(line) = self.line()?.read(end)? {
            if line.ends_with(&begin) {
                text = self.line()?.read(end)?.unwrap_or_default();
            } else if let Some(code) = line.strip_prefix(&id) {
                let text = String::from_utf8_lossy(&base64::decode(&text)?).into_owned();
                return Ok(Answer { code: code.trim().parse().map_err(|e| format!("{line}: {e}"))?, text });
            }
        }
        Err(format!("it does not end within {COMMAND:?}: {script}"))
    }

    /// Starts a script, and does not wait for its end.
    pub(crate) fn send(&mut self, script: &str) -> Outcome<()> {
        // A line of the terminal holds 4,095 bytes at most.
        for part in base64::encode(script.as_bytes()).as_bytes().chunks(1000) {
            self.line()?.write(&format!("PUT {}", String::from_utf8_lossy(part)))?;
            let end = Instant::now() + COMMAND;
            while let Some(line) = self.line()?.read(end)? {
                if line.ends_with("@@MORE") {
                    break;
                }
            }
        }
        self.commands += 1;
        let id = self.commands;
        self.line()?.write(&format!("RUN {id}"))
    }

    /// An orderly reboot, until the next kernel is up.
    pub(crate) fn reboot(&mut self) -> Outcome<Boot> {
        self.send("systemctl --no-block reboot")?;
        self.wait_for_boot()
    }

    /// A reboot that one kernel or another does not survive, until `release` is up.
    pub(crate) fn reboot_into(&mut self, how: Failing, release: &str) -> Outcome<Boot> {
        self.send("systemctl --no-block reboot")?;
        let cut = |machine: &mut Machine| {
            machine.cut_power();
            machine.switch_on(None)
        };
        match how {
            Failing::ByItself => {}
            Failing::PowerCut => {
                self.next_kernel()?;
                cut(self)?;
            }
            Failing::Hang => {
                let end = Instant::now() + BOOT;
                while !self.log("console.log").contains(HANGS) {
                    if Instant::now() > end {
                        return Err(format!("it does not hang; its console:\n{}", self.log("console.log")));
                    }
                    std::thread::sleep(Duration::from_secs(1));
                }
                cut(self)?;
            }
        }
        while self.next_kernel()?.release != release {}
        self.run("systemctl is-system-running --wait")?;
        self.boot.clone().ok_or_else(|| "the machine is off".to_owned())
    }

    /// Takes the power away: what the machine had not written to its disk is lost.
    pub(crate) fn cut_power(&mut self) {
        self.agent = None;
        if let Some(mut child) = self.qemu.take() {
            // Both fail only if it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Saves the state under a name, memory included.
    pub(crate) fn save(&mut self, name: &str) -> Outcome<()> {
        let said = self.monitor(&format!("savevm {name}"))?;
        if said.is_empty() { Ok(()) } else { Err(format!("savevm: {said}")) }
    }

    fn monitor(&mut self, command: &str) -> Outcome<String> {
        let mut line = Line::to(&self.dir.join("monitor")).map_err(|e| e.to_string())?;
        line.write(r#"{"execute":"qmp_capabilities"}"#)?;
        let command =
            json!({"execute": "human-monitor-command", "id": 1, "arguments": {"command-line": command}});
        line.write(&command.to_string())?;
        let end = Instant::now() + COMMAND;
        while let Some(text) = line.read(end)? {
            let answer: Value = serde_json::from_str(&text).map_err(|e| format!("{text}: {e}"))?;
            if answer["id"] == 1 {
                return Ok(answer["return"].as_str().map_or_else(|| answer.to_string(), str::to_owned));
            }
        }
        Err("QEMU's monitor does not answer".into())
    }

    fn line(&mut self) -> Outcome<&mut Line> {
        self.agent.as_mut().ok_or_else(|| "the machine is off".to_owned())
    }

    /// The end of a log of this machine.
    pub(crate) fn log(&self, name: &str) -> String {
        let text = fs::read(self.dir.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
    }
}

/// Runs a program of the host.
pub(crate) fn host(command: &mut Command) -> Outcome<()> {
    answer(command).map(drop)
}

/// What a program of the host prints.
pub(crate) fn answer(command: &mut Command) -> Outcome<String> {
    let done = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

fn ready(line: &str) -> Option<Boot> {
    let (_, words) = line.split_once("@@READY ")?;
    let (release, id) = words.trim().split_once(' ')?;
    Some(Boot { release: release.to_owned(), id: id.to_owned() })
}

/// Lines over a socket.
#[derive(Debug)]
struct Line {
    socket: UnixStream,
    buffer: Vec<u8>,
}

impl Line {
    /// QEMU makes the socket soon after it was started.
    fn to(path: &Path) -> std::io::Result<Line> {
        let mut tries = 0;
        loop {
            match UnixStream::connect(path) {
                Ok(socket) => return Ok(Line { socket, buffer: Vec::new() }),
                Err(e) if tries == 300 => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
            tries += 1;
        }
    }

    fn write(&mut self, line: &str) -> Outcome<()> {
        self.socket.write_all(format!("{line}\n").as_bytes()).map_err(|e| e.to_string())
    }

    /// The next line; none in time.
    fn read(&mut self, end: Instant) -> Outcome<Option<String>> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
            let mut bytes = [0; 65536];
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err("QEMU has ended".into()),
                Ok(n) => self.buffer.extend(&bytes[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}
