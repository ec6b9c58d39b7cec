//! The drivers of a kernel that claim the same devices as a module, found by comparing aliases.
//!
//! Only buses count where one driver binds to a device. Any number of modules may serve a processor, a
//! machine (`dmi`) or an input device.
//!
//! That a text exists which two patterns match does not show that a device has it. Measured with the 26,000
//! aliases of Linux 6.1: without the rules below, the in-tree module of each of 17 drivers had up to several
//! hundred competitors.
//! - A `*` stands for one number, not for several ([`StarText::Number`]).
//! - `acpi` and `of` list identifiers, and one of them must be the same.
//! - A driver of all products of a vendor, often of one class, and a driver that names a product compete only
//!   if this machine has a device of both.

use std::collections::BTreeMap;

use super::intersect::{GlobPattern, StarText};
use super::pattern;
use crate::kernel::module_file::{folded, kernel_name};

/// The prefixes of aliases that are not devices.
const NO_DEVICE: [&str; 2] = ["devname", "symbol"];
/// The buses on which several modules serve one device.
const SHARED: [&str; 3] = ["cpu", "dmi", "input"];
/// The beginnings of aliases that name neither a vendor nor a product, but at most a class. A driver of a
/// class leaves devices to drivers that name them.
const CLASSES: [&str; 13] = [
    "pci:v*d*",
    "usb:v*p*",
    "hid:b*g*v*p*",
    "hdaudio:v*",
    "sdio:c*v*d*",
    "scsi:t",
    "serio:",
    "pcmcia:m*c*",
    "bcma:m*id*",
    "ssb:v*id*",
    "typec:id*",
    "mdio:????????",
    "virtio:d*",
];
/// How many pairs of aliases are kept of a driver.
const MOST_SHOWN: usize = 3;

/// The bus of an alias; none if it is not that of a device.
pub fn bus(alias: &str) -> Option<&str> {
    let (bus, _) = alias.split_once(':')?;
    let bus = bus.trim_end_matches('*');
    let is_word = !bus.is_empty() && bus.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    (is_word && !NO_DEVICE.contains(&bus)).then_some(bus)
}

/// Whether an alias names a device that one driver binds to.
fn is_exclusive(alias: &str) -> bool {
    let is_class = || {
        CLASSES.iter().any(|class| alias.starts_with(class))
            // `hid:b0003g*v*p*` names a bus only.
            || (alias.starts_with("hid:") && alias.ends_with("v*p*"))
    };
    bus(alias).is_some_and(|bus| !SHARED.contains(&bus)) && !is_class()
}

/// The buses whose aliases are numbers with names in lower case.
const NUMBERED: [&str; 9] = ["pci", "usb", "hid", "hdaudio", "sdio", "pcmcia", "bcma", "ssb", "ieee1394"];

/// The name of the number that is the product, behind that of the vendor. None for other buses, whose aliases
/// name a product.
fn product_letter(bus: &str) -> Option<char> {
    match bus {
        "pci" | "sdio" => Some('d'),
        "usb" | "hid" => Some('p'),
        "pcmcia" => Some('c'),
        _ => None,
    }
}

/// Whether an alias names a product, and not only a vendor.
fn names_product(bus: &str, alias: &str) -> bool {
    let Some(letter) = product_letter(bus) else { return true };
    let numbers = alias.split_once(':').map_or("", |(_, numbers)| numbers);
    let vendor = numbers.find(['v', 'm']).map_or("", |at| &numbers[at..]);
    vendor.split_once(letter).is_some_and(|(_, product)| !product.starts_with('*'))
}

/// The identifier of an alias that lists them: `acpi*:PNP0C14:*`, `of:N*T*Cvendor,deviceC*`.
fn identifier<'a>(bus: &str, alias: &'a str) -> Option<&'a str> {
    match bus {
        "acpi" => alias.split(':').nth(1),
        "of" => {
            let behind = alias.split_once('T')?.1;
            let behind = behind.split_once('C')?.1;
            Some(behind.strip_suffix("C*").unwrap_or(behind).trim_end_matches('*'))
        }
        _ => None,
    }
}

