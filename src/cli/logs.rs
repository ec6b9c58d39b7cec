//! `clr-dkms logs`: shows the last log of a build, with the first error on top.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};

use clap::Args;

use super::{Common, answer_by};
use crate::context::Context;
use crate::dkms::ModuleName;
use crate::dkms::log::{self, LOGS};
use crate::exit::{self, ExitReason};
use crate::kernel::{Inventory, KernelName};
use crate::limits::LOG;
use crate::report::ModuleStatus;
use crate::report::observation::observe;
use crate::report::render::shown;
use crate::state::{self, RECORD, RunRecord};
use crate::sys::lines::each_line;
use crate::sys::printable::LONGEST;
use crate::sys::{FileError, FileKind, Root, pager};

/// The arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// A module, as NAME or NAME/VERSION
    #[arg(value_name = "MODULE")]
    module: Option<String>,
    /// A kernel release, a kernel id or a variant; the default is the kernel of the newest log
    #[arg(long, short, value_name = "KERNEL")]
    kernel: Option<String>,
    /// Print directly, also on a terminal
    #[arg(long)]
    no_pager: bool,
}

/// An existing log.
struct FoundLog {
    module: ModuleName,
    release: String,
    /// The time of the last change, in nanoseconds since the epoch.
    written: i128,
}

/// Runs `logs`.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(context: &Context, arguments: &LogsArguments, common: &Common) -> anyhow::Result<u8> {
    let root = &context.root;
    let kernel = arguments.kernel.as_ref().map(|asked| {
        let inventory = Inventory::observe(root);
        // A kernel that is not installed any more still has its logs.
        let gone = || match KernelName::parse(asked, &inventory.namespace) {
            Ok(name) => name.release(),
            // Not a kernel id either. Logs are named after the release, whatever its form.
            Err(_) => asked.clone(),
        };
        let installed = inventory.find(asked).map(|kernel| kernel.name.release());
        (installed.is_some(), installed.unwrap_or_else(gone))
    });
    let mut logs = found(root).map_err(ExitReason::unknown)?;
    logs.retain(|log| kernel.as_ref().is_none_or(|(_, release)| *release == log.release));
    if let (true, Some((false, release))) = (logs.is_empty(), &kernel) {
        let why = "is not an installed kernel, and no log is left of it; `clr-dkms status` lists the kernels";
        return Err(ExitReason::unknown(format!("{} {why}", shown(release))).into());
    }
    if let Some(asked) = &arguments.module {
        logs.retain(|log| log.module.name == *asked || log.module.to_string() == *asked);
    }
    let record = state::load::<RunRecord>(root, RECORD).good();
    let has_error = |log: &FoundLog| {
        let known = record.as_ref().and_then(|r| r.module(&log.module, &log.release));
        known.is_some_and(|m| m.error.is_some())
    };
    let is_first = |log: &FoundLog| arguments.module.is_none() && has_error(log);
    let Some(log) = logs.iter().max_by_key(|log| (is_first(log), log.written)) else {
        let of = arguments.module.as_ref().map(|m| format!(" of {}", shown(m))).unwrap_or_default();
        let on = kernel.map(|(_, release)| format!(" for kernel {}", shown(&release))).unwrap_or_default();
        let place = root.shown_path(LOGS);
        return Err(ExitReason::unknown(format!("there is no log{of}{on} in {}", place.display())).into());
    };
    let path = log::path(&log.module, &log.release);
    let (file, _) = root.open_within(&path, LOG).map_err(ExitReason::unknown)?;
    let file = BufReader::new(file.take(LOG));
    let mut text = format!("{} on {}: {}\n", log.module, log.release, root.shown_path(&path).display());
    text += &why_it_failed(context, log, has_error(log));
    text.push('\n');
    let is_paged = !arguments.no_pager && std::io::stdout().is_terminal();
    let pager = if is_paged { pager::start(&context.tools) } else { None };
    let mut read = Ok(());
    let print = |out: &mut dyn Write| print(&text, file, out, &mut read);
    match pager {
        Some(mut pager) => {
            // A pager that is closed before the end of the log is not an error.
            print(&mut pager.input()).ok();
            pager.wait();
        }
        None => answer_by(common.color, print)?,
    }
    if let Err(e) = read {
        tracing::error!("{}", root.read_failed(&path, e));
        return Ok(exit::UNKNOWN);
    }
    Ok(exit::OK)
}

