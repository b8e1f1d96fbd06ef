//! What must not be seen: a PIN that is wiped when it is dropped and that nothing can print.

use std::fmt;
use std::hint::black_box;

use zeroize::Zeroizing;

/// A PIN of any length. It is shared by `Arc`, never copied, and wiped when the last owner drops it.
///
/// It has no `Display` and no `Clone`, and `Debug` shows nothing of it.
pub struct Pin(Zeroizing<Vec<u8>>);

impl Pin {
    /// Takes the octets over; no second copy of them is made.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The octets, for C_Login only.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether both are the same PIN, in a time that depends on their lengths only.
    pub fn same_as(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.as_bytes(), other.as_bytes());
        if ours.len() != theirs.len() {
            return false;
        }
        let difference = ours.iter().zip(theirs).fold(0u8, |seen, (a, b)| black_box(seen | (a ^ b)));
        difference == 0
    }
}

impl From<Zeroizing<Vec<u8>>> for Pin {
    fn from(octets: Zeroizing<Vec<u8>>) -> Self {
        Self(octets)
    }
}

impl PartialEq for Pin {
    fn eq(&self, other: &Self) -> bool {
        self.same_as(other)
    }
}

impl Eq for Pin {}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(text.as_bytes().to_vec())
    }

    #[test]
    fn a_pin_is_not_printed() {
        assert_eq!(format!("{:?} {:#?}", pin("user:password"), pin("x")), "Pin(..) Pin(..)");
    }

    #[test]
    fn pins_compare_by_every_octet_and_by_length() {
        assert!(pin("user:password").same_as(&pin("user:password")));
        for other in ["user:passwore", "vser:password", "user:passworde", "user:passwor", ""] {
            assert!(pin("user:password") != pin(other), "{other}");
        }
    }
}
