//! What prevents a requested change of `module.sig_unenforce`, and the command that would remove it.
//!
//! Each blocker is found by experiment: the line is merged again without it.

use std::path::{Path, PathBuf};

use super::PARAMETER;
use super::merge::{CmdlineWord, Effect, WordOrigin, contents, effective, merge};
use super::parameter::{KernelArguments, LINE_LIMIT, Switch, written_switch};
use super::sources::{ADMIN, CmdlineSources, Fragment, LOCAL, REMOVALS, VENDOR};
use crate::sys::{FileKind, Root, RootKind, shell};

/// The most blockers of one line that are reported.
const MOST: usize = 16;

/// A file or a line that prevents the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CmdlineBlocker {
    /// The file inside the root.
    pub path: PathBuf,
    /// The line number, if one line is the cause.
    pub line: Option<usize>,
    /// What it does.
    pub what: String,
    /// What an admin can do.
    pub clear: Clear,
}

/// The way to remove a blocker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clear {
    /// Delete the file.
    Remove,
    /// Change lines, given by their numbers. A vendor file is not changed: a changed copy in `/etc` replaces
    /// it.
    Edit(Vec<(usize, Edit)>),
    /// Remove these bytes from the line with a removal file.
    TakeOut(Vec<u8>),
    /// A verb of `clr-dkms-cmdline`.
    Verb(&'static str),
    /// Nothing clears it; `clr-dkms-cmdline show` has the details.
    Show,
}

/// A change of one line of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// Turn it into a comment.
    Comment,
    /// Close the quote that it opens.
    CloseQuote,
    /// Remove the word `--`.
    DropDashes,
    /// Remove its NUL bytes.
    DropNul,
    /// Remove the parameter.
    DropParameter,
}

impl Edit {
    /// The script for `sed -E`.
    fn script(self) -> &'static str {
        match self {
            Edit::Comment => "s/^/# /",
            Edit::CloseQuote => "s/$/\"/",
            Edit::DropDashes => "s/(^|\\s)\"?--\"?(\\s|$)/\\1\\2/",
            Edit::DropNul => "s/\\x00//g",
            Edit::DropParameter => {
                "s/(^|\\s)\"?module[.]sig[-_]unenforce(=\"[^\"]*\"|=\\S*)?\"?(\\s|$)/\\1\\3/g"
            }
        }
    }

    /// The changed line. [`Edit::DropParameter`] is only suggested, never tried.
    fn of(self, line: &[u8]) -> Vec<u8> {
        match self {
            Edit::Comment => [b"# ".as_slice(), line].concat(),
            Edit::CloseQuote => [line, b"\""].concat(),
            Edit::DropNul => line.iter().copied().filter(|b| *b != 0).collect(),
            Edit::DropDashes => {
                let words = super::parameter::spans(line);
                match words.into_iter().find(|w| is_dashes(&line[w.clone()])) {
                    Some(w) => [&line[..w.start], &line[w.end..]].concat(),
                    None => line.to_vec(),
                }
            }
            Edit::DropParameter => line.to_vec(),
        }
    }
}

