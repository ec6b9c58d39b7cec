//! Tests of the library and of the programs on fixture roots: no root rights, no network, no kernel headers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod inventory;
mod vectors;
