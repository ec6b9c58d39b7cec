//! Which installed package owns a directory of the system: from the databases of dpkg, rpm, eopkg and swupd.

use std::io::{self, BufReader};
use std::time::Duration;

use crate::limits::LOG;
use crate::sys::lines::each_line;
use crate::sys::{Ended, FileError, FileKind, Root, Tools};

/// The lists of dpkg: a file for each package, with a path on each line.
const DPKG: &str = "/var/lib/dpkg/info";
/// The packages of eopkg, each with its `files.xml`.
const EOPKG: &str = "/var/lib/eopkg/package";
/// The installed bundles of swupd, a file for each.
const BUNDLES: &str = "/usr/share/clear/bundles";
/// The manifests that swupd keeps: of all servers, or of one in old versions.
const SWUPD: &str = "/var/lib/swupd";
/// The databases of rpm.
const RPM: [&str; 2] = ["/var/lib/rpm", "/usr/lib/sysimage/rpm"];
/// The time limit of rpm.
const DEADLINE: Duration = Duration::from_secs(60);
/// The longest line that is read.
const LINE: usize = 8 << 10;

/// The package that owns it. Only what the databases say: swupd deletes its manifests on request.
///
/// # Errors
/// When a database cannot be read, or rpm does not answer.
pub fn owner(root: &Root, tools: &Tools, path: &str) -> Result<Option<String>, FileError> {
    for of_database in [of_dpkg, of_eopkg, of_swupd] {
        if let Some(found) = of_database(root, path)? {
            return Ok(Some(found));
        }
    }
    of_rpm(root, tools, path)
}

/// Whether a line of a text file satisfies a condition.
fn has_line(root: &Root, file: &str, is_it: impl Fn(&str) -> bool) -> Result<bool, FileError> {
    let opened = match root.open_within(file, LOG) {
        Ok((opened, _)) => opened,
        Err(e) if e.is_absent() => return Ok(false),
        Err(e) => return Err(e),
    };
    let mut found = false;
    each_line(BufReader::new(opened), LINE, |line| found |= is_it(&String::from_utf8_lossy(line)))
        .map_err(|e| root.read_failed(file, e))?;
    Ok(found)
}

fn names(root: &Root, directory: &str) -> Result<Vec<String>, FileError> {
    let entries = root.list_optional(directory)?;
    Ok(entries.iter().filter_map(|entry| entry.text()).map(str::to_owned).collect())
}

fn of_dpkg(root: &Root, path: &str) -> Result<Option<String>, FileError> {
    for name in names(root, DPKG)? {
        let Some(package) = name.strip_suffix(".list") else { continue };
        if has_line(root, &format!("{DPKG}/{name}"), |line| line.trim_end() == path)? {
            return Ok(Some(package.split(':').next().unwrap_or(package).to_owned()));
        }
    }
    Ok(None)
}

/// It lists the files, not the directories.
fn of_eopkg(root: &Root, path: &str) -> Result<Option<String>, FileError> {
    let element = format!("<Path>{}/", path.trim_start_matches('/'));
    for package in names(root, EOPKG)? {
        if has_line(root, &format!("{EOPKG}/{package}/files.xml"), |line| line.contains(&element))? {
            return Ok(Some(package));
        }
    }
    Ok(None)
}

fn of_swupd(root: &Root, path: &str) -> Result<Option<String>, FileError> {
    let bundles = names(root, BUNDLES)?;
    let mut directories = vec![SWUPD.to_owned(), format!("{SWUPD}/manifest")];
    for server in names(root, &format!("{SWUPD}/cache"))? {
        directories.push(format!("{SWUPD}/cache/{server}/manifest"));
    }
    for directory in directories {
        if root.lookup(&directory).known()?.is_none_or(|stat| stat.kind != FileKind::Directory) {
            continue;
        }
        // The versions of swupd are numbers; other directories are none.
        for version in names(root, &directory)?.iter().filter(|name| name.parse::<u32>().is_ok()) {
            for bundle in &bundles {
                let manifest = format!("{directory}/{version}/Manifest.{bundle}");
                if has_line(root, &manifest, |line| is_of_manifest(line, path))? {
                    return Ok(Some(format!("bundle {bundle}")));
                }
            }
        }
    }
    Ok(None)
}