impl CmdlineBlocker {
    /// A sentence for people, with paths on the host, because a command for an image must not change the
    /// host.
    pub fn message(&self, root: &Root) -> String {
        let path = root.shown_path(&self.path);
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line} {}; to change that: `{}`", path.display(), self.what, self.command(root))
    }

    /// The command that removes the blocker.
    pub fn command(&self, root: &Root) -> String {
        let path = quoted(&root.shown_path(&self.path));
        match &self.clear {
            // A directory may contain files that are worth keeping.
            Clear::Remove if root.lookup_link(&self.path).is(FileKind::Directory) => {
                format!("sudo mv {path} {path}.off")
            }
            Clear::Remove => format!("sudo rm {path}"),
            Clear::Edit(edits) => {
                let scripts = edits.iter().map(|(line, edit)| format!("{line}{}", edit.script()));
                let script = format!("'{}'", scripts.collect::<Vec<_>>().join(";"));
                match (self.path.starts_with(VENDOR), self.path.file_name()) {
                    (true, Some(name)) => {
                        let (directory, copy) =
                            (root.shown_path(LOCAL), root.shown_path(Path::new(LOCAL).join(name)));
                        let (directory, copy) = (quoted(&directory), quoted(&copy));
                        format!(
                            "sudo mkdir -p {directory} && sed -E {script} {path} | sudo tee {copy} >/dev/null"
                        )
                    }
                    _ => format!("sudo sed -i -E {script} {path}"),
                }
            }
            Clear::TakeOut(bytes) => {
                let file = Path::new(REMOVALS).join("no-sig-unenforce.conf");
                let (directory, file) = (quoted(&root.shown_path(REMOVALS)), quoted(&root.shown_path(file)));
                let text = quoted(Path::new(&*String::from_utf8_lossy(bytes)));
                format!("sudo mkdir -p {directory} && printf '%s\\n' {text} | sudo tee -a {file} >/dev/null")
            }
            Clear::Verb(verb) => format!("sudo {}", own_command(root, verb)),
            Clear::Show => own_command(root, "show"),
        }
    }
}

/// A verb of clr-dkms-cmdline for a root.
fn own_command(root: &Root, verb: &str) -> String {
    let path = quoted(root.path());
    match root.kind() {
        RootKind::Live => format!("clr-dkms-cmdline {verb}"),
        RootKind::Image => format!("clr-dkms-cmdline {verb} --root {path}"),
        RootKind::LiveCopy => format!("clr-dkms-cmdline {verb} --live-root {path}"),
    }
}

/// Combines the edits of a vendor file. Each command creates the changed copy again, so it must include the
/// edits of the earlier commands.
pub(super) fn gather(blockers: &mut [CmdlineBlocker]) {
    for at in 1..blockers.len() {
        let (before, rest) = blockers.split_at_mut(at);
        let CmdlineBlocker { path, clear: Clear::Edit(edits), .. } = &mut rest[0] else { continue };
        if let Some(Clear::Edit(earlier)) =
            before.iter().rev().find(|o| o.path == *path && path.starts_with(VENDOR)).map(|o| &o.clear)
        {
            let new: Vec<_> = edits.iter().filter(|e| !earlier.contains(e)).copied().collect();
            *edits = earlier.iter().copied().chain(new).collect();
        }
    }
}

/// A path for a shell.
fn quoted(path: &Path) -> String {
    shell::quoted(&path.to_string_lossy())
}

/// The sources as the running system reads them. The characters of glob(7) matter only to a clr-boot-manager
/// that is given a path.
pub(super) fn seen(sources: &CmdlineSources) -> CmdlineSources {
    CmdlineSources { glob_blind: false, ..sources.copy() }
}

/// The value of the parameter on the line that results from these files.
pub(super) fn is_now(sources: &CmdlineSources) -> Switch {
    KernelArguments::read(&effective(&seen(sources))).switch(PARAMETER, sources.dialect)
}

/// The value of the parameter in one file.
pub(super) fn switch_of(bytes: &[u8]) -> Switch {
    written_switch(&contents(bytes), PARAMETER)
}

