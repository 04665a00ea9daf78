//! What reads octets that others write, for the fuzz targets in tests/fuzz and for the test that
//! replays their corpus.

use crate::ipvs::{Table, fuzzing as ipvs};
use crate::node::fuzzing as node;

/// A table's text: what is read prints as something that is read as the same.
pub fn table(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    if let Ok(table) = text.parse::<Table>() {
        assert_eq!(table.to_string().parse::<Table>().unwrap(), table);
    }
}

/// A datagram that claims to come from the kernel's IPVS.
pub fn answer(octets: &[u8]) {
    ipvs::answer(octets);
}

/// The kernel's list of connections, and its totals.
pub fn proc(octets: &[u8]) {
    ipvs::proc(&String::from_utf8_lossy(octets));
}

/// A beacon or presence of another node, sealed or not.
pub fn beacon(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    node::beacon(text);
}

/// A node's state file.
pub fn state(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    node::state(text);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Every file of the corpus as it is, cut short anywhere, and with each of some octets in
    /// every place.
    fn replay(name: &str, target: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
        let files: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{} is empty", corpus.display());
        for file in files {
            let octets = fs::read(&file).unwrap();
            target(&octets);
            for place in 0..octets.len() {
                target(&octets[..place]);
                for octet in [0, 1, b' ', b'-', b'0', b'\n', 0x7f, 0x80, 0xff] {
                    let mut changed = octets.clone();
                    changed[place] = octet;
                    target(&changed);
                }
            }
        }
    }

    #[test]
    fn table() {
        replay("table", super::table);
    }

    #[test]
    fn answer() {
        replay("answer", super::answer);
    }

    #[test]
    fn proc() {
        replay("proc", super::proc);
    }

    #[test]
    fn beacon() {
        replay("beacon", super::beacon);
    }

    /// Texts of the words of the corpus, in any order.
    #[test]
    fn beacons_of_shuffled_words() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/beacon");
        let files = fs::read_dir(&corpus).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        let all: Vec<String> = files.collect();
        let mut words: Vec<&str> = all.iter().flat_map(|text| text.split(' ')).collect();
        words.extend([
            "",
            "=",
            "id=",
            "node=0",
            "vip=",
            "directs=%",
            "directs=%ff",
            "18446744073709551616",
            "-1",
            "+1",
        ]);
        // xorshift, from a fixed seed.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit as u64) as usize
        };
        for _ in 0..20_000 {
            let first = ["lvs-dr-node-1 node=7", "lvs-dr-beacon-1 254 7", words[below(words.len())]][below(3)];
            let mut text = first.to_owned();
            for _ in 0..below(14) {
                text.push([' ', ' ', ' ', ' ', '\n', '='][below(6)]);
                text += words[below(words.len())];
            }
            super::beacon(text.as_bytes());
        }
    }

    #[test]
    fn state() {
        replay("state", super::state);
    }
}
