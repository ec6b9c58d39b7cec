//! How long the pure parts take: the merge of command lines, and the enforcement verdict. `make bench` runs
//! it.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::hint::black_box;
use std::path::PathBuf;

use clr_dkms::cmdline::sources::{Fragment, RemovalFile};
use clr_dkms::cmdline::{CmdlineSources, merge};
use clr_dkms::enforcement::{Boot, KernelConfig, ModuleKind, Patch, Runtime, SecureBoot, at_boot, now};
use criterion::{Criterion, criterion_group, criterion_main};

const KERNELS: usize = 3;
const FRAGMENTS: usize = 20;

/// What a kernel's line is made of: ten fragments of the vendor, ten of the admin, one masked, one removal.
fn sources(kernel: usize) -> CmdlineSources {
    let fragment = |directory: &str, n: usize| Fragment {
        name: format!("{n:02}.conf").into(),
        path: PathBuf::from(format!("{directory}/{n:02}.conf")),
        bytes: format!("# {n}: why it is there\nkey{n}=value{n} other.key_{n}=\"a b\"\n\nmodule.name{n}\n")
            .into_bytes(),
        mask: None,
    };
    let mut vendor: Vec<Fragment> =
        (0..FRAGMENTS / 2).map(|n| fragment("/usr/share/kernel/cmdline.d", n)).collect();
    vendor[3].mask = Some(clr_dkms::cmdline::sources::Mask::SameName);
    vendor[5].bytes = b"module.sig_unenforce\n".to_vec();
    CmdlineSources {
        kernel: format!("quiet rw loglevel=3 kernel={kernel}\n").into_bytes(),
        kernel_path: PathBuf::from(format!("/usr/lib/kernel/cmdline-6.15.{kernel}-1.native")),
        vendor,
        admin: Some(b"console=ttyS0\n".to_vec()),
        local: (0..FRAGMENTS / 2).map(|n| fragment("/etc/kernel/cmdline.d", n + 50)).collect(),
        removals: vec![RemovalFile {
            path: "/etc/kernel/cmdline-removal.d/a.conf".into(),
            bytes: Some(b"key7=value7\n".to_vec()),
        }],
        ..CmdlineSources::default()
    }
}

fn merging(criterion: &mut Criterion) {
    let all: Vec<CmdlineSources> = (0..KERNELS).map(sources).collect();
    criterion.bench_function("merge, 3 kernels x 20 fragments", |b| {
        b.iter(|| black_box(&all).iter().map(|s| merge(s).line.len()).sum::<usize>());
    });
}

fn verdict(criterion: &mut Criterion) {
    let line = merge(&sources(0)).line;
    // As long as a kernel's own configuration, which has some 10,000 lines.
    let mut text: String =
        (0..10_000).map(|n| format!("CONFIG_OPTION_{n}=m\n# CONFIG_NOT_{n} is not set\n")).collect();
    text += "CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n";
    let config = KernelConfig::parse(text.as_bytes()).unwrap();
    let boot = Boot {
        line: &line,
        config: Some(&config),
        patch: Patch::V2,
        secure_boot: SecureBoot::Off,
        version: Some([6, 15, 7]),
        ima_policy: false,
    };
    let runtime = Runtime {
        sig_enforce: Some(true),
        sig_unenforce: Some(Some(true)),
        modules_disabled: Some(false),
        locked: Some(false),
        ima: Some(false),
    };
    criterion
        .bench_function("verdict at boot", |b| b.iter(|| at_boot(black_box(&boot)).of(ModuleKind::Unsigned)));
    criterion.bench_function("verdict now", |b| {
        b.iter(|| now(black_box(&boot), &runtime).of(ModuleKind::Unsigned))
    });
    criterion.bench_function("kernel configuration of 20,000 lines", |b| {
        b.iter(|| KernelConfig::parse(black_box(text.as_bytes())));
    });
}

criterion_group!(benches, merging, verdict);
criterion_main!(benches);
