//! Directories in which `dkms install` works without touching the installed files.
//!
//! Besides copying files, dkms runs the scripts of dkms.conf, handles OBSOLETE_BY, compares the module with
//! the kernel's own one, and selects a destination that depends on the distribution. It does all that also in
//! a separate DKMS tree and module tree (`--dkmstree`, `--installtree`; measured with 3.0.10 and 3.4.3),
//! which contain exactly what it examines. The result shows which file belongs where. Side effects on other
//! modules are avoided: dkms 3.2 rebuilds modules with BUILD_DEPENDS_REBUILD and uninstalls them first.

use std::path::PathBuf;

use crate::dkms::modfile::{self, ENDINGS};
use crate::dkms::plan::{build_directory, built_directory};
use crate::dkms::proof::find_file;
use crate::dkms::replace::STATE;
use crate::dkms::tree::TREE;
use crate::dkms::{DkmsConf, ModuleName, architecture};
use crate::kernel::inventory::module_directory;
use crate::limits::{KERNEL_LIST, MODULE};
use crate::sys::{FileError, FileKind, Presence, Root};

/// The prefix of their names in the state directory.
pub(in crate::dkms) const STAGING: &str = "staging-";

/// A file or directory of one build, which is removed when the value is dropped.
pub(in crate::dkms) struct Temporary<'a> {
    pub(in crate::dkms) root: &'a Root,
    pub(in crate::dkms) path: String,
}

impl<'a> Temporary<'a> {
    /// One in the state directory. After a kill the next run removes it, because of its name.
    pub(in crate::dkms) fn new(root: &'a Root, module: &ModuleName, release: &str, what: &str) -> Self {
        let path = format!("{STATE}/{STAGING}{}-{}-{release}{what}", module.name, module.version);
        Temporary { root, path }
    }

    /// Its path on this machine.
    ///
    /// # Errors
    ///
    /// If it does not exist.
    pub(in crate::dkms) fn real_path(&self) -> Result<PathBuf, FileError> {
        self.root.real_path(&self.path)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.root.remove_tree(&self.path) {
            tracing::warn!("{e}; it is removed later");
        }
    }
}

/// The two trees for one module on one kernel.
pub(in crate::dkms) struct Staging<'a> {
    root: &'a Root,
    module: &'a ModuleName,
    release: &'a str,
    base: Temporary<'a>,
}

