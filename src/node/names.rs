//! Names of groups in files' names and in datagrams: letters, digits, `-` and `_` as they are,
//! other octets as `%2f`.

pub(super) fn escape(name: &str) -> String {
    let escaped = name.bytes().map(|octet| match octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_' {
        true => char::from(octet).to_string(),
        false => format!("%{octet:02x}"),
    });
    escaped.collect()
}

/// `None`: it was not written by [`escape`].
pub(super) fn unescape(text: &str) -> Option<String> {
    let mut octets = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        octets.push(match first {
            b'%' => {
                let (digits, behind) = behind.split_at_checked(2)?;
                rest = behind;
                u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?
            }
            _ => first,
        });
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_is_read() {
        for name in ["", "web", "my web/1", "a%b", "größe", "../x"] {
            let escaped = escape(name);
            assert!(!escaped.contains(['/', ' ', '.']), "{escaped}");
            assert_eq!(unescape(&escaped).as_deref(), Some(name));
        }
        assert_eq!([unescape("%"), unescape("%2"), unescape("%xx"), unescape("%ff")], [const { None }; 4]);
    }
}
