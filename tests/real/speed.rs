//! How long a run takes that finds nothing to do.

use std::time::{Duration, Instant};

use crate::scene::{A, Scene};

#[test]
fn eight_modules_on_two_kernels_with_nothing_to_do() {
    let Some(scene) = Scene::with_kernel("speed") else { return };
    let lts = "6.12.40-1570.ltscurrent";
    scene.kernel("ltscurrent", lts);
    let names: Vec<String> = (1..=8).map(|n| format!("module{n}")).collect();
    for name in &names {
        scene.module(name, "1.0", &[]);
    }
    scene.post_update().exits(0);
    for name in &names {
        scene.proven(name, A);
        scene.proven(name, lts);
    }
    scene.settled();
    let mut times: Vec<Duration> = (0..10)
        .map(|_| {
            let start = Instant::now();
            scene.post_update().exits(0);
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("8 modules x 2 kernels, nothing to do: median of 10 is {:?}, best {:?}", times[5], times[0]);
    assert!(times[5] < Duration::from_millis(100), "{times:?}");
}
