//! serde's view of what stands in steps, behind the feature `serde`: MAC addresses as text, ARP
//! settings as numbers.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::arp::{AnnounceMode, IgnoreMode};
use crate::marks::Mac;
use crate::node::Plan;

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for IgnoreMode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(to)
    }
}

impl Serialize for AnnounceMode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(to)
    }
}

/// Its steps.
impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.steps().serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use crate::node::{Role, Step, Task};
    use crate::vip::Placement;

    #[test]
    fn steps_are_objects() {
        let json = |step: &Step| serde_json::to_string(step).unwrap();
        let vip = "192.0.2.254".parse().unwrap();
        assert_eq!(json(&Step::AddVip(vip, Placement::Loopback)), r#"{"add_vip":["192.0.2.254","loopback"]}"#);
        assert_eq!(
            json(&Step::Record { role: Role::Master, reached: true }),
            r#"{"record":{"role":"master","reached":true}}"#
        );
        assert_eq!(serde_json::to_string(&Task::Role(Role::Backup)).unwrap(), r#"{"role":"backup"}"#);
    }
}
