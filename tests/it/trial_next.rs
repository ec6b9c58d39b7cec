//! An update brings another new kernel while one runs on trial, or after one has failed.

use serde_json::Value;

use crate::support::boot::B_ENTRY;
use crate::support::guard::{FAILS_ON_B, ID_A, ID_B};
use crate::support::{A, B, TestRoot};
use crate::trial::{ASSERT, MARK, RECORD, armed, assert_next, booted, check, status, works};

/// A kernel after [`B`].
const C: &str = "6.15.9-1593.native";
const C_ENTRY: &str = "Clear-linux-native-6.15.9-1593.conf";
const ID_C: &str = "org.clearlinux.native.6.15.9-1593";

/// An update has brought [`C`].
fn updated_again(root: &TestRoot) -> &TestRoot {
    root.kernel(C).headers(C).tip(C)
}

#[test]
fn another_new_kernel_waits_until_the_trial_is_over() {
    for builds in [true, false] {
        let root = booted(armed(), B, "2");
        updated_again(&root);
        if !builds {
            root.behave(&FAILS_ON_B.replace("1592", "1593"));
        }
        root.post_update();
        root.run("clr-dkms", &ASSERT);
        assert_next(&root, ID_A, None, ["held", A, "running"]);
        assert_eq!(status(&root)["guard"]["trial"]["kernel"], B);
        root.run("clr-dkms", &MARK).code(1);
        works(&root);
        check(&root).code(0);
        root.run("clr-dkms", &MARK).code(0);
        root.file(&format!("var/lib/kernel/k_booted_{B}"), "").post_update();
        match builds {
            true => assert_next(&root, ID_B, Some(C_ENTRY), ["reboot-pending", C, "armed"]),
            false => assert_next(&root, ID_B, None, ["held", B, "null"]),
        }
    }
}

#[test]
fn a_kernel_that_failed_is_not_the_one_to_return_to() {
    for is_booted in [true, false] {
        let root = booted(armed(), B, "2");
        check(&root).code(1);
        root.post_update().code(1);
        let root = if is_booted { root } else { booted(root, A, "3") };
        if !is_booted {
            works(&root).post_update().code(1);
        }
        // What does not work on B has to work on C.
        updated_again(&root).post_update();
        for _ in 0..2 {
            assert_next(&root, ID_A, Some(C_ENTRY), ["reboot-pending", C, "armed"]);
            assert_eq!(status(&root)["guard"]["trial"]["fallback"], A);
            root.run("clr-dkms", &ASSERT);
            root.post_update();
        }
        // C does not come up, and goes away.
        let root = booted(root, A, "4");
        works(&root).post_update();
        assert_next(&root, ID_A, None, ["held", A, "unfinished"]);
        root.remove(&format!("usr/lib/kernel/{ID_C}"));
        root.link("usr/lib/kernel/default-native", ID_B);
        root.post_update();
        assert_next(&root, ID_A, None, ["held", A, "failed"]);
        assert_eq!(status(&root)["guard"]["trial"]["kernel"], B);
        root.run("clr-dkms", &["allow", B]).code(0);
        assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    }
}

#[test]
fn a_kernel_that_failed_before_another_one_was_tried_can_show_that_it_works() {
    let root = booted(armed(), B, "2");
    check(&root).code(1);
    let root = booted(root, A, "3");
    updated_again(works(&root)).post_update();
    assert_next(&root, ID_A, Some(C_ENTRY), ["reboot-pending", C, "armed"]);
    // It is chosen in the boot menu.
    let root = booted(root, B, "4");
    root.run("clr-dkms", &MARK).code(1);
    works(&root);
    check(&root).code(0);
    let record: Value = serde_json::from_str(&root.text(RECORD)).unwrap();
    assert_eq!((&record["kernel"], &record["earlier"]), (&C.into(), &Value::Null));
    root.run("clr-dkms", &MARK).code(0);
}
