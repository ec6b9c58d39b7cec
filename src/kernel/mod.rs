//! Kernels: their names, their variants and bundles, and what is installed and running.

pub mod config_file;
pub mod headers;
pub mod identity;
pub mod inventory;
pub mod module_file;
pub mod module_image;
pub mod variant;

pub use headers::Headers;
pub use identity::{KernelName, MalformedName};
pub use inventory::{Images, Installed, Inventory, NoSuchKernel, Running};
pub use variant::{Family, Support, Variant};
