//! `-h` and `-v`.

use super::Octets;

/// A constant, as there: scripts look for the version in it.
pub const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)\n";

const USES: &[&str] = &[
    "-A|-E SERVICE [-s SCHEDULER] [-b FLAGS] [-p [SECONDS] [-M NETMASK] [--pe ENGINE]] [-o]",
    "-D SERVICE",
    "-a|-e SERVICE -r SERVER [-g|-m|-i [TUNNEL]] [-w WEIGHT] [-x UPPER] [-y LOWER]",
    "-d SERVICE -r SERVER",
    "-C",
    "[-L|-l [SERVICE|-c|--timeout|--daemon] [-n] [COLUMNS] [--json]]",
    "-Z [SERVICE]",
    "-S [-n] [--json]",
    "-R",
    "--set TCP TCP_FIN UDP",
    "--start-daemon master|backup [DAEMON]",
    "--stop-daemon master|backup",
    "-h | -v",
];

const REST: &str = "
Commands:
  -A, --add-service        a new virtual service
  -E, --edit-service       a service is set to all of this line; it keeps its servers
  -D, --delete-service     a service goes, with its servers
  -a, --add-server         a new real server of a service
  -e, --edit-server        of a real server, what the line names changes
  -d, --delete-server      a real server goes
  -C, --clear              everything goes
  -L, -l, --list           what there is; without any arguments too
  -Z, --zero               the counters of a service, or all, begin at 0
  -S, --save               the table as command lines, in numbers, to standard output
  -R, --restore            command lines from standard input: all or none of them
      --set                timeouts of TCP, TCP after a FIN, UDP, in seconds; 0 keeps one
      --start-daemon       connections are synchronised: master sends, backup receives
      --stop-daemon        and no longer
  -h, --help               this text
  -v, --version            the version
      --dry-run            with what changes the table: prints the changes, makes none

SERVICE:
  -t, --tcp-service HOST[:PORT]    -u, --udp-service HOST[:PORT]
      --sctp-service HOST[:PORT]   -f, --fwmark-service MARK [-6, --ipv6]
  An IPv6 address stands in brackets, [2001:db8::1]:80. Port 0, every port, needs -p.

Of a service:
  -s, --scheduler NAME     rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos; wlc if not said
  -b, --sched-flags FLAGS  with sh: sh-fallback,sh-port; with mh: mh-fallback,mh-port; else flag-1,flag-2,flag-3
  -p, --persistent [SECONDS]  a client stays with its server; 360 seconds if not said
  -M, --netmask MASK       which part of a client's address counts; of IPv6 a prefix length
      --pe ENGINE          a persistence engine: sip
  -o, --ops                each UDP packet is scheduled by itself

Of a real server:
  -r, --real-server HOST[:PORT]    who it is
  -g, --gatewaying         direct routing, if nothing is said
  -m, --masquerading       NAT
  -i, --ipip               a tunnel
      --tun-type ipip|gue|gre      of which kind
      --tun-port PORT      of gue
      --tun-nocsum, --tun-csum, --tun-remcsum   checksum of gue and gre: none, full, remote (gue only)
  -w, --weight NUMBER      its share; 0 gets no new connections
  -x, --u-threshold NUMBER from so many connections on it gets none
  -y, --l-threshold NUMBER below so many it gets them again

Of a list:
  -n, --numeric            no names
  -c, --connection         the connections
      --persistent-conn    persistence templates; with -c their engines' data
      --timeout, --daemon  the timeouts; the sync daemons
      --stats, --rate      counters; rates
  -X, --exact              in all digits
      --thresholds         the thresholds
      --tun-info           the tunnels
      --nosort, --sort     as the kernel has them; in order, if nothing is said
      --json               as JSON

Of a daemon:
      --mcast-interface NAME       eth0 if not said
      --syncid NUMBER      0 to 255, 0 if not said
      --sync-maxlen OCTETS, --mcast-group ADDRESS, --mcast-port PORT, --mcast-ttl NUMBER
";

pub fn text(program: &[u8]) -> Octets {
    let mut text = [VERSION.as_bytes(), b"Usage:\n"].concat();
    for usage in USES {
        text.extend([b"  ", program, b" ", usage.as_bytes(), b"\n"].concat());
    }
    text.extend(REST.as_bytes());
    text
}
