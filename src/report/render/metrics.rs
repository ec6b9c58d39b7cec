//! The status document as metrics, in the text format that Prometheus and node_exporter's textfile collector
//! read.

use std::fmt::Write;

use strum::VariantArray;

use crate::dkms::plan::State;
use crate::report::{KernelStatus, StatusDocument, Verdict};
use crate::sys::printable::{LONGEST, cut, is_hidden};

/// The labels of a sample, and its value.
type Sample = (Vec<(&'static str, String)>, i64);

/// All metrics. Each name begins with `clr_dkms_`; numbers are 0 and 1, counts, or seconds since 1970.
pub fn text(document: &StatusDocument) -> String {
    let mut out = String::new();
    let mut family = |name: &str, help: &str, samples: Vec<Sample>| family(&mut out, name, help, &samples);
    let is = |verdict: Verdict| i64::from(document.verdict == verdict);
    let one = |value: i64| vec![(Vec::new(), value)];
    let verdict = |verdict: &Verdict| (vec![("verdict", verdict.to_string())], is(*verdict));
    let verdicts = Verdict::VARIANTS.iter().map(verdict).collect();
    family("verdict", "Whether this is the verdict of `clr-dkms status`.", verdicts);
    let help = "Whether what boots next is without something that is needed.";
    family("unsafe", help, one(is(Verdict::Unsafe)));
    let may_reboot = i64::from(document.may_reboot == Some(true));
    family("may_reboot", "Whether the machine may be rebooted now.", one(may_reboot));
    family("reboot_pending", "Whether a reboot is due, and safe.", one(is(Verdict::RebootPending)));
    let kernel = |k: &KernelStatus| {
        let roles = [("running", k.running.to_string()), ("next_boot", k.next_boot.to_string())];
        ([("kernel", k.release.clone())].into_iter().chain(roles).collect(), 1)
    };
    let kernels = document.kernels.iter().map(kernel).collect();
    family("kernel_info", "A kernel, and whether it runs or boots next.", kernels);
    let modules = |number: fn(&KernelStatus) -> usize| -> Vec<Sample> {
        let kernels = document.kernels.iter();
        kernels.map(|k| (vec![("kernel", k.release.clone())], count(number(k)))).collect()
    };
    let ready = modules(|kernel| kernel.modules_ready);
    family("modules_ready", "Modules that are proven for a kernel.", ready);
    let needed = modules(|kernel| kernel.modules_needed);
    family("modules_needed", "Modules that should be there for a kernel.", needed);
    let modules = document.modules.iter().map(|module| {
        let of = &module.record;
        let labels = vec![
            ("module", of.module.name.clone()),
            ("version", of.module.version.clone()),
            ("kernel", of.kernel.clone()),
            ("state", of.state.to_string()),
            ("class", module.class.to_string()),
        ];
        (labels, i64::from(of.state == State::Ok))
    });
    family("module_ok", "Whether a module is proven for a kernel.", modules.collect());
    let help = "Whether the newest kernel is kept from becoming the boot default.";
    family("held_back", help, one(is(Verdict::Held)));
    if let Some(since) = document.guard.held_since {
        let help = "Since when a kernel is held back.";
        family("held_back_since_timestamp_seconds", help, one(since.as_second()));
    }
    if let Some(run) = document.last_run {
        let help = "When the last run that found something new began.";
        family("last_change_timestamp_seconds", help, one(run.as_second()));
    }
    out
}

fn count(number: usize) -> i64 {
    // No machine has that many.
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// One metric with its samples.
fn family(out: &mut String, name: &str, help: &str, samples: &[Sample]) {
    // Writing to a String cannot fail, here and below.
    writeln!(out, "# HELP clr_dkms_{name} {help}\n# TYPE clr_dkms_{name} gauge").ok();
    for (labels, value) in samples {
        let labels: Vec<String> =
            labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // As above.
        writeln!(out, "clr_dkms_{name}{labels} {value}").ok();
    }
}

/// Backslash, quote and newline are written as the format wants them; what else must not reach a screen it
/// would take as it is.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in cut(text, LONGEST).chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if is_hidden(c) => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd\u{1b}"), "a\\\"b\\\\c\\nd?");
    }
}
