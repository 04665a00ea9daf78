//! `cargo bench --bench scale`: how far a cluster of which every node directs can grow, by a
//! model.
//!
//! The model has the table of scheduler mh as ip_vs_mh.c builds it (4093 places, every member at
//! the places of its own permutation, members of weight 0 replaced by hashing again), routers that
//! spread sessions over their next hops, and the classifier's rules (docs/ecmp.md). Nodes are
//! servers and next hops. What is counted is exact for the model; the permutations are drawn anew,
//! as the kernel's depend on addresses.

use std::collections::BTreeSet;

/// `CONFIG_IP_VS_MH_TAB_INDEX` is 12 by default.
const PLACES: usize = 4093;
const SESSIONS: u64 = 1_000_000;
const SIZES: [usize; 5] = [2, 3, 5, 9, 32];

/// A well mixed number (splitmix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A set of servers: those that the table is built of, and those of weight 0 among them.
#[derive(Clone)]
struct Servers {
    members: Vec<usize>,
    table: Vec<usize>,
    drained: BTreeSet<usize>,
}

impl Servers {
    fn new(members: &[usize]) -> Self {
        const FREE: usize = usize::MAX;
        let mut table = vec![FREE; PLACES];
        let step = |member: usize| 1 + mix(2 * member as u64 + 1) as usize % (PLACES - 1);
        let mut next: Vec<(usize, usize)> =
            members.iter().map(|member| (mix(2 * *member as u64) as usize % PLACES, step(*member))).collect();
        let mut taken = 0;
        'all: loop {
            for (member, (place, step)) in members.iter().zip(&mut next) {
                while table[*place] != FREE {
                    *place = (*place + *step) % PLACES;
                }
                table[*place] = *member;
                taken += 1;
                if taken == PLACES {
                    break 'all;
                }
            }
        }
        Servers { members: members.to_vec(), table, drained: BTreeSet::new() }
    }

    fn drain(&self, member: usize) -> Self {
        let mut drained = self.drained.clone();
        drained.insert(member);
        Servers { drained, ..self.clone() }
    }

    /// The server of a session among all but these nodes.
    fn of(&self, session: u64, but: &[usize]) -> Option<usize> {
        let hash = mix(session);
        let others = |member: &&usize| !but.contains(member) && !self.drained.contains(member);
        // Where no other server is left, those that are drained are asked.
        let is_left = self.members.iter().any(|member| others(&member));
        let is_out = |member: &usize| but.contains(member) || (is_left && self.drained.contains(member));
        // The first by its place, the others by hashing again with an offset.
        let again = (0..PLACES as u64).map(|offset| self.table[mix(hash ^ (offset << 40)) as usize % PLACES]);
        let first = self.table[hash as usize % PLACES];
        std::iter::once(first).chain(again).find(|member| !is_out(member))
    }
}

/// The next hop of a session, as a router chooses that divides its hash among them.
fn next_hop(session: u64, hops: &[usize]) -> usize {
    hops[mix(session ^ 0x5555) as usize % hops.len()]
}

/// How many nodes a packet passes before its session's server; `None`: it never reaches it.
/// `sets`: the present servers, then those before.
fn ways(session: u64, server: usize, hops: &[usize], sets: &[&Servers]) -> Option<usize> {
    let mut asked = vec![next_hop(session, hops)];
    for set in sets {
        if asked.last() == Some(&server) {
            break;
        }
        asked.push(set.of(session, &asked)?);
    }
    (asked.last() == Some(&server)).then_some(asked.len() - 1)
}

/// The shares of sessions, in percent: at once, by one node, by two, ..., and lost.
struct Shares(Vec<f64>, f64);

fn count(servers: &Servers, hops: &[usize], sets: &[&Servers]) -> Shares {
    let (mut by, mut lost) = (vec![0_u64; sets.len() + 1], 0_u64);
    for session in 0..SESSIONS {
        let Some(server) = servers.of(session, &[]) else { continue };
        match ways(session, server, hops, sets) {
            Some(way) => by[way] += 1,
            None => lost += 1,
        }
    }
    let percent = |count: u64| 100.0 * count as f64 / SESSIONS as f64;
    Shares(by.into_iter().map(percent).collect(), percent(lost))
}

fn main() {
    if std::env::args().any(|word| word == "--test" || word == "--list") {
        return;
    }
    one_change();
    several_changes();
    held();
}

fn one_change() {
    println!(
        "Packets of {SESSIONS} sessions that were opened before one change, in percent: the nodes between router and server.\n"
    );
    println!("| nodes | change | 0 | 1 | 2 | lost |\n|---:|---|---:|---:|---:|---:|");
    for size in SIZES {
        let nodes: Vec<usize> = (0..size).collect();
        let before = Servers::new(&nodes);
        let more: Vec<usize> = (0..=size).collect();
        let cases: [(&str, &[usize], Servers); 4] = [
            ("none", &nodes, before.clone()),
            ("a next hop is withdrawn", &nodes[1..], before.clone()),
            ("a server is drained, still a next hop", &nodes, before.drain(0)),
            ("a server is added, and a next hop", &more, Servers::new(&more)),
        ];
        for (change, hops, now) in cases {
            let Shares(by, lost) = count(&before, hops, &[&now, &before]);
            println!("| {size} | {change} | {:.1} | {:.1} | {:.2} | {lost:.3} |", by[0], by[1], by[2]);
        }
    }
    println!();
}

/// Servers are added one after the other, and sessions are as old as the first set.
fn several_changes() {
    println!(
        "Sessions that are lost, in percent, whose last packet was so many changes ago, with so many former sets in the tables:\n"
    );
    println!("| nodes | changes | 0 | 1 | 2 | 3 |\n|---:|---:|---:|---:|---:|---:|");
    for size in SIZES {
        for changes in 1..=4 {
            let sets: Vec<Servers> =
                (size..=size + changes).map(|size| Servers::new(&(0..size).collect::<Vec<_>>())).collect();
            let hops: Vec<usize> = (0..size + changes).collect();
            let known: Vec<&Servers> = sets.iter().rev().collect();
            let lost = (0..=3).map(|former| {
                let Shares(_, lost) = count(&sets[0], &hops, &known[..known.len().min(1 + former)]);
                format!("{lost:.2} |")
            });
            println!("| {size} | {changes} | {}", lost.collect::<Vec<_>>().join(" "));
        }
    }
    println!();
}

/// What a node holds: a table of the kernel for each mark, of pointers.
fn held() {
    println!("What a node holds, whatever the number of sessions: tables of mh in the kernel, MB.\n");
    println!("| nodes | 1 service | 10 services | 64 services |\n|---:|---:|---:|---:|");
    for size in SIZES {
        // The service's, that of the other nodes, and for each other node that of the servers
        // before.
        let tables = 2 + (size - 1);
        let megabytes = |services: usize| (services * tables * PLACES * size_of::<usize>()) as f64 / 1e6;
        println!("| {size} | {:.1} | {:.1} | {:.1} |", megabytes(1), megabytes(10), megabytes(64));
    }
}
