//! The names of network interfaces.

use crate::error::{Error, Result};

/// Refuses what the kernel takes for no name (`dev_valid_name` in net/core/dev.c): such a name
/// would also lead a path astray.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_ascii_whitespace());
    match good {
        true => Ok(()),
        false => Err(Error::invalid(
            format!("interface {name:?}"),
            "a name as in `ip link` was expected: 1 to 15 characters without blanks, slashes and colons",
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
        }
        for name in ["eth0", "bond0.100", "fifteen-letters", "wg-ü"] {
            check_name(name).unwrap();
        }
    }
}
