//! The screens of `clr-dkms export` and `clr-dkms import`.

use super::add::{line, step};
use super::style::{ScreenStyle, StyledLine, Tone, painted, plain};
use crate::report::transfer::{ExportDocument, ImportedArchive};

/// What was exported, or would be.
pub fn exported(document: &ExportDocument, style: &ScreenStyle) -> String {
    let ExportDocument { name, version, file, source_files, kernels, written, .. } = document;
    let source = format!("{name}/{version}, {source_files} files");
    let mut out = line(Some(Tone::Good), "source", &source, style);
    for kernel in kernels {
        let (tone, what) = match &kernel.reason {
            Some(reason) => (Tone::Attention, format!("left out: {reason}")),
            None => (Tone::Good, "proven".to_owned()),
        };
        out.extend(line(Some(tone), "kernel", &format!("{}: {what}", kernel.kernel), style));
    }
    let (tone, what) = match written {
        true => (Tone::Good, "written"),
        false => (Tone::Plain, "not written: this is only a look"),
    };
    out.extend(line(Some(tone), "archive", &format!("{file}: {what}"), style));
    painted(&out, style)
}

/// What was found out about an archive before anything is installed: its first `steps` steps.
pub fn checked(archive: &ImportedArchive, style: &ScreenStyle) -> String {
    let mut out = title(archive, style);
    out.extend(archive.steps.iter().flat_map(|one| step(one, style)));
    // The owner of a key answers for it.
    if let (Some(conf), None) = (&archive.dkms_conf, &archive.key) {
        out.push(vec![plain("            its dkms.conf:")]);
        out.extend(conf.lines().map(|line| vec![plain(format!("              {line}"))]));
    }
    painted(&out, style)
}

/// What became of it: the steps from that one on, and what takes it all back.
pub fn imported(archive: &ImportedArchive, from: usize, style: &ScreenStyle) -> String {
    if archive.steps.len() == from && archive.undo.is_none() {
        return String::new();
    }
    let mut out = title(archive, style);
    out.extend(archive.steps.iter().skip(from).flat_map(|one| step(one, style)));
    out.extend(archive.undo.iter().map(|undo| vec![plain(format!("undo: {undo}"))]));
    painted(&out, style)
}

fn title(archive: &ImportedArchive, style: &ScreenStyle) -> Vec<StyledLine> {
    let module = match (&archive.name, &archive.version) {
        (Some(name), Some(version)) => format!("{name}/{version} in {}", archive.file),
        _ => archive.file.clone(),
    };
    line(None, "archive", &module, style)
}
