//! Initrds: the cpio archives that a boot loader hands to a kernel, and the kernel modules in them.
//!
//! A module that an initrd loads is the copy inside it, not the one on disk. The kernel unpacks several archives in a row,
//! each of them plain or compressed, with NUL bytes between them (`Documentation/driver-api/early-userspace/buffer-format.rst`);
//! a later file replaces an earlier one of the same path. What the kernel could read and this reader cannot (other
//! compressions, an image of a filesystem inside) makes the contents unknown, never empty.

mod archive;
pub mod contents;
mod unpack;

pub use contents::{FoundInInitrd, InitrdContents, InitrdModule};