/// The first error of a build that failed, its cause and the next step; nothing of another build.
/// `is_recorded`: the last run recorded an error.
fn why_it_failed(context: &Context, log: &FoundLog, is_recorded: bool) -> String {
    let logged = log::first_error(&context.root, &log.module, &log.release);
    let mut text = String::new();
    if logged.is_none() && !is_recorded {
        return text;
    }
    // What `status` reports of it: the log does not contain all that is known of the cause.
    let document = observe(context);
    let is_it = |m: &&ModuleStatus| m.record.module == log.module && m.record.kernel == log.release;
    let known = document.modules.iter().find(is_it).filter(|m| !m.record.state.is_proven());
    if let Some(error) = known.and_then(|m| m.record.error.as_ref()).or(logged.as_ref()) {
        text += &format!("first error: {}\n", shown(&error.to_string()));
        text.extend(error.context.iter().map(|line| format!("    {}\n", shown(line))));
        text += &format!("cause: {}\n", error.cause.word());
    }
    let step = known.and_then(|m| m.next_step.as_deref());
    text.extend(step.map(|step| format!("next: {}\n", shown(step))));
    text
}

/// Prints the text, and the lines of the log as far as it can be read; `read` is whether that was to its end.
/// Control sequences in the output of compilers and scripts are escaped.
fn print(text: &str, log: impl BufRead, out: &mut dyn Write, read: &mut io::Result<()>) -> io::Result<()> {
    let mut done = out.write_all(text.as_bytes());
    // One byte more than is shown, to notice that the line is longer.
    *read = each_line(log, 4 * LONGEST + 1, |line| {
        let line = String::from_utf8_lossy(line);
        let line = line.split('\t').map(shown).collect::<Vec<_>>().join("\t");
        // The first error is returned.
        if done.is_ok() {
            done = writeln!(out, "{line}");
        }
    });
    done.and_then(|()| out.flush())
}

/// The last log of each module on each kernel.
fn found(root: &Root) -> Result<Vec<FoundLog>, FileError> {
    let mut logs = Vec::new();
    let directories = |path: &str| -> Result<Vec<String>, FileError> {
        let listed = root.list_optional(path)?;
        let directories = listed.iter().filter(|entry| entry.kind == FileKind::Directory);
        Ok(directories.filter_map(|entry| entry.text().map(str::to_owned)).collect())
    };
    for name in directories(LOGS)? {
        for version in directories(&format!("{LOGS}/{name}"))? {
            let directory = format!("{LOGS}/{name}/{version}");
            for file in root.list_optional(&directory)? {
                let Some(release) = file.text().and_then(|text| text.strip_suffix(".log")) else { continue };
                let stat = root.lookup_link(format!("{directory}/{release}.log")).stat();
                if let Some(stat) = stat.filter(|stat| stat.kind == FileKind::File) {
                    let module = ModuleName { name: name.clone(), version: version.clone() };
                    logs.push(FoundLog { module, release: release.to_owned(), written: stat.mtime_ns });
                }
            }
        }
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32))
        }
    }

    #[test]
    fn a_log_that_ends_with_an_error_is_not_a_printer_that_fails() {
        let (mut out, mut read) = (Vec::new(), Ok(()));
        let log = BufReader::new(b"one\ntwo\n".chain(Broken));
        assert!(print("title\n", log, &mut out, &mut read).is_ok());
        assert_eq!(String::from_utf8_lossy(&out), "title\none\ntwo\n");
        assert_eq!(read.err().and_then(|e| e.raw_os_error()), Some(nix::errno::Errno::EIO as i32));
    }
}
