//! Files that are too large, or unpack to too much: each program stays below 64 MiB, says which file it is
//! and what the limit is, and takes nothing for absent. Large files of real machines are judged all the same.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use clr_dkms::initrd::{FoundInInitrd, InitrdContents};
use clr_dkms::kernel::module_image::WHOLE;

use crate::initrd::cpio;
use crate::support::guard::ID_A;
use crate::support::{A, B, Run, TestRoot, elf};

const MIB: u64 = 1 << 20;

/// Blocks of zstd, each of them one byte that stands for 128 KiB.
fn bomb(window: u8, mebibytes: usize) -> Vec<u8> {
    let block = |last: u32| [&((128u32 << 10) << 3 | 1 << 1 | last).to_le_bytes()[..3], b"\0"].concat();
    let blocks = block(0).repeat(8 * mebibytes - 1);
    [b"\x28\xb5\x2f\xfd\0", &[window][..], &blocks, &block(1)].concat()
}

/// A run, and its peak of memory in bytes. The peak of a process counts from before it became our program, so
/// it is started by a small one.
fn measured(root: &TestRoot, name: &str, arguments: &[&str]) -> Option<(Run, u64)> {
    let script = "import os, sys\n\
                  pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)\n\
                  _, status, usage = os.wait4(pid, 0)\n\
                  print('peak', usage.ru_maxrss, file=sys.stderr)\n\
                  sys.exit(os.waitstatus_to_exitcode(status))";
    let plain = root.command(name, arguments);
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(plain.get_program()).args(plain.get_args());
    for (variable, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    let Ok(output) = command.output() else {
        crate::support::run::skipped("there is no python3");
        return None;
    };
    let run = Run::of(output, root);
    let (_, peak) = run.stderr.trim_end().rsplit_once("peak ").expect("the script prints it");
    let peak: u64 = peak.parse().unwrap();
    Some((run, peak << 10))
}

fn sparse(root: &TestRoot, path: &str, size: u64) {
    root.file(path, "");
    File::options().write(true).open(root.at(path)).unwrap().set_len(size).unwrap();
}

fn machine() -> TestRoot {
    let root = TestRoot::proven();
    root.file(
        &format!("usr/lib/modules/{A}/build/Module.symvers"),
        "0x00000007\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n",
    );
    root
}

/// What lies there is larger than anything of its kind: `status` reports it as unknown, with the file and the
/// limit.
#[test]
fn what_is_too_large_is_unknown() {
    let modules = format!("usr/lib/modules/{A}");
    let table = [
        ("usr/src/hello-1.0/dkms.conf".to_owned(), "1 MiB"),
        (format!("{modules}/modules.dep"), "4 MiB"),
        (format!("{modules}/modules.dep.bin"), "6 MiB"),
        (format!("{modules}/build/Module.symvers"), "6 MiB"),
        (format!("usr/lib/kernel/config-{A}"), "1 MiB"),
        ("boot/loader/loader.conf".to_owned(), "1 MiB"),
        ("proc/modules".to_owned(), "512 KiB"),
        ("var/lib/clr-dkms/last-run.json".to_owned(), "4 MiB"),
        (TestRoot::ko("hello", A), "512 MiB"),
        ("etc/modprobe.d/x.conf".to_owned(), "256 KiB"),
        ("etc/kernel/cmdline.d/x.conf".to_owned(), "128 KiB"),
        (format!("etc/kernel/initrd-{ID_A}"), "2048 MiB"),
    ];
    for (path, limit) in table {
        let root = machine();
        sparse(&root, &path, 3 << 30);
        let Some((run, peak)) = measured(&root, "clr-dkms", &["status", "--json"]) else { return };
        let text = run.json().to_string();
        assert!(peak < 64 * MIB, "{path}: {} MiB", peak / MIB);
        // A symlink may lead there.
        let name = path.rsplit('/').next().unwrap();
        assert!(text.contains(&format!("/{name}: it is larger than {limit}")), "{path}: {text}");
        assert_ne!(run.code, 0, "{path}");
    }
}

#[test]
fn what_unpacks_to_too_much_is_unknown() {
    // A window of 128 KiB, and one of 128 MiB.
    for (ending, bytes) in [(".zst", bomb(0x38, 520)), (".zst", bomb(0x88, 520))] {
        let root = machine();
        let ko = TestRoot::ko("hello", B);
        root.remove(&ko).file(&format!("{ko}{ending}"), bytes);
        let Some((run, peak)) = measured(&root, "clr-dkms", &["status", "--json"]) else { return };
        assert!(peak < 64 * MIB, "{} MiB", peak / MIB);
        let document = run.json();
        let text = document.to_string();
        let limits = ["it is larger than 512 MiB", "zstd: it takes more than 15 MiB of memory to unpack"];
        let is_said = limits.iter().any(|limit| text.contains(&format!("hello.ko{ending}: {limit}")));
        assert!(is_said && run.code == 3, "{}: {}", run.code, document["modules"]);
    }
}

/// To unpack so much takes seconds. What the last run knows is not found out once more by each `status`.
#[test]
fn a_file_that_is_too_large_is_unpacked_once() {
    let root = machine();
    let ko = TestRoot::ko("hello", B);
    let packed = format!("{ko}.zst");
    root.remove(&ko).file(&packed, bomb(0x38, 520));
    let reason = || {
        let document = root.run("clr-dkms", &["status", "--json"]).code(3).json();
        let modules = document["modules"].as_array().unwrap();
        let module = modules.iter().find(|m| m["name"] == "hello" && m["kernel"] == B).unwrap();
        module["reason"].as_str().unwrap().to_owned()
    };
    let cache = "var/cache/clr-dkms/facts.json";
    root.post_update().says(&["it is larger than 512 MiB"]);
    let known = root.text(cache);
    root.file(cache, known.replace("it is larger than 512 MiB", "known from before"));
    assert!(reason().contains("known from before"), "{}", reason());
    // Another file, of the same size.
    root.file(&packed, bomb(0x38, 520));
    assert!(reason().contains("it is larger than 512 MiB"), "{}", reason());
}

#[test]
fn a_directory_of_too_many_entries_is_unknown() {
    let root = machine();
    root.directory("etc/modprobe.d");
    for number in 0..70_000 {
        std::os::unix::fs::symlink("x", root.at(&format!("etc/modprobe.d/{number}"))).unwrap();
    }
    let Some((run, peak)) = measured(&root, "clr-dkms", &["status", "--json"]) else { return };
    assert!(peak < 64 * MIB, "{} MiB", peak / MIB);
    assert!(run.json().to_string().contains("etc/modprobe.d: it has more than 65536 entries"), "{run:?}");
}

#[test]
fn a_large_module_is_judged() {
    let root = machine();
    let bytes = elf::with_filling(A, 3 * usize::try_from(WHOLE).unwrap());
    let packed = {
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(&bytes).unwrap();
        zipped.finish().unwrap()
    };
    let ko = TestRoot::ko("hello", A);
    let dep = root.text(&format!("usr/lib/modules/{A}/modules.dep"));
    for (ending, bytes) in [("", &bytes), (".gz", &packed)] {
        root.remove(&ko).file(&format!("{ko}{ending}"), bytes);
        let built = format!("{}/module", TestRoot::build("hello", "1.0", A));
        root.remove(&built).file(&format!("{built}/hello.ko{ending}"), bytes);
        root.index(A, &dep.replace("hello.ko:", &format!("hello.ko{ending}:")));
        let Some((run, peak)) = measured(&root, "clr-dkms", &["status", "--json"]) else { return };
        assert!(peak < 64 * MIB, "{} MiB", peak / MIB);
        let document = run.json();
        let modules = document["modules"].as_array().unwrap();
        let of_a = modules.iter().find(|module| module["kernel"] == A).unwrap();
        assert_eq!(
            (&of_a["state"], &of_a["files"][0]["size"]),
            (&"ok".into(), &bytes.len().into()),
            "{of_a:#}"
        );
    }
}

/// Several large modules in an archive: they are read one after the other.
#[test]
fn large_modules_in_an_initrd_are_found() {
    let path = |name: &str| format!("usr/lib/modules/{A}/updates/dkms/{name}.ko");
    let large = elf::with_filling(A, 9 << 20);
    let small = elf::module(A);
    let archive = cpio(&[
        (&path("one"), &large),
        (&path("small"), &small),
        (&path("two"), &large),
        (&path("three"), &large),
    ]);
    let names = ["one", "two", "three", "small"];
    let contents = InitrdContents::read(&archive, &names.iter().map(|name| (*name).to_owned()).collect());
    for name in names {
        let FoundInInitrd::Module(module) = contents.find(A, name) else { panic!("{name}: {contents:?}") };
        let build = module.build.clone().unwrap().unwrap();
        assert!(build.vermagic.unwrap().starts_with(A), "{name}");
    }
}

/// The kernel passes over NUL bytes between archives: a gigabyte of them is read within the time that an
/// initrd may take.
#[test]
fn padding_takes_no_time() {
    let contents = InitrdContents::read(&bomb(0x38, 1024), &["one".to_owned()].into());
    assert_eq!(contents.unknown(), None);
}
