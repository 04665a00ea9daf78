//! The names of network interfaces.

use crate::error::{Error, Result};

/// The length of the longest name (`IFNAMSIZ`, less one).
pub(crate) const LONGEST_NAME: usize = 15;
/// The length of the longest alternative name (`ALTIFNAMSIZ`, less one).
const LONGEST_ALTERNATIVE: usize = 127;

/// Refuses what the kernel takes for no name (`dev_valid_name` in net/core/dev.c): such a name
/// would also lead a path astray.
pub(crate) fn check_name(name: &str) -> Result<()> {
    check(name, LONGEST_NAME)
}

/// The same for what may be an alternative name (`altname` in ip-link(8)).
pub(crate) fn check_any_name(name: &str) -> Result<()> {
    check(name, LONGEST_ALTERNATIVE)
}

fn check(name: &str, longest: usize) -> Result<()> {
    let good = (1..=longest).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_ascii_whitespace());
    match good {
        true => Ok(()),
        false => Err(Error::invalid(
            format!("interface {name:?}"),
            format!(
                "a name as in `ip link` was expected: 1 to {longest} characters without blanks, slashes and colons"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["", "sixteen-letters-", "a/b", "..", ".", "eth0 ", "eth0:1", "a\0"] {
            assert!(matches!(check_name(name), Err(Error::Invalid { .. })), "{name:?}");
            assert_eq!(check_any_name(name).is_ok(), name == "sixteen-letters-", "{name:?}");
        }
        for name in ["eth0", "bond0.100", "fifteen-letters", "wg-ü"] {
            check_name(name).unwrap();
            check_any_name(name).unwrap();
        }
        assert!(check_any_name(&"x".repeat(128)).is_err());
    }
}
