//! The screens of `clr-dkms export` and `clr-dkms import`.

use super::add::{step, text};
use super::broken;
use crate::report::transfer::{ExportDocument, ImportedArchive};

/// What was exported, or would be.
pub fn exported(document: &ExportDocument) -> String {
    let ExportDocument { name, version, file, source_files, kernels, written, .. } = document;
    let mut out = broken(&format!("{name}/{version}, {source_files} files"), "source    ", "          ");
    for kernel in kernels {
        let what = match (&kernel.reason, written) {
            (Some(reason), _) => format!("left out: {reason}"),
            (None, _) => "proven".to_owned(),
        };
        out.extend(broken(&format!("{}: {what}", kernel.kernel), "kernel    ", "          "));
    }
    let what = if *written { "written" } else { "not written: this is only a look" };
    out.extend(broken(&format!("{file}: {what}"), "archive   ", "          "));
    text(&out)
}

/// What was found out about an archive before anything is installed: its first `steps` steps.
pub fn checked(archive: &ImportedArchive) -> String {
    let mut out = title(archive);
    out.extend(archive.steps.iter().flat_map(step));
    // The owner of a key answers for it.
    if let (Some(conf), None) = (&archive.dkms_conf, &archive.key) {
        out.push("          its dkms.conf:".to_owned());
        out.extend(conf.lines().map(|line| format!("            {line}")));
    }
    text(&out)
}

/// What became of it: the steps from that one on, and what takes it all back.
pub fn imported(archive: &ImportedArchive, from: usize) -> String {
    if archive.steps.len() == from && archive.undo.is_none() {
        return String::new();
    }
    let mut out = title(archive);
    out.extend(archive.steps.iter().skip(from).flat_map(step));
    out.extend(archive.undo.iter().map(|undo| format!("undo: {undo}")));
    text(&out)
}

fn title(archive: &ImportedArchive) -> Vec<String> {
    let module = match (&archive.name, &archive.version) {
        (Some(name), Some(version)) => format!("{name}/{version} in {}", archive.file),
        _ => archive.file.clone(),
    };
    broken(&module, "archive   ", "          ")
}