impl<'a> Staging<'a> {
    /// Creates them.
    ///
    /// # Errors
    ///
    /// If something cannot be read or written.
    pub(in crate::dkms) fn lay_out(
        root: &'a Root,
        module: &'a ModuleName,
        release: &'a str,
        conf: &DkmsConf,
    ) -> Result<Staging<'a>, FileError> {
        let base = Temporary::new(root, module, release, "");
        let staging = Staging { root, module, release, base };
        root.remove_tree(&staging.base.path)?;
        let (own, kernel_directory) = (architecture(), module_directory(release));
        let version = format!("{}/{}/{}", staging.dkms_tree(), module.name, module.version);
        let source = format!("{TREE}/{module}/source");
        staging.link(&format!("{version}/source"), &source)?;
        staging.link(&format!("{version}/{release}/{own}"), &build_directory(module, release))?;
        let kernel = format!("{}/{release}", staging.install_tree());
        for name in ["build", "modules.dep"] {
            let path = format!("{kernel_directory}/{name}");
            // If one of them is missing, dkms reports it.
            if root.lookup(&path).is_there() {
                staging.link(&format!("{kernel}/{name}"), &path)?;
            }
        }
        // dkms uses the compression of the kernel's modules for its own, and some versions look for it here.
        for ending in staging.built_endings()? {
            root.write(format!("{kernel}/kernel/compressed{ending}"), b"", 0o644)?;
        }
        for path in staging.originals(conf)? {
            root.copy(format!("{kernel_directory}/{path}"), format!("{kernel}/{path}"), 0o644, MODULE)?;
        }
        Ok(staging)
    }

    /// The DKMS tree inside the root.
    pub(in crate::dkms) fn dkms_tree(&self) -> String {
        format!("{}/dkms", self.base.path)
    }

    /// The directory of the module trees, inside the root.
    pub(in crate::dkms) fn install_tree(&self) -> String {
        format!("{}/modules", self.base.path)
    }

    fn link(&self, path: &str, to: &str) -> Result<(), FileError> {
        self.root.link(path, &self.root.host_path(to)?).map(drop)
    }

    fn built_endings(&self) -> Result<Vec<&'static str>, FileError> {
        let files = self.root.list_optional(built_directory(self.module, self.release))?;
        let ends = |ending: &&str| files.iter().any(|f| f.text().is_some_and(|name| name.ends_with(*ending)));
        Ok(ENDINGS[1..].iter().copied().filter(ends).collect())
    }

    /// The kernel's own files with the names of the module, relative to the module directory.
    fn originals(&self, conf: &DkmsConf) -> Result<Vec<String>, FileError> {
        let kernel_directory = module_directory(self.release);
        let order =
            self.root.read_optional_within(format!("{kernel_directory}/modules.order"), KERNEL_LIST)?;
        let order = order.unwrap_or_default();
        let order = String::from_utf8_lossy(&order);
        let mut found = Vec::new();
        for (directory, name) in order.lines().filter_map(|line| line.strip_suffix(".ko")?.rsplit_once('/')) {
            if conf.built.iter().any(|built| built.name == name)
                && let Some((path, Presence::There(stat))) =
                    find_file(self.root, &format!("{kernel_directory}/{directory}"), name)
                && stat.kind == FileKind::File
            {
                found.extend(path.strip_prefix(&format!("{kernel_directory}/")).map(str::to_owned));
            }
        }
        Ok(found)
    }

    /// What dkms has installed: the paths of the built files and their destinations. None if it has installed
    /// nothing.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    pub(in crate::dkms) fn installed(
        &self,
        conf: &DkmsConf,
    ) -> Result<Option<Vec<(String, String)>>, FileError> {
        let link =
            format!("{}/{}/kernel-{}-{}", self.dkms_tree(), self.module.name, self.release, architecture());
        if !self.root.lookup_link(link).is(FileKind::Link) {
            return Ok(None);
        }
        let kernel = format!("{}/{}", self.install_tree(), self.release);
        let mut there = Vec::new();
        self.walk(&kernel, &mut there)?;
        let mut files = Vec::new();
        for built in &conf.built {
            let Some((path, _)) =
                find_file(self.root, &built_directory(self.module, self.release), &built.name)
            else {
                return Ok(None);
            };
            let name = path.rsplit('/').next().unwrap_or(&path);
            let sha256 = modfile::sha256(self.root, &path)?;
            let is_it = |(at, kind): &&(String, FileKind)| {
                at.rsplit('/').next() == Some(name)
                    // With symlink_modules, dkms links to the built file.
                    && (*kind == FileKind::Link
                        // A file that cannot be read is not the expected one.
                        || modfile::sha256(self.root, at).is_ok_and(|of| of == sha256))
            };
            match there.iter().find(is_it).and_then(|(at, _)| at.strip_prefix(&format!("{kernel}/"))) {
                Some(below) => files.push((path, format!("{}/{below}", module_directory(self.release)))),
                None => return Ok(None),
            }
        }
        Ok(Some(files).filter(|files| !files.is_empty()))
    }

    fn walk(&self, directory: &str, found: &mut Vec<(String, FileKind)>) -> Result<(), FileError> {
        for entry in self.root.list_optional(directory)? {
            let Some(name) = entry.text() else { continue };
            let path = format!("{directory}/{name}");
            match entry.kind {
                FileKind::Directory => self.walk(&path, found)?,
                FileKind::File | FileKind::Link => found.push((path, entry.kind)),
                FileKind::Other => {}
            }
        }
        Ok(())
    }

    /// Their paths for a program on the host.
    ///
    /// # Errors
    ///
    /// If they do not exist.
    pub(in crate::dkms) fn paths(&self) -> Result<[PathBuf; 2], FileError> {
        Ok([self.root.host_path(self.dkms_tree())?, self.root.host_path(self.install_tree())?])
    }
}
