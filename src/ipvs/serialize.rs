//! serde's view of a table, behind the feature `serde`: fields as in the documentation, names and
//! addresses as text, times in seconds.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Destination, Scheduler, Service, ServiceFlags, ServiceId, SyncDaemon, SyncRole, Table, Timeouts};

fn write<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn read<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                write(self, to)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                read(from)
            }
        }
    )*};
}

as_text!(ServiceId, Scheduler);

/// As `"ONE_PACKET | SCHED1"`; unknown bits in hexadecimal.
impl Serialize for ServiceFlags {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        bitflags::parser::to_writer(self, &mut text).map_err(serde::ser::Error::custom)?;
        to.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for ServiceFlags {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        bitflags::parser::from_str(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// Whole seconds.
pub(super) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::ipvs) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(time.as_secs())
    }

    pub(in crate::ipvs) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "Table")]
struct Shape {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeouts: Option<Timeouts>,
    /// Those that are wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    daemons: Vec<SyncDaemon>,
    /// The roles that no daemon is wanted for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    no_daemons: Vec<SyncRole>,
    #[serde(default)]
    services: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    service: Service,
    #[serde(default)]
    destinations: Vec<Destination>,
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let entry = |content: super::VirtualService<'_>| Entry {
            service: content.service.clone(),
            destinations: content.destinations().cloned().collect(),
        };
        Shape {
            timeouts: self.timeouts,
            daemons: self.daemons.values().flatten().cloned().collect(),
            no_daemons: self.daemons.iter().filter(|(_, daemon)| daemon.is_none()).map(|(role, _)| *role).collect(),
            services: self.services().map(entry).collect(),
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let shape = Shape::deserialize(from)?;
        let mut table = Table::new();
        table.timeouts = shape.timeouts;
        let daemons = shape.daemons.into_iter().map(|daemon| (daemon.role, Some(daemon)));
        for (role, daemon) in daemons.chain(shape.no_daemons.into_iter().map(|role| (role, None))) {
            if table.daemons.insert(role, daemon).is_some() {
                return Err(serde::de::Error::custom(format!("the sync daemon {role} is there twice")));
            }
        }
        for Entry { service, destinations } in shape.services {
            let id = service.id;
            if !table.insert(service) {
                return Err(serde::de::Error::custom(format!("{id} is there twice")));
            }
            for destination in destinations {
                let address = destination.address;
                if !matches!(table.insert_destination(&id, destination), Ok(None)) {
                    return Err(serde::de::Error::custom(format!("destination {address} of {id} is there twice")));
                }
            }
        }
        table.check().map_err(serde::de::Error::custom)?;
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_the_same_afterwards() {
        let table: Table = "\
--set 900 120 300
--start-daemon master --mcast-interface eth0 --syncid 7 --mcast-ttl 3
--stop-daemon backup
-A -f 3 -6 -s rr -p 60 -M 64 --pe sip
-A -t 192.0.2.1:80 -s mh -b mh-port,flag-3
-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3 -x 9 -y 5
-a -t 192.0.2.1:80 -r 10.0.0.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-A -u 192.0.2.1:53 -s rr -o
"
        .parse()
        .unwrap();
        let json = serde_json::to_string_pretty(&table).unwrap();
        assert_eq!(serde_json::from_str::<Table>(&json).unwrap(), table, "{json}");
        assert!(json.contains("\"id\": \"tcp 192.0.2.1:80\"") && json.contains("\"tcp\": 900"), "{json}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let read = |text: &str| serde_json::from_str::<Table>(text).unwrap_err().to_string();
        let service = r#"{"id": "tcp 192.0.2.1:80", "scheduler": "rr"}"#;
        assert!(read(&format!(r#"{{"services": [{service}, {service}]}}"#)).contains("twice"));
        assert!(read(r#"{"services": [{"id": "tcp 192.0.2.1:0", "scheduler": "rr"}]}"#).contains("port 0"));
        assert!(read(r#"{"service": []}"#).contains("unknown field"));
        assert!(read(r#"{"services": [{"id": "tcp 192.0.2.1", "scheduler": "rr"}]}"#).contains("was expected"));
    }
}
