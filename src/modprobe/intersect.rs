//! Whether a text exists that two patterns of fnmatch(3) both match: a device that two modules claim.

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PatternPart {
    /// Any text.
    Star,
    /// One of these bytes.
    One(ByteSet),
}

/// A set of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteSet([u128; 2]);

impl ByteSet {
    const NONE: ByteSet = ByteSet([0; 2]);
    const ALL: ByteSet = ByteSet([u128::MAX; 2]);

    fn of(byte: u8) -> ByteSet {
        let mut set = ByteSet::NONE;
        set.add(byte);
        set
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 7)] |= 1 << (byte & 127);
    }

    pub(super) fn has(self, byte: u8) -> bool {
        self.0[usize::from(byte >> 7)] >> (byte & 127) & 1 == 1
    }

    fn and(self, other: ByteSet) -> ByteSet {
        ByteSet([self.0[0] & other.0[0], self.0[1] & other.0[1]])
    }

    fn inverted(self) -> ByteSet {
        ByteSet([!self.0[0], !self.0[1]])
    }

    fn is_empty(self) -> bool {
        self == ByteSet::NONE
    }
}

/// The parts of a pattern in the form that kmod stores. None if it matches nothing.
fn parts(pattern: &str) -> Option<Vec<PatternPart>> {
    let bytes = pattern.as_bytes();
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let (part, length) = match byte {
            b'*' => (PatternPart::Star, 1),
            b'?' => (PatternPart::One(ByteSet::ALL), 1),
            b'\\' => (PatternPart::One(ByteSet::of(*bytes.get(at + 1)?)), 2),
            b'[' => match bracket(&bytes[at..]) {
                Some((set, length)) => (PatternPart::One(set), length),
                // An open bracket without an end matches itself.
                None => (PatternPart::One(ByteSet::of(b'[')), 1),
            },
            byte => (PatternPart::One(ByteSet::of(*byte)), 1),
        };
        parts.push(part);
        at += length;
    }
    Some(parts)
}

/// The bytes of a bracket expression, and its length. None if it has no end.
pub(super) fn bracket(pattern: &[u8]) -> Option<(ByteSet, usize)> {
    let is_negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if is_negated { 2 } else { 1 };
    let (mut at, mut set) = (first, ByteSet::NONE);
    loop {
        match *pattern.get(at)? {
            b']' if at > first => {
                return Some((if is_negated { set.inverted() } else { set }, at + 1));
            }
            low => {
                let range = (pattern.get(at + 1) == Some(&b'-')).then(|| pattern.get(at + 2)).flatten();
                match range.filter(|high| **high != b']') {
                    Some(high) => {
                        (low..=*high).for_each(|byte| set.add(byte));
                        at += 3;
                    }
                    None => {
                        set.add(low);
                        at += 1;
                    }
                }
            }
        }
    }
}

/// The text that a `*` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StarText {
    /// Any text, as for fnmatch(3).
    Any,
    /// Upper-case hexadecimal digits. The aliases of many buses consist of numbers with lower-case names:
    /// this keeps a `*` from standing for several of them, which no device has.
    Number,
}

impl StarText {
    fn bytes(self) -> ByteSet {
        match self {
            StarText::Any => ByteSet::ALL,
            StarText::Number => {
                let mut set = ByteSet::NONE;
                b"0123456789ABCDEF".iter().for_each(|byte| set.add(*byte));
                set
            }
        }
    }
}

/// A pattern in the form that kmod stores, ready for comparisons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobPattern(Vec<PatternPart>);

impl GlobPattern {
    /// None for a pattern that matches nothing.
    pub fn parse(pattern: &str) -> Option<GlobPattern> {
        parts(pattern).map(GlobPattern)
    }

