//! What dkms leaves behind for kernels that are gone.

pub mod gc;
pub mod leftovers;
