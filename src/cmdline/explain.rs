//! Sentences that explain why `module.sig_unenforce` is on a configured line, or why it is not.

use super::PARAMETER;
use super::merge::{CmdlineWord, Effect, Merged, contents};
use super::parameter::{Switch, written_switch};
use super::sources::{CmdlineSources, Fragment, LOCAL, Mask};

/// Composes the sentences. None if no file names the parameter.
pub fn explain(sources: &CmdlineSources, merged: &Merged) -> Vec<String> {
    let sets = |word: &CmdlineWord| written_switch(&word.bytes, PARAMETER) == Switch::On;
    let places =
        |word: &CmdlineWord| word.origins.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let mut sentences: Vec<String> = merged
        .words
        .iter()
        .filter(|w| sets(w))
        .map(|w| format!("{PARAMETER} comes from {}", places(w)))
        .collect();
    for removed in &merged.removed {
        let (words, what) = match &removed.effect {
            Effect::Took(words) => (words, "removes it"),
            Effect::TookPart { of, .. } => (of, "removes a part of it"),
            Effect::NotThere | Effect::NotAtAnEnd => continue,
        };
        sentences.extend(
            words
                .iter()
                .filter(|w| sets(w))
                .map(|w| format!("{} sets {PARAMETER}, and {} {what}", places(w), removed.by)),
        );
    }
    let masked = sources.vendor.iter().filter(|f| f.mask == Some(Mask::SameName) && is_setting(f));
    sentences.extend(masked.map(|f| {
        format!(
            "{} sets {PARAMETER}, and is masked by {LOCAL}/{}",
            f.path.display(),
            f.name.to_string_lossy()
        )
    }));
    sentences
}

fn is_setting(fragment: &Fragment) -> bool {
    written_switch(&contents(&fragment.bytes), PARAMETER) == Switch::On
}

#[cfg(test)]
mod tests {
    use super::super::merge::merge;
    use super::super::sources::RemovalFile;
    use super::*;

    #[test]
    fn who_set_it_and_who_took_it_away() {
        let fragment = |mask| Fragment {
            name: "v.conf".into(),
            path: "/usr/share/kernel/cmdline.d/v.conf".into(),
            bytes: b"# why\nmodule.sig_unenforce\n".to_vec(),
            mask,
        };
        let sentences = |sources: &CmdlineSources| explain(sources, &merge(sources));
        let mut sources = CmdlineSources { vendor: vec![fragment(None)], ..CmdlineSources::default() };
        assert_eq!(
            sentences(&sources),
            ["module.sig_unenforce comes from /usr/share/kernel/cmdline.d/v.conf:2"]
        );
        sources
            .removals
            .push(RemovalFile { path: "/r.conf".into(), bytes: Some(b"sig_unenforce\n".to_vec()) });
        let part = "/usr/share/kernel/cmdline.d/v.conf:2 sets module.sig_unenforce, and /r.conf:1 removes a part of it";
        assert_eq!(sentences(&sources), [part]);
        sources.vendor = vec![fragment(Some(Mask::SameName))];
        let masked = "/usr/share/kernel/cmdline.d/v.conf sets module.sig_unenforce, and is masked by /etc/kernel/cmdline.d/v.conf";
        assert_eq!(sentences(&sources), [masked]);
        sources.vendor.clear();
        assert_eq!(sentences(&sources), [""; 0]);
    }
}