/// A line has flags, hash, version and path; the flags of what is deleted begin with a dot.
fn is_of_manifest(line: &str, path: &str) -> bool {
    let mut fields = line.trim_end().split('\t');
    let is_there = fields.next().is_some_and(|flags| flags.len() == 4 && !flags.starts_with('.'));
    is_there && fields.nth(2) == Some(path)
}

/// rpm looks at the files of the machine that it runs on.
fn of_rpm(root: &Root, tools: &Tools, path: &str) -> Result<Option<String>, FileError> {
    if !root.is_slash() || RPM.iter().all(|database| root.lookup(database).is_absent()) {
        return Ok(None);
    }
    // Without the program there is no package of it.
    let Ok(child) = tools.child("rpm", DEADLINE) else { return Ok(None) };
    let failed = |why: String| FileError { action: "ask", path: "rpm".into(), cause: io::Error::other(why) };
    let done = child.args(["-qf", "--qf", "%{NAME}\\n", path]).run().map_err(|e| failed(e.to_string()))?;
    match done.ended {
        Ended::Exit(0) => {
            let names = String::from_utf8_lossy(&done.output).into_owned();
            Ok(names.lines().next().map(str::to_owned))
        }
        // No package owns it.
        Ended::Exit(_) => Ok(None),
        ended => Err(failed(ended.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use crate::sys::RootKind;

    const PATH: &str = "/usr/src/hello-1.0";

    fn owned(file: &str, text: &str) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, directory.path()).unwrap();
        root.write(format!("{BUNDLES}/kernel-native-dkms"), b"", 0o644).unwrap();
        root.write(file, text.as_bytes(), 0o644).unwrap();
        owner(&root, &Tools::from_environment(), PATH).unwrap()
    }

    #[test]
    fn each_database_names_the_owner() {
        let dpkg = owned("/var/lib/dpkg/info/hello-dkms:amd64.list", "/.\n/usr/src\n/usr/src/hello-1.0\n");
        assert_eq!(dpkg.as_deref(), Some("hello-dkms"));
        assert_eq!(owned("/var/lib/dpkg/info/other.list", "/usr/src/hello-1.0.1\n"), None);
        let xml = "<Files>\n<File><Path>usr/src/hello-1.0/hello.c</Path></File>\n</Files>\n";
        let eopkg = owned("/var/lib/eopkg/package/hello-1.0-3/files.xml", xml);
        assert_eq!(eopkg.as_deref(), Some("hello-1.0-3"));
        let manifest = "MANIFEST\t30\n\nD...\tabc\t41000\t/usr/src/hello-1.0\n";
        let at = |directory: &str| format!("{SWUPD}/{directory}/41000/Manifest.kernel-native-dkms");
        for directory in ["cache/https%3A%2F%2Fexample/manifest", "manifest", "."] {
            assert_eq!(owned(&at(directory), manifest).as_deref(), Some("bundle kernel-native-dkms"));
        }
        assert_eq!(owned(&at("manifest"), &manifest.replace("D...", ".d..")), None);
    }

    #[test]
    fn a_database_that_cannot_be_read_leaves_the_owner_unknown() {
        for path in [DPKG, EOPKG, BUNDLES, &format!("{SWUPD}/manifest"), &format!("{SWUPD}/cache")] {
            let directory = tempfile::tempdir().unwrap();
            let root = Root::open(RootKind::Image, directory.path()).unwrap();
            let (_, name) = path.rsplit_once('/').unwrap();
            root.link(path, std::path::Path::new(name)).unwrap();
            assert!(owner(&root, &Tools::from_environment(), PATH).is_err(), "{path}");
        }
    }
}
