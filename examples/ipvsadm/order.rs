//! The order in which ipvsadm lists. It compares marks, and addresses word by word, by the sign of
//! their difference in 32 bits: a difference of 2³¹ and more turns the order around, and three can
//! each come before the next. What comes out then depends on the order in which the kernel names
//! them, and on the way in which they are sorted: that of glibc's qsort(3) up to 2.36.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

use lvs_dr::ipvs::{DestinationEntry, Family, ServiceEntry, ServiceId};

/// What is listed: each service with its destinations.
pub type Entries = Vec<(ServiceEntry, Vec<DestinationEntry>)>;

/// Puts what the kernel has listed in ipvsadm's order.
pub fn sort(entries: Entries) -> Entries {
    let sorted = entries.into_iter().map(|(service, destinations)| {
        (service, merge_sort(destinations, &|a, b| compare_addresses(a.destination.address, b.destination.address)))
    });
    merge_sort(sorted.collect(), &|(a, _), (b, _)| compare_services(&a.service.id, &b.service.id))
}

/// The halves are sorted, and then taken from in turn. The standard library's sorts want an order
/// without circles. Entries are large: their places are sorted, and each entry moves once.
fn merge_sort<T>(items: Vec<T>, compare: &impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    if items.len() <= 1 {
        return items;
    }
    let mut places: Vec<usize> = (0..items.len()).collect();
    sort_places(&mut places, &mut Vec::new(), &|a, b| compare(&items[a], &items[b]));
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    places.into_iter().filter_map(|place| items[place].take()).collect()
}

/// `merged` is space to work in.
fn sort_places(places: &mut [usize], merged: &mut Vec<usize>, compare: &impl Fn(usize, usize) -> Ordering) {
    if places.len() <= 1 {
        return;
    }
    let (first, second) = places.split_at_mut(places.len() / 2);
    sort_places(first, merged, compare);
    sort_places(second, merged, compare);
    merged.clear();
    let (mut first, mut second) = (&*first, &*second);
    while let ([a, behind_a @ ..], [b, behind_b @ ..]) = (first, second) {
        if compare(*a, *b).is_le() {
            merged.push(*a);
            first = behind_a;
        } else {
            merged.push(*b);
            second = behind_b;
        }
    }
    // What is left of the second half is in its place.
    merged.extend(first);
    places[..merged.len()].copy_from_slice(merged);
}

fn by_difference(a: u32, b: u32) -> Ordering {
    (a.wrapping_sub(b) as i32).cmp(&0)
}

fn compare_services(a: &ServiceId, b: &ServiceId) -> Ordering {
    // Services without a mark count as those with mark 0.
    let mark = |id: &ServiceId| match id {
        ServiceId::Fwmark { mark, .. } => mark.get(),
        _ => 0,
    };
    let protocol = |id: &ServiceId| match id {
        ServiceId::Fwmark { .. } => 0,
        ServiceId::Tcp(_) => 6,
        ServiceId::Udp(_) => 17,
        ServiceId::Sctp(_) => 132,
    };
    by_difference(mark(a), mark(b))
        .then_with(|| (a.family() == Family::V6).cmp(&(b.family() == Family::V6)))
        .then_with(|| protocol(a).cmp(&protocol(b)))
        .then_with(|| match (a.address(), b.address()) {
            (Some(a), Some(b)) => compare_addresses(a, b),
            _ => Ordering::Equal,
        })
}

/// Of IPv4 there is one word. The first one's family counts.
fn compare_addresses(a: SocketAddr, b: SocketAddr) -> Ordering {
    let counting = if a.is_ipv6() { 4 } else { 1 };
    let words = words(a.ip()).into_iter().zip(words(b.ip())).take(counting);
    let difference = words.map(|(a, b)| by_difference(a, b)).find(|order| order.is_ne());
    difference.unwrap_or_else(|| a.port().cmp(&b.port()))
}

fn words(ip: IpAddr) -> [u32; 4] {
    match ip {
        IpAddr::V4(ip) => [ip.to_bits(), 0, 0, 0],
        IpAddr::V6(ip) => [96, 64, 32, 0].map(|shift| (ip.to_bits() >> shift) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(texts: &[&str]) -> Vec<String> {
        let ids: Vec<ServiceId> = texts.iter().map(|text| text.parse().unwrap()).collect();
        merge_sort(ids, &compare_services).iter().map(ServiceId::to_string).collect()
    }

    #[test]
    fn marks_come_last_and_differences_wrap() {
        let order = [
            "fwmark 4000000000",
            "tcp 255.255.255.254:65535",
            "tcp 1.2.3.4:80",
            "tcp 1.2.3.4:443",
            "udp 1.2.3.4:53",
            "sctp 1.2.3.4:9",
            "tcp [::1]:80",
            "fwmark 1",
            "fwmark 1 ipv6",
            "fwmark 2",
        ];
        let reversed: Vec<&str> = order.iter().rev().copied().collect();
        assert_eq!(sorted(&order), order);
        assert_eq!(sorted(&reversed), order);
    }

    #[test]
    fn circles_depend_on_where_they_begin() {
        let (a, b, c) = ("tcp 10.0.0.1:80", "tcp 100.0.0.1:80", "tcp 192.0.0.1:80");
        for start in [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
            let found = sorted(&start);
            // The first one is compared with the first of the other two, sorted: what is left
            // comes behind.
            assert!(found == [a, b, c] || found == [b, c, a] || found == [c, a, b], "{start:?}: {found:?}");
        }
        assert_eq!(sorted(&[a, b, c]), [a, b, c]);
        assert_eq!(sorted(&[b, a, c]), [b, c, a]);
    }
}