    /// Whether a text exists that both patterns match.
    pub fn intersects(&self, other: &GlobPattern, star: StarText) -> bool {
        let (one, two, star) = (&self.0, &other.0, star.bytes());
        let is_byte = |part: &PatternPart| matches!(part, PatternPart::One(set) if !set.and(star).is_empty());
        // `reached[b]`: a text exists that the first `a` parts of one and the first `b` parts of two match.
        let mut reached = vec![false; two.len() + 1];
        let mut before = reached.clone();
        for a in 0..=one.len() {
            std::mem::swap(&mut before, &mut reached);
            for b in 0..=two.len() {
                let (mine, theirs) =
                    (a.checked_sub(1).map(|at| &one[at]), b.checked_sub(1).map(|at| &two[at]));
                reached[b] = match (mine, theirs) {
                    (None, None) => true,
                    // A star matches nothing, or what the other part matches.
                    (Some(PatternPart::Star), None) => before[b],
                    (Some(PatternPart::Star), Some(part)) => {
                        before[b] || ((is_byte(part) || *part == PatternPart::Star) && reached[b - 1])
                    }
                    (mine, Some(PatternPart::Star)) => {
                        reached[b - 1] || (mine.is_some_and(is_byte) && before[b])
                    }
                    (Some(PatternPart::One(mine)), Some(PatternPart::One(theirs))) => {
                        !mine.and(*theirs).is_empty() && before[b - 1]
                    }
                    (None, Some(_)) | (Some(_), None) => false,
                };
            }
            // No text begins like both.
            if !reached.contains(&true) {
                return false;
            }
        }
        reached[two.len()]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::pattern::matches;
    use super::*;
    use proptest::prelude::*;

    fn intersect(one: &str, two: &str) -> bool {
        match (GlobPattern::parse(one), GlobPattern::parse(two)) {
            (Some(one), Some(two)) => one.intersects(&two, StarText::Any),
            _ => false,
        }
    }

    #[test]
    fn a_star_may_stand_for_one_number() {
        let (one, two) =
            ("pci:v00001022d00001463sv*sd*bc*sc*i*", "pci:v*d00008139sv000013D1sd0000AB06bc*sc*i*");
        assert!(intersect(one, two));
        let (one, two) = (GlobPattern::parse(one).unwrap(), GlobPattern::parse(two).unwrap());
        assert!(!one.intersects(&two, StarText::Number) && !two.intersects(&one, StarText::Number));
        assert!(one.intersects(&one, StarText::Number));
        let parse = |pattern| GlobPattern::parse(pattern).unwrap();
        let vga = parse("pci:v000010DEd*sv*sd*bc03sc02i00*");
        assert!(!vga.intersects(&parse("pci:v000010DEd*sv*sd*bc0[12]sc*i*"), StarText::Number));
        assert!(vga.intersects(&parse("pci:v000010DEd*sv*sd*bc03sc*i*"), StarText::Number));
    }

    #[test]
    fn devices_that_two_modules_claim() {
        for (one, two, expected) in [
            ("pci:v000010ECd00008168sv*sd*bc*sc*i*", "pci:v000010ECd00008168sv*sd*bc*sc*i*", true),
            ("pci:v000010ECd00008168sv*sd*bc*sc*i*", "pci:v000010ECd00008125sv*sd*bc*sc*i*", false),
            ("pci:v000010DEd*sv*sd*bc03sc02i00*", "pci:v000010DEd*sv*sd*bc03sc*i*", true),
            // A star may stand for several fields of the other pattern.
            ("pci:v000010DEd*sv*sd*bc03sc02i00*", "pci:v000010DEd*sv*sd*bc0[12]sc*i*", true),
            ("usb:v0BDApB812d*dc*dsc*dp*ic*isc*ip*in*", "usb:v0BDApB812d*dc*dsc*dp*icFFiscFFipFFin*", true),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v0781p5581d01*dc*dsc*dp*ic*isc*ip*in*", true),
            ("usb:v1234p5678d01[0-2]*", "usb:v1234p5678d01[3-9]*", false),
            ("a[!b]", "ab", false),
            ("a[!b]", "a[b-c]", true),
            ("*a", "b*", true),
            ("*", "", true),
            ("?", "", false),
            ("a\\*b", "a?b", true),
            ("a\\*b", "acb", false),
            ("[", "[", true),
            ("a\\", "a*", false),
        ] {
            assert_eq!(intersect(one, two), expected, "{one} {two}");
            assert_eq!(intersect(two, one), expected, "{two} {one}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let (one, two) = ("a*".repeat(300) + "b", "*a".repeat(300));
        assert!(!intersect(&one, &two));
    }

    /// All texts of `a`, `b` and `c` up to that length.
    fn texts(length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..length {
            last = last.iter().flat_map(|text| ["a", "b", "c"].map(|letter| text.clone() + letter)).collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    proptest! {
        /// Of two patterns with four parts each, the shortest common text has at most eight letters.
        #[test]
        fn as_trying_every_text(
            one in prop::collection::vec(prop::sample::select(vec!["a", "b", "?", "*", "[ab]", "[!a]"]), 0..4),
            two in prop::collection::vec(prop::sample::select(vec!["a", "b", "?", "*", "[ab]", "[!a]"]), 0..4),
        ) {
            let (one, two) = (one.concat(), two.concat());
            let common = texts(7).into_iter().any(|text| matches(&one, &text) && matches(&two, &text));
            prop_assert_eq!(intersect(&one, &two), common, "{} {}", one, two);
        }
    }
}
