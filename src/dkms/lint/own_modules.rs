//! The modules of a kernel itself.

use std::collections::BTreeMap;

use super::KernelOwn;
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file;
use crate::limits::KERNEL_LIST;
use crate::sys::Root;

/// The modules that a kernel includes, as files or built in. An unreadable list counts as empty, because this
/// is only advice.
pub fn own_modules(root: &Root, release: &str) -> BTreeMap<String, KernelOwn> {
    let read = |list: &str| root.read_within(format!("{}/{list}", module_directory(release)), KERNEL_LIST);
    let mut found = BTreeMap::new();
    for (list, own) in [("modules.dep", KernelOwn::Module), ("modules.builtin", KernelOwn::BuiltIn)] {
        // The reason makes no difference: this is only advice.
        let text = read(list).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let paths = text.lines().filter_map(|line| line.split(':').next());
        let names = paths.filter(|path| path.starts_with("kernel/")).filter_map(module_file::stem);
        found.extend(names.map(|name| (module_file::kernel_name(name), own)));
    }
    found
}