/// Without the fragment only the parameter would be lost.
pub(super) fn holds_only_the_parameter(fragment: &Fragment) -> bool {
    let line = contents(&fragment.bytes);
    super::parameter::spans(&line).into_iter().all(|w| written_switch(&line[w], PARAMETER) != Switch::Off)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_dashes(word: &[u8]) -> bool {
    word == b"--" || word == b"\"--\""
}

/// What makes a configured parameter ineffective: removals of it or of a part of a neighbouring word, and
/// whatever ends the part of the line that the kernel reads.
pub(super) fn blockers(sources: &CmdlineSources) -> Vec<CmdlineBlocker> {
    let mut sources = seen(sources);
    let mut found = Vec::new();
    while is_now(&sources) != Switch::On && found.len() < MOST {
        let culprits = culprits(&sources);
        if !culprits.is_empty() {
            found.extend(culprits.iter().map(|by| removal(&sources, by, &culprits)));
            return found;
        }
        let Some((origin, edit, what)) = end(&without(&sources, &every_removal(&sources))) else {
            found.push(length(&sources));
            break;
        };
        change(&mut sources, &origin, edit);
        found.push(CmdlineBlocker {
            path: origin.path,
            line: Some(origin.line),
            what,
            clear: Clear::Edit(vec![(origin.line, edit)]),
        });
    }
    found
}

fn every_removal(sources: &CmdlineSources) -> Vec<WordOrigin> {
    merge(sources).removed.into_iter().map(|r| r.by).collect()
}

/// The smallest set of removal lines without which the parameter is effective. None if removals are not the
/// cause.
fn culprits(sources: &CmdlineSources) -> Vec<WordOrigin> {
    let mut culprits = every_removal(sources);
    if culprits.is_empty() || is_now(&without(sources, &culprits)) != Switch::On {
        return Vec::new();
    }
    let mut at = 0;
    while at < culprits.len() {
        let one = culprits.remove(at);
        if is_now(&without(sources, &culprits)) != Switch::On {
            culprits.insert(at, one);
            at += 1;
        }
    }
    culprits
}

fn without(sources: &CmdlineSources, lines: &[WordOrigin]) -> CmdlineSources {
    let mut sources = sources.copy();
    for line in lines {
        change(&mut sources, line, Edit::Comment);
    }
    sources
}

/// Changes one line of one file.
fn change(sources: &mut CmdlineSources, at: &WordOrigin, edit: Edit) {
    let fragments = sources.vendor.iter_mut().chain(&mut sources.local).map(|f| (&f.path, &mut f.bytes));
    let removals = sources.removals.iter_mut().filter_map(|r| Some((&r.path, r.bytes.as_mut()?)));
    let mut files = fragments.chain(removals);
    let bytes = match files.find(|(path, _)| **path == at.path) {
        Some((_, bytes)) => bytes,
        None if at.path == Path::new(ADMIN) => sources.admin.get_or_insert_default(),
        None => &mut sources.kernel,
    };
    let lines = bytes.split(|b| *b == b'\n').enumerate();
    let lines = lines.map(|(n, line)| if n + 1 == at.line { edit.of(line) } else { line.to_vec() });
    *bytes = lines.collect::<Vec<_>>().join(&b'\n');
}

/// The blocker for a removal line. Its effect shows when the other culprits are removed.
fn removal(sources: &CmdlineSources, by: &WordOrigin, culprits: &[WordOrigin]) -> CmdlineBlocker {
    let others: Vec<WordOrigin> = culprits.iter().filter(|o| *o != by).cloned().collect();
    let merged = merge(&without(sources, &others));
    let removed = merged.removed.iter().find(|r| r.by == *by);
    let is_ours = |word: &CmdlineWord| written_switch(&word.bytes, PARAMETER) == Switch::On;
    let what = match removed.map(|r| &r.effect) {
        Some(Effect::Took(words)) if words.iter().any(is_ours) => {
            format!("removes {PARAMETER} from the line")
        }
        Some(Effect::TookPart { of, left }) => {
            let of = of.iter().map(|w| text(&w.bytes)).collect::<Vec<_>>().join(" ");
            format!("removes a part of {of} from the line and leaves {}", text(left))
        }
        _ => format!("keeps {PARAMETER} from being effective"),
    };
    let said = removed.map(|r| format!(" (\"{}\")", text(&r.text))).unwrap_or_default();
    CmdlineBlocker {
        path: by.path.clone(),
        line: Some(by.line),
        what: format!("{what}{said}"),
        clear: Clear::Edit(vec![(by.line, Edit::Comment)]),
    }
}

/// What makes the kernel, or clr-boot-manager, stop reading the line.
fn end(sources: &CmdlineSources) -> Option<(WordOrigin, Edit, String)> {
    let merged = merge(sources);
    let shown = |word: &CmdlineWord| -> String { text(&word.bytes).chars().take(40).collect() };
    for word in &merged.words {
        let Some(origin) = word.origins.first() else { continue };
        let deaf = |why: String| format!("has {why}, after which the kernel reads no parameters");
        if is_dashes(&word.bytes) {
            return Some((origin.clone(), Edit::DropDashes, deaf("the word --".to_owned())));
        }
        if word.bytes.iter().filter(|b| **b == b'"').count() % 2 == 1 {
            let why = format!("a quote that is not closed, in {}", shown(word));
            return Some((origin.clone(), Edit::CloseQuote, deaf(why)));
        }
        // Without removals, only an open quote joins words of several lines. The next quote would close it
        // after our parameter.
        if word.origins.len() > 1 && memchr::memmem::find(&word.bytes, PARAMETER.as_bytes()).is_some() {
            let what = format!("opens a quote that is not closed before {PARAMETER}, in {}", shown(word));
            return Some((origin.clone(), Edit::CloseQuote, what));
        }
    }
    // A NUL byte in the kernel's own line cuts off only that line.
    let cut = merged.cut_at.into_iter().find(|o| o.path != sources.kernel_path)?;
    Some((cut, Edit::DropNul, "has a NUL byte, behind which every fragment is cut off".to_owned()))
}

/// The blocker of a line that is too long, if nothing else ends it too early.
fn length(sources: &CmdlineSources) -> CmdlineBlocker {
    let merged = merge(sources);
    let bytes_of = |path: &Path| -> usize {
        let of_it = merged.pieces.iter().filter(|p| p.origin.as_ref().is_some_and(|o| o.path == path));
        of_it.map(|p| p.bytes.len()).sum()
    };
    let paths = merged.pieces.iter().filter_map(|p| Some(p.origin.as_ref()?.path.clone()));
    let path = paths.max_by_key(|path| bytes_of(path)).unwrap_or_else(|| sources.kernel_path.clone());
    let what = match merged.line.len() {
        all if all > LINE_LIMIT => {
            let own = bytes_of(&path);
            format!("has {own} of the {all} bytes of a line of which the kernel reads {LINE_LIMIT}")
        }
        _ => format!("and the other files do not give a line with {PARAMETER}"),
    };
    CmdlineBlocker { path, line: None, what, clear: Clear::Show }
}

/// What sets the parameter, if it is not a file of clr-dkms.
pub(super) fn setters(sources: &CmdlineSources) -> Vec<CmdlineBlocker> {
    let merged = merge(&seen(sources));
    let sets =
        |w: &CmdlineWord| KernelArguments::read(&w.bytes).switch(PARAMETER, sources.dialect) != Switch::Off;
    let mut found = Vec::new();
    for word in merged.words.iter().filter(|w| sets(w)) {
        found.extend(word.origins.iter().map(|origin| setter(sources, word, origin)));
    }
    if found.is_empty() {
        found.push(length(sources));
    }
    found
}

fn setter(sources: &CmdlineSources, word: &CmdlineWord, origin: &WordOrigin) -> CmdlineBlocker {
    let is_it = |f: &&Fragment| f.path == origin.path;
    let blocker = |what: String, clear| CmdlineBlocker {
        path: origin.path.clone(),
        line: Some(origin.line),
        what,
        clear,
    };
    if word.origins.len() > 1 {
        let what = format!("has a part of {}, which a removal has glued together", text(&word.bytes));
        return blocker(what, Clear::Show);
    }
    if memchr::memmem::find(&word.bytes, b"unenforce").is_none() {
        let what = format!(
            "has {}: whether an initrd then sets {PARAMETER} cannot be determined",
            text(&word.bytes)
        );
        return blocker(what, Clear::Show);
    }
    if origin.path == sources.kernel_path {
        let what = format!("is the kernel's own line, and sets {PARAMETER}");
        return blocker(what, Clear::TakeOut(word.bytes.clone()));
    }
    let drop = || Clear::Edit(vec![(origin.line, Edit::DropParameter)]);
    if sources.vendor.iter().any(|f| is_it(&f)) {
        let what = format!("sets {PARAMETER} beside other words, which a mask would take away too");
        return blocker(what, drop());
    }
    let whole = sources.local.iter().find(is_it).is_some_and(holds_only_the_parameter);
    let clear = if whole { Clear::Remove } else { drop() };
    blocker(format!("sets {PARAMETER}, and is not ours"), clear)
}