/// An alias of the module.
struct OwnAlias<'a> {
    alias: &'a str,
    bus: &'a str,
    normalized: String,
    pattern: GlobPattern,
}

impl<'a> OwnAlias<'a> {
    fn new(alias: &'a str) -> Option<OwnAlias<'a>> {
        let bus = bus(alias).filter(|_| is_exclusive(alias))?;
        let normalized = pattern::normalized(alias)?;
        let pattern = GlobPattern::parse(&normalized)?;
        Some(OwnAlias { alias, bus, normalized, pattern })
    }

    /// Whether a device may exist that a driver with this alias claims too.
    fn competes(&self, theirs: &str, normalized: &str, pattern: &GlobPattern, devices: &[String]) -> bool {
        let star = if NUMBERED.contains(&self.bus) { StarText::Number } else { StarText::Any };
        if identifier(self.bus, self.alias) != identifier(self.bus, theirs)
            || !self.pattern.intersects(pattern, star)
        {
            return false;
        }
        let is_of_both = |device: &String| {
            let device = pattern::normalized(device).unwrap_or_else(|| device.clone());
            pattern::matches(&self.normalized, &device) && pattern::matches(normalized, &device)
        };
        names_product(self.bus, self.alias) == names_product(self.bus, theirs)
            || devices.iter().any(is_of_both)
    }
}

/// The pairs of aliases, of the module and of a driver, that match one device.
pub type CommonAliases = BTreeMap<String, Vec<(String, String)>>;

/// The modules in a list of aliases that claim a device of `own`, with at most three pairs of aliases each.
/// `listed` are patterns with the names of their modules, `devices` the aliases of the devices of this
/// machine.
pub fn competing<'a>(
    own: &[String],
    devices: &[String],
    listed: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> CommonAliases {
    let own: Vec<OwnAlias<'_>> = own.iter().filter_map(|alias| OwnAlias::new(alias)).collect();
    let mut found = CommonAliases::new();
    for (bytes, module) in listed {
        // Comparing the beginning first is fast: there are tens of thousands of patterns.
        let mut alike = own.iter().filter(|mine| begin_alike(mine.normalized.as_bytes(), bytes)).peekable();
        if alike.peek().is_none() {
            continue;
        }
        let text = String::from_utf8_lossy(bytes);
        let Some(normalized) = pattern::normalized(&text).filter(|_| is_exclusive(&text)) else { continue };
        let Some(theirs) = GlobPattern::parse(&normalized) else { continue };
        if let Some(mine) = alike.find(|mine| mine.competes(&text, &normalized, &theirs, devices)) {
            let pairs = found.entry(kernel_name(String::from_utf8_lossy(module).trim())).or_default();
            if pairs.len() < MOST_SHOWN {
                pairs.push((mine.alias.to_owned(), text.into_owned()));
            }
        }
    }
    found
}

/// Whether the texts before the first special character of two patterns can begin one text.
fn begin_alike(one: &[u8], two: &[u8]) -> bool {
    let is_plain = |b: &&u8| !b"*?[\\".contains(b);
    let plain = one.iter().take_while(is_plain).zip(two.iter().take_while(is_plain));
    plain.into_iter().all(|(a, b)| folded(*a) == folded(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(own: &[&str], devices: &[&str], listed: &[(&'static str, &'static str)]) -> Vec<String> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let listed = listed.iter().map(|(alias, module)| (alias.as_bytes(), module.as_bytes()));
        competing(&owned(own), &owned(devices), listed).into_keys().collect()
    }

    fn of(own: &[&str], listed: &[(&'static str, &'static str)]) -> Vec<String> {
        with(own, &[], listed)
    }

    #[test]
    fn a_class_and_a_product_compete_for_a_device_that_exists() {
        let listed = [("pci:v00001022d*sv*sd*bc04sc03i00*", "snd_hda_intel")];
        let own = ["pci:v00001022d00001463sv*sd*bc*sc*i*"];
        let audio = "pci:v00001022d00001463sv00001022sd00001463bc04sc03i00";
        let other = "pci:v00001022d00001463sv00001022sd00001463bc06sc00i00";
        assert_eq!(with(&own, &[], &listed), [""; 0]);
        assert_eq!(with(&own, &[other], &listed), [""; 0]);
        assert_eq!(with(&own, &[audio], &listed), ["snd_hda_intel"]);
    }

    #[test]
    fn drivers_of_the_same_device() {
        let listed = [
            ("pci:v000010ECd00008168sv*sd*bc*sc*i*", "r8169"),
            ("pci:v00001022d00001463sv*sd*bc*sc*i*", "k10temp"),
            ("pci:v000010DEd*sv*sd*bc03sc*i*", "nouveau"),
            ("pci:v*d*sv*sd*bc01sc06i01*", "ahci"),
            ("hid:b*g*v*p*", "hid-generic"),
            ("hid:b0003g*v*p*", "usbhid"),
            ("hid:b0003g*v0000256Cp0000006D", "hid-uclogic"),
            ("cpu:type:x86,ven*fam*mod*:feature:*00E8*", "acpi-cpufreq"),
            ("dmi*:svnLENOVO:*", "thinkpad_acpi"),
            ("fs-zfs", "zfs"),
            ("pci:v*d00008139sv000013D1sd0000AB06bc*sc*i*", "8139too"),
            ("pci:v000010DEd00000D8Dsv*sd*bc*sc*i*", "ahci"),
            ("pci:v000010DEd*sv*sd*bc04sc03i00*", "snd_hda_intel"),
            ("hid:b0003g*v00000B0Ep*", "hid_jabra"),
            ("acpi*:LNXVIDEO:*", "video"),
            ("acpi*:ACPI0003:*", "ac"),
            ("of:N*T*Cusb4ca,301a", "btusb"),
            ("of:N*T*Cusb4ca,301aC*", "btusb"),
            ("of:N*T*Cti,dac7512C*", "ad5446"),
            ("platform:gpio-fan", "gpio-fan"),
            ("usb:v0BDApB812d*dc*dsc*dp*icFFiscFFipFFin*", "rtw88-8822bu"),
        ];
        for (own, expected) in [
            (&["pci:v000010ECd00008168sv*sd*bc*sc*i*"][..], &["r8169"][..]),
            (&["pci:v00001022d00001463sv*sd*bc*sc*i*"], &["k10temp"]),
            (&["pci:v000010DEd*sv*sd*bc03sc02i00*"], &["nouveau"]),
            (&["pci:v00008086d00001234sv*sd*bc01sc06i01*"], &[]),
            (&["hid:b0003g*v0000256Cp0000006D"], &["hid_uclogic"]),
            (&["hid:b*g*v*p*"], &[]),
            (&["cpu:type:x86,ven0002fam0017mod*:feature:*"], &[]),
            (&["dmi*:svnLENOVO:pnX:*"], &[]),
            (&["fs-zfs"], &[]),
            (&["acpi*:LNXVIDEO:*"], &["video"]),
            (&["of:N*T*Cusb4ca,301aC*"], &["btusb"]),
            (&["platform:gpio_fan"], &["gpio_fan"]),
            (&["usb:v0BDApB812d*dc*dsc*dp*ic*isc*ip*in*"], &["rtw88_8822bu"]),
        ] {
            assert_eq!(of(own, &listed), expected, "{own:?}");
        }
    }

    #[test]
    fn buses() {
        for (alias, expected) in [
            ("pci:v*d*", Some("pci")),
            ("acpi*:PNP0C14:*", Some("acpi")),
            ("of:N*T*Cbrcm,x", Some("of")),
            ("dmi*:bvn*", Some("dmi")),
            ("devname:v4l2loopback", None),
            ("fs-ext4", None),
            ("net-pf-16-proto-16-family-wireguard", None),
            ("symbol:x", None),
            (":x", None),
        ] {
            assert_eq!(bus(alias), expected, "{alias}");
        }
    }
}
