//! The status document as metrics, in the text format that Prometheus and node_exporter's textfile collector
//! read.

use std::fmt::Write;

use crate::dkms::plan::State;
use crate::report::{StatusDocument, Verdict};
use crate::sys::printable::{LONGEST, cut, is_hidden};

const VERDICTS: [Verdict; 8] = [
    Verdict::Healthy,
    Verdict::RebootPending,
    Verdict::Building,
    Verdict::Degraded,
    Verdict::Held,
    Verdict::Unsafe,
    Verdict::Unknown,
    Verdict::NotApplicable,
];

/// All metrics. Each name begins with `clr_dkms_`; numbers are 0 and 1, counts, or seconds since 1970.
pub fn text(document: &StatusDocument) -> String {
    let mut out = String::new();
    family(&mut out, "verdict", "Whether this is the verdict of `clr-dkms status`.", |add| {
        for verdict in VERDICTS {
            add(&[("verdict", &verdict.to_string())], i64::from(verdict == document.verdict));
        }
    });
    family(&mut out, "unsafe", "Whether what boots next is without something that is needed.", |add| {
        add(&[], i64::from(document.verdict == Verdict::Unsafe));
    });
    family(&mut out, "may_reboot", "Whether the machine may be rebooted now.", |add| {
        add(&[], i64::from(document.may_reboot == Some(true)));
    });
    family(&mut out, "reboot_pending", "Whether a reboot is due, and safe.", |add| {
        add(&[], i64::from(document.verdict == Verdict::RebootPending));
    });
    family(&mut out, "kernel_info", "A kernel, and whether it runs or boots next.", |add| {
        for kernel in &document.kernels {
            let (running, next) = (kernel.running.to_string(), kernel.next_boot.to_string());
            add(&[("kernel", &kernel.release), ("running", &running), ("next_boot", &next)], 1);
        }
    });
    family(&mut out, "modules_ready", "Modules that are proven for a kernel.", |add| {
        for kernel in &document.kernels {
            add(&[("kernel", &kernel.release)], count(kernel.modules_ready));
        }
    });
    family(&mut out, "modules_needed", "Modules that should be there for a kernel.", |add| {
        for kernel in &document.kernels {
            add(&[("kernel", &kernel.release)], count(kernel.modules_needed));
        }
    });
    family(&mut out, "module_ok", "Whether a module is proven for a kernel.", |add| {
        for module in &document.modules {
            let of = &module.record;
            let labels = [
                ("module", of.module.name.as_str()),
                ("version", &of.module.version),
                ("kernel", &of.kernel),
                ("state", &of.state.to_string()),
                ("class", &module.class.to_string()),
            ];
            add(&labels, i64::from(of.state == State::Ok));
        }
    });
    family(
        &mut out,
        "held_back",
        "Whether the newest kernel is kept from becoming the boot default.",
        |add| {
            add(&[], i64::from(document.verdict == Verdict::Held));
        },
    );
    if let Some(since) = document.guard.held_since {
        family(&mut out, "held_back_since_timestamp_seconds", "Since when a kernel is held back.", |add| {
            add(&[], since.as_second());
        });
    }
    if let Some(run) = document.last_run {
        family(
            &mut out,
            "last_change_timestamp_seconds",
            "When the last run that found something new began.",
            |add| {
                add(&[], run.as_second());
            },
        );
    }
    out
}

fn count(number: usize) -> i64 {
    // No machine has that many.
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// One metric with its samples. Writing to a string cannot fail.
fn family(
    out: &mut String,
    name: &str,
    help: &str,
    samples: impl FnOnce(&mut dyn FnMut(&[(&str, &str)], i64)),
) {
    // Writing to a String cannot fail, here and below.
    writeln!(out, "# HELP clr_dkms_{name} {help}\n# TYPE clr_dkms_{name} gauge").ok();
    samples(&mut |labels, value| {
        let labels: Vec<String> =
            labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(out, "clr_dkms_{name}{labels} {value}").ok();
    });
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
