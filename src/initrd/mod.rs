//! Initrds: the cpio archives that a boot loader passes to a kernel, and the kernel modules in them.
//!
//! An initrd loads its own copy of a module, not the file on disk. The kernel unpacks several archives in a
//! row, each uncompressed or compressed, with NUL bytes in between (see
//! `Documentation/driver-api/early-userspace/buffer-format.rst`). A later file replaces an earlier one with
//! the same path. What the kernel can read and this reader cannot (other compressions, a filesystem image)
//! makes the contents unknown, never empty.

mod archive;
pub mod contents;
mod unpack;

pub use contents::{FoundInInitrd, InitrdContents, InitrdModule};
