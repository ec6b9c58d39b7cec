//! Remarks on what prevents modules from being loaded, if nothing in use is affected.

use crate::decide::initrds::{InitrdForecast, initrd_forecast};
use crate::decide::loading::{LoadForecast, load_forecast, reason};
use crate::decide::satisfaction::CommandLine;
use crate::dkms::ModuleOnKernel;
use crate::system::System;

/// One for each module on each kernel.
pub(super) fn notes(system: &System) -> impl Iterator<Item = String> {
    system.modules_on_kernels.iter().filter_map(|pair| note(system, pair))
}

/// The remark on one module, if something prevents it from being loaded and nothing in use is affected.
fn note(system: &System, pair: &ModuleOnKernel) -> Option<String> {
    // A module that is not proven has a state that says why.
    pair.proof.as_ref().ok()?;
    if let InitrdForecast::Remark(why) = initrd_forecast(system, pair, None) {
        return Some(why);
    }
    match load_forecast(system, pair, None, CommandLine::Coming) {
        LoadForecast::Remark(why) => Some(reason(system, &pair.release, &why)),
        LoadForecast::Loads | LoadForecast::Blocked(_) | LoadForecast::Unknown(_) => None,
    }
}
