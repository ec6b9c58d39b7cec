//! Tests of the library and of the programs on fixture roots: no root rights, no network, no kernel headers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod boot_default;
mod boot_files;
mod boot_ready;
mod cmdline_change;
mod cmdline_check;
mod cmdline_obstacles;
mod cmdline_properties;
mod cmdline_refresh;
mod cmdline_show;
mod cmdline_trouble;
mod enforcement;
mod enforcement_hostile;
mod enforcement_roots;
mod enforcement_vectors;
mod gc;
mod gc_properties;
mod gc_refusals;
mod hostile;
mod inventory;
mod lint;
mod motd;
mod parallel;
mod post_update;
mod post_update_bad;
mod post_update_boot;
mod post_update_escape;
mod post_update_heal;
mod post_update_stop;
mod pre_update;
mod rebuild;
mod signature;
mod status;
mod support;
mod variant;
mod vectors;
