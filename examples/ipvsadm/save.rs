//! `-S`: the table as commands, in numbers.

use std::fmt::Write;

use lvs_dr::ipvs::{Change, Destination, Detail, Forward, Ipvs, ServiceEntry};

use super::options::Columns;
use super::order::{self, Entries};
use super::{Octets, Refusal, json, listing_failed};

pub fn print(ipvs: &mut Ipvs, as_json: bool, out: &mut Octets) -> Result<(), Refusal> {
    let entries = order::sort(ipvs.entries(Detail::Configuration).map_err(listing_failed)?);
    let text = match as_json {
        true => json::line(&json::services(&entries, Columns::Plain, false)),
        false => text(entries),
    };
    out.extend(text.into_bytes());
    Ok(())
}

/// The lines that `-R` reads: those of a [`lvs_dr::ipvs::Table`], without what ipvsadm leaves out.
fn text(entries: Entries) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (ServiceEntry { service, .. }, destinations) in entries {
        let _ = writeln!(text, "{service}");
        for entry in destinations {
            let _ = writeln!(text, "{}", Change::AddDestination(service.id, as_saved(entry.destination)));
        }
    }
    text
}

fn as_saved(destination: Destination) -> Destination {
    match destination.forward {
        Forward::Local => destination.forward(Forward::Direct),
        _ => destination,
    }
    .thresholds(0, 0)
}
