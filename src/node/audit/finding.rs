//! What an audit finds: typed, with a reason in words and a remedy.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::arp::{AnnounceMode, IgnoreMode};
use crate::ipvs::ServiceId;
use crate::marks::Mac;
use crate::node::{Role, Step};
use crate::vip::{AssignedAddress, Placement};

/// Something that harms now, or will.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// When it harms.
    pub severity: Severity,
    /// What was found where, and what it does, in words.
    pub reason: String,
    /// What to do.
    pub remedy: Remedy,
}

/// `error: arp-answer: arp_ignore on eth0 is 0 ...`, and a line for the remedy.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}\n  {}", self.severity, self.kind.name(), self.reason, self.remedy)
    }
}

/// When a finding harms. The greater is the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Only some uses of the service suffer.
    Notice,
    /// When the director or a server changes next.
    Warning,
    /// Now.
    Error,
}

/// `error`, `warning` or `notice`.
impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        })
    }
}

/// What to do about a finding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Remedy {
    /// In words; empty where `steps` or `commands` say all.
    pub text: String,
    /// What [`Node::fix`](crate::node::Node::fix) does about it: steps of its plan.
    pub steps: Vec<Step>,
    /// What is not the node's to do: commands to be run by hand.
    pub commands: Vec<String>,
}

impl Remedy {
    /// Whether [`Node::fix`](crate::node::Node::fix) does it.
    pub fn is_ours(&self) -> bool {
        !self.steps.is_empty()
    }

    pub(super) fn steps(steps: Vec<Step>) -> Self {
        Remedy { steps, ..Remedy::default() }
    }

    pub(super) fn command(command: impl Into<String>) -> Self {
        Remedy { commands: vec![command.into()], ..Remedy::default() }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Remedy { text: text.into(), ..Remedy::default() }
    }

    pub(super) fn or_text(self, text: impl Into<String>) -> Self {
        Remedy { text: text.into(), ..self }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.steps.is_empty() {
            let steps: Vec<String> = self.steps.iter().map(|step| step.to_string().replace("\n ", ";")).collect();
            parts.push(format!("fix: {}", steps.join("; ")));
        }
        if !self.commands.is_empty() {
            parts.push(format!("by hand: {}", self.commands.join("; ")));
        }
        if !self.text.is_empty() {
            parts.push(self.text.clone());
        }
        f.write_str(&parts.join("\n  "))
    }
}

/// What was found. Each says what it harms, what helps, and where that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// This node answers ARP requests for a VIP on `lo`: clients that hear it before the director
    /// send it their packets. What counts is the greater of `arp_ignore` of `all` and of the
    /// interface, and 3 does not hide a VIP where `route_localnet` is on (`arp_ignore()` in
    /// net/ipv4/arp.c). Found on each interface whose link reaches clients: also on the interface
    /// below a macvlan, or on a second one in the same LAN, which the settings of the first do not
    /// cover. Helps: `arp_ignore=1` there.
    ///
    /// Severity: error, on a director a warning.
    #[non_exhaustive]
    ArpAnswer {
        /// The VIP.
        vip: IpAddr,
        /// The interface that answers.
        interface: String,
        /// What counts there.
        ignore: IgnoreMode,
    },
    /// This node names a VIP on `lo` as sender of its own ARP requests: a host that hears one
    /// sends the VIP's packets here, until the director announces itself again (`arp_solicit()` in
    /// net/ipv4/arp.c). Helps: `arp_announce=2`.
    ///
    /// Severity: error, on a director a warning.
    #[non_exhaustive]
    ArpAnnounce {
        /// The interface.
        interface: String,
        /// What counts there.
        announce: AnnounceMode,
    },
    /// The interface that is named is a port of a bond, team or bridge, and the kernel hands what
    /// it receives to that one (`rx_handler` of the port in net/core/dev.c): no ARP request for a
    /// VIP on it is answered. Or an address on another link has the VIP in its subnet, and none on
    /// the link of the interface has. Helps: to name the other interface.
    ///
    /// Severity: error for a port, else a warning.
    #[non_exhaustive]
    WrongInterface {
        /// The interface that is named.
        interface: String,
        /// The one that may be meant.
        instead: String,
    },
    /// A VIP on `lo` without scope host, which `arp_ignore=3` does not hide: as
    /// [`Kind::ArpAnswer`]. `ip address add` makes it so where it is not told `scope host`, and
    /// `ip address replace` does not mend it. Helps: to remove and to add it.
    ///
    /// Severity: error, on a director a warning.
    #[non_exhaustive]
    LoopbackScope {
        /// The address.
        found: AssignedAddress,
    },
    /// A VIP on `lo` with a prefix shorter than the host's: the whole subnet becomes local (IPv4:
    /// `fib_add_ifaddr()` in net/ipv4/fib_frontend.c) or is routed to `lo` (IPv6), and its
    /// neighbours cannot be reached from here. Helps: to remove it.
    ///
    /// Severity: error.
    #[non_exhaustive]
    LoopbackMask {
        /// The address.
        found: AssignedAddress,
    },
    /// An IPv6 VIP that does not work, or not yet: duplicate detection found it elsewhere
    /// (`dadfailed`), or has not ended (RFC 4862, section 5.4; net/ipv6/addrconf.c). Helps: to add
    /// it with `nodad`.
    ///
    /// Severity: error.
    #[non_exhaustive]
    VipUnusable {
        /// The address.
        found: AssignedAddress,
    },
    /// A VIP is missing where the role wants it: the node does not serve, or clients do not find
    /// the director. Helps: the fix places it; with `vip_owner = "keepalived"` keepalived places
    /// the one on the interface.
    ///
    /// Severity: error.
    #[non_exhaustive]
    VipMissing {
        /// The VIP.
        vip: IpAddr,
        /// Where.
        placement: Placement,
    },
    /// A VIP on the interface of a backup: two nodes answer for it. Helps: the fix removes it;
    /// keepalived's is removed by hand, unless keepalived is MASTER here.
    ///
    /// Severity: error.
    #[non_exhaustive]
    VipOnInterface {
        /// The VIP.
        vip: IpAddr,
        /// The interface.
        interface: String,
    },
    /// A director that answers no ARP request for a VIP on its interface: `arp_ignore` of `all` or
    /// of the interface is 8, which answers none, or 2, which answers those in one subnet with the
    /// VIP, and the interface has no address there (`arp_ignore()` in net/ipv4/arp.c). Clients
    /// find the director until what they learned from its announcement expires. Helps:
    /// `arp_ignore=1`.
    ///
    /// Severity: error, where the node does not direct a warning.
    #[non_exhaustive]
    ArpSilent {
        /// The interface.
        interface: String,
        /// What counts there.
        ignore: IgnoreMode,
    },
    /// A node without the VIP (it was released, or has no role yet) that answers ARP requests for
    /// it all the same: it forwards, and `proxy_arp_pvlan` is on. Its answer comes after the
    /// director's, and clients learn it (`arp_process()` in net/ipv4/arp.c). With a role it does
    /// not. Helps: `proxy_arp_pvlan=0`.
    ///
    /// Severity: error.
    #[non_exhaustive]
    ProxyArp {
        /// The VIP.
        vip: IpAddr,
        /// The interface that answers.
        interface: String,
    },
    /// A VIP on an interface that is neither the one that is named nor `lo`: kube-proxy has put it
    /// on kube-ipvs0, a boot script on a dummy. No role can be taken on. Where ARP is not silenced
    /// this node answers for the VIP, which is an address of its own. Helps: to remove it there,
    /// and from what places it.
    ///
    /// Severity: error.
    #[non_exhaustive]
    VipElsewhere {
        /// The address.
        found: AssignedAddress,
    },
    /// A VIP with the mask of a subnet (`192.0.2.254/24` in keepalived's `virtual_ipaddress`) that
    /// was there before this node's own address, as after a restart of the network: the kernel
    /// removes that address with it (`__inet_del_ifa()` in net/ipv4/devinet.c), and a node that is
    /// demoted can serve no more. Helps: `promote_secondaries=1`; a VIP with /32.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    Secondary {
        /// The VIP.
        vip: IpAddr,
        /// The addresses that go with it.
        addresses: Vec<IpAddr>,
    },
    /// A director without the VIP, which keepalived would have put on its interface: a
    /// notification was lost, or `virtual_ipaddress` lacks the VIP. Helps: role backup where
    /// keepalived is not MASTER; else the VIP in its `virtual_ipaddress`.
    ///
    /// Severity: error.
    #[non_exhaustive]
    RoleDiffers {
        /// What the node takes itself for.
        role: Role,
        /// The VIP.
        vip: IpAddr,
    },
    /// Hosts beside the director answer for a VIP: clients go to one or the other, by chance. The
    /// keepalived of a former director was killed, say, and has left the VIP on its interface; or
    /// another host has the address, or a backup does not hide it. The link is asked for the VIP.
    /// Helps: to remove the VIP where it does not belong; keepalived there, started again; ARP
    /// settings on a backup.
    ///
    /// Severity: error.
    #[non_exhaustive]
    OtherDirector {
        /// The VIP.
        vip: IpAddr,
        /// Who answers, beside this node.
        macs: Vec<Mac>,
    },
    /// keepalived is to elect the director and does not run here, as far as processes show: none
    /// of its name is in this network namespace. A director keeps the VIP while another node takes
    /// it too; a backup is not promoted. It is judged where keepalived's file is read and has the
    /// VIP. Helps: to start it, and units that restart it (examples/systemd).
    ///
    /// Severity: error for a node with the VIP on its interface, else a warning.
    #[non_exhaustive]
    KeepalivedMissing {
        /// The instance's name.
        instance: String,
    },
    /// Fence `clear`, and a backup has services: it schedules the packets that the director sends
    /// it once more, and sends them to a third node. Such packets loop until their TTL ends, and
    /// the client gets EHOSTUNREACH. Helps: the fence. See [`Fence`](crate::node::Fence).
    ///
    /// Severity: error.
    #[non_exhaustive]
    Unfenced {
        /// The services that are live.
        services: Vec<ServiceId>,
    },
    /// A service on an address that is on `lo` of this node and is no VIP of its configuration: a
    /// script has placed it. While another node directs, this one schedules what it is sent for
    /// that address once more, as in [`Kind::Unfenced`]. Helps: to name it among the VIPs.
    ///
    /// Severity: error, on a director a warning.
    #[non_exhaustive]
    UnlistedVip {
        /// The address.
        vip: IpAddr,
        /// Its services.
        services: Vec<ServiceId>,
    },
    /// Fence `marks`, and its rules or services are not those of the role: another program has
    /// removed the qdisc, say. As [`Kind::Unfenced`]. Helps: to add them.
    ///
    /// Severity: error, a notice where something is only to be removed.
    MarksDiffer,
    /// The MAC address of another node is unknown. While that node directs as well, this one
    /// schedules what it sends once more. Helps: a node that answers ARP, or its MAC address in
    /// the configuration.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    PeerUnknown {
        /// The addresses of these nodes, as destinations.
        peers: Vec<IpAddr>,
    },
    /// Another node has the MAC address of a gateway: the node is the gateway, or the gateway
    /// answers ARP requests for it (proxy ARP), and its packets then take the gateway's way. A
    /// rule for that address would mark what clients send, and this node would serve all, so there
    /// is none. A director that is the gateway of a server drops its IPv4 answers to clients
    /// behind it, as their source, the VIP, is its own address (`fib_validate_source()` in
    /// net/ipv4/fib_frontend.c). Helps: an address of the server on the node's own link; another
    /// gateway, or `accept_local=1` on a director that is one.
    ///
    /// Severity: error, a warning where the node is the gateway itself.
    #[non_exhaustive]
    PeerIsGateway {
        /// The node.
        peer: IpAddr,
        /// The gateway.
        gateway: IpAddr,
    },
    /// A destination with direct routing behind a gateway: the gateway routes the VIP back, or
    /// drops it. Helps: a server on the node's own link, or tunnelling.
    ///
    /// Severity: error.
    #[non_exhaustive]
    BehindGateway {
        /// The destination.
        peer: IpAddr,
        /// The gateway.
        gateway: IpAddr,
    },
    /// A destination 127.0.0.1, ::1 or a VIP: the other nodes learn its connections, and each
    /// sends their packets to itself. They break when another node becomes the director. Helps:
    /// the node's own address.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    LoopbackDestination {
        /// The destination.
        address: IpAddr,
        /// Its services.
        services: Vec<ServiceId>,
    },
    /// A destination that this node has no route to: its share of connections fails
    /// (EHOSTUNREACH). Helps: a server on the node's own link.
    ///
    /// Severity: error.
    #[non_exhaustive]
    NoRoute {
        /// The destination.
        address: IpAddr,
        /// Its services.
        services: Vec<ServiceId>,
    },
    /// A destination with NAT that is on a link with clients: it answers them itself, and its
    /// answers bear its own address, which clients ignore. They must pass the director
    /// (`ip_vs_out_hook()` in net/netfilter/ipvs/ip_vs_core.c), which takes the director for a
    /// gateway and no other way to clients. keepalived's `lb_kind NAT`, and what is built without
    /// `-g` elsewhere. Helps: direct routing.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    AnswersItself {
        /// The destination.
        address: IpAddr,
        /// Its services.
        services: Vec<ServiceId>,
    },
    /// A destination that is the first or last address of a subnet of this node: no host has it,
    /// and its share of connections fails. Helps: to remove it.
    ///
    /// Severity: error.
    #[non_exhaustive]
    NoHost {
        /// The destination.
        address: IpAddr,
        /// Its services.
        services: Vec<ServiceId>,
    },
    /// A destination with another port than its service's. Direct routing and tunnels leave the
    /// port as it is (`ip_vs_dr_xmit()` in net/netfilter/ipvs/ip_vs_xmit.c), so the server gets
    /// the packets on the service's port, and one that listens on the other port only refuses
    /// them. Helps: the service's port; NAT where the server cannot listen there.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    OtherPort {
        /// The destination.
        address: IpAddr,
        /// Its services.
        services: Vec<ServiceId>,
    },
    /// This node is a destination of a service, and no socket of it listens on the VIP and port:
    /// the web server does not run, or listens on the node's real address only, and with direct
    /// routing packets arrive with the VIP as their destination. Its share of connections is
    /// refused. Sockets are those of sock_diag(7); NAT and proxies in other network namespaces
    /// have none: [`Config::without_listener`](crate::node::Config::without_listener). Helps: a
    /// server that listens on all addresses (0.0.0.0, ::), or on the VIP too.
    ///
    /// Severity: error, before the first role a warning.
    #[non_exhaustive]
    NotListening {
        /// The services.
        services: Vec<ServiceId>,
        /// The addresses on which its port is listened on.
        only: Vec<IpAddr>,
    },
    /// UDP services that this node serves by a socket on all addresses (0.0.0.0, ::). An answer
    /// bears the VIP as its source only where the program asks for the address that each packet
    /// was sent to (`IP_PKTINFO` in ip(7)) or binds to it; otherwise it bears an address of the
    /// interface, and the client ignores it. The kernel does not show which. Helps: a socket on
    /// the VIP; where the program does ask, `check_listener = false`.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    AnswerSource {
        /// The services.
        services: Vec<ServiceId>,
    },
    /// Whether a socket of this node listens for a service cannot be seen: the kernel lacks the
    /// module tcp_diag, udp_diag or sctp_diag. Helps: to load the module, or to look with `ss
    /// -ln`.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    ListenersUnseen {
        /// The services.
        services: Vec<ServiceId>,
    },
    /// The node's own programs ask a VIP, and their requests are not marked: another server may
    /// get one, whose answer does not reach the program. Another program has removed the rules
    /// (`nft flush ruleset`), or neither nftables nor xtables works here. Helps: to add the rules;
    /// nftables.
    ///
    /// Severity: notice.
    OwnRequests,
    /// The marks of the node's rules do not reach IPVS: a tc filter of another program sets a mark
    /// behind them, or keeps them from being tried, or a rule of the firewall sets a mark without
    /// a test that there is none yet. What another node sends is then scheduled once more. Helps:
    /// a lower priority number and `continue` for the filter; `-m mark --mark 0` or `meta mark 0`
    /// for the rule.
    ///
    /// Severity: error, on a director a warning.
    #[non_exhaustive]
    MarkOverwritten {
        /// The filter or rule.
        by: String,
    },
    /// Services of firewall marks of other programs, and no rule was found that sets these marks:
    /// whether it leaves the node's marks alone is unknown. As [`Kind::MarkOverwritten`]. Helps: a
    /// test in that rule that the packet has no mark yet.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    MarkedServices {
        /// The services.
        services: Vec<ServiceId>,
    },
    /// The firewall drops the first packet of each connection of a service, before IPVS sees it: a
    /// rule accepts the server's own address and not the VIP, say. It is found where that is sure;
    /// tests that are not understood are taken as met by what is accepted. Helps: a rule that
    /// accepts the VIP and port.
    ///
    /// Severity: error.
    #[non_exhaustive]
    Dropped {
        /// The services.
        services: Vec<ServiceId>,
        /// The rule, or the policy.
        by: String,
    },
    /// The firewall drops later packets of TCP connections that the director sends on: it sees the
    /// client's packets only, and connection tracking forgets each when IPVS sends it on. FIN and
    /// RST are invalid to it, so `ct state invalid drop` keeps the end of a connection from the
    /// server, which waits for it; other packets are new without SYN (`tcp_new()` in
    /// net/netfilter/nf_conntrack_proto_tcp.c). The rules of firewalld and ufw do so. Helps: a
    /// rule before it that accepts the VIP and port.
    ///
    /// Severity: error on a director, else a warning.
    #[non_exhaustive]
    HalfSeen {
        /// The services.
        services: Vec<ServiceId>,
        /// The rule, or the policy.
        by: String,
    },
    /// A rule of the firewall gives packets for a VIP another destination (DNAT, REDIRECT) before
    /// IPVS sees them: a container's published port, or the rule that stands in for a VIP on `lo`.
    /// A director does not balance: it serves all clients itself, or none. With fence `marks` a
    /// REDIRECT harms servers, too, as IPVS takes the packet from connection tracking. Helps: to
    /// remove a REDIRECT; with DNAT a rule before it that accepts packets without a mark: those
    /// that other nodes send bear one, with fence `marks`, and are translated still.
    ///
    /// Severity: error on a director, or for a REDIRECT with fence `marks`; else a warning.
    #[non_exhaustive]
    Translated {
        /// The services.
        services: Vec<ServiceId>,
        /// The rule.
        by: String,
    },
    /// `conntrack=1` below net.ipv4.vs, as kube-proxy sets it, and a rule that gives packets
    /// another source (SNAT, MASQUERADE): it meets what the director sends on, too, and the server
    /// answers the director, not the client (`ip_vs_send_or_cont()` in
    /// net/netfilter/ipvs/ip_vs_xmit.c). Helps: a rule before it that leaves packets for the VIP
    /// alone, or `conntrack=0`.
    ///
    /// Severity: error on a director, else a warning.
    #[non_exhaustive]
    Masqueraded {
        /// The services.
        services: Vec<ServiceId>,
        /// The rule.
        by: String,
    },
    /// The firewall drops the other nodes' sync messages (UDP port 8848) or beacons (8847): this
    /// node does not learn their sessions, and they break when it becomes the director. Found
    /// where it is sure, as [`Kind::Dropped`]. Helps: a rule that accepts them.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    SyncDropped {
        /// The UDP ports.
        ports: Vec<u16>,
        /// The rule, or the policy.
        by: String,
    },
    /// The kernel has the destinations of a service with scheduler mh in another order than the
    /// one in which a node loads them. The hash depends on the order, so two nodes may send the
    /// packets of a few unknown connections to different servers (of 4000 clients with three equal
    /// servers, 0.2 to 0.35 % each). The hash depends on each destination's last weight other than
    /// 0, too, which the kernel does not show: a destination that was added with weight 0 is not
    /// found. Helps: to load the service again.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    DestinationOrder {
        /// The services.
        services: Vec<ServiceId>,
    },
    /// `backup_only=1` where a backup sync daemon runs, as on every node: IPVS ignores all
    /// packets, and a director serves alone (`backup_only` in
    /// Documentation/networking/ipvs-sysctl.rst). Helps: `backup_only=0`.
    ///
    /// Severity: error, on a backup a warning.
    BackupOnly,
    /// `sync_threshold` other than `2 0`: with direct routing a director sees the client's packets
    /// only, and the last of the handshake is number 2. With 1 nothing is sent before packet 51,
    /// with 3, the kernel's default, sessions that fall silent after the handshake never are, and
    /// with `2 50` those whose first packet was sent twice (`ip_vs_sync_conn_needed()` in
    /// net/netfilter/ipvs/ip_vs_sync.c). They break when the director crashes. Helps: `2 0`, with
    /// `sync_refresh_period`.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    SyncThreshold {
        /// What was found.
        found: String,
    },
    /// Sysctls of IPVS that the fence and the sync daemons need are not set here: /proc/sys is
    /// read-only, as in a container, or they are to be left alone. Connections may break when the
    /// director changes. Helps: to set them on the host.
    ///
    /// Severity: warning, a notice where they are to be left alone.
    #[non_exhaustive]
    SysctlsDiffer {
        /// Their names, behind `net.ipv4.vs.`.
        names: Vec<String>,
    },
    /// The sync daemon of the role does not run, or is another one: sessions are not sent, or not
    /// received. Helps: the fix starts it.
    ///
    /// Severity: warning.
    SyncDaemon,
    /// The interface of the sync daemons does not exist, or is down: a daemon that runs on it
    /// neither sends nor receives, and the kernel starts none (`ENODEV`; `ENETUNREACH` for one
    /// that sends). Roles are taken on all the same; connections break when the director changes.
    /// Helps: the interface, or another one.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    SyncInterface {
        /// The interface.
        interface: String,
    },
    /// Persistent services without `expire_quiescent_template`: new connections of a known client
    /// go on to a server that a checker gave weight 0, dead or not, until its template expires,
    /// which each of them puts off (`ip_vs_check_template()` in net/netfilter/ipvs/ip_vs_conn.c).
    /// Helps: to set it to 1.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    ExpireQuiescentTemplate {
        /// The services.
        services: Vec<ServiceId>,
    },
    /// Fence `clear` without `expire_nodest_conn`: entries of connections outlive the table, and
    /// while other services keep IPVS at work, their packets are dropped instead of served here
    /// (Documentation/networking/ipvs-sysctl.rst). Helps: to set it to 1.
    ///
    /// Severity: warning, on a backup with services of other programs an error.
    ExpireNodestConn,
    /// Strict `rp_filter` drops packets that the director sends here, as answers to their client
    /// leave by another interface (RFC 3704; `rp_filter` in
    /// Documentation/networking/ip-sysctl.rst). It is judged on the interface that is named, and
    /// on those with an address of this node that is a destination: there the director's packets
    /// arrive. IPv6 has no such setting. Helps: 2 on this interface.
    ///
    /// Severity: error.
    #[non_exhaustive]
    RpFilter {
        /// The interface.
        interface: String,
        /// A client.
        client: IpAddr,
        /// Where answers to it leave.
        through: String,
    },
    /// Fence `clear`, and an instance of keepalived takes the VIP back as soon as it is up again:
    /// before the node has learned the sessions made meanwhile, and those that send just then
    /// break (`nopreempt` in keepalived.conf(5)). With either fence: `nopreempt` with `state
    /// MASTER`, which keepalived ignores. Helps: `nopreempt`, with `state BACKUP`.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    PreemptingVrrp {
        /// The instance's name.
        instance: String,
        /// keepalived's file.
        file: PathBuf,
    },
    /// keepalived places the VIPs (`vip_owner = "keepalived"`), and no instance of its file has
    /// this one (`virtual_ipaddress`, `virtual_ipaddress_excluded` in keepalived.conf(5)): no
    /// director answers for it. Helps: a line in the instance that has the other VIPs; an IPv6
    /// address beside IPv4 ones belongs into `virtual_ipaddress_excluded`.
    ///
    /// Severity: error.
    #[non_exhaustive]
    VipWithoutInstance {
        /// The VIP.
        vip: IpAddr,
        /// keepalived's file.
        file: PathBuf,
    },
    /// An instance of keepalived with `vrrp_strict`, `strict_mode` or `no_accept`: the director
    /// drops all packets for the VIP by a rule of the firewall, as VRRP is for routers
    /// (`Accept_Mode` in RFC 5798, section 6.1). keepalived's sample file had `vrrp_strict` for
    /// years. Helps: to take it out; with VRRPv3, `accept` in the instance.
    ///
    /// Severity: error.
    #[non_exhaustive]
    VipNotAccepted {
        /// The instance's name.
        instance: String,
        /// keepalived's file.
        file: PathBuf,
    },
    /// An instance of keepalived that elects slowly: with the defaults, VRRPv2 and `advert_int 1`,
    /// the VIP is unanswered for up to 3.6 s after a crash of the director: three adverts, and up
    /// to one second by priority (RFC 3768, section 6.1). keepalived rounds an interval to whole
    /// seconds in VRRPv2. Helps: VRRPv3 with `advert_int 0.3`: 0.9 to 1.2 s.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    SlowVrrp {
        /// The instance's name.
        instance: String,
        /// keepalived's file.
        file: PathBuf,
        /// From the director's last advert to an election.
        takes: Duration,
    },
    /// `authentication` in an instance of VRRPv3, which has none (RFC 5798, section 9): keepalived
    /// ignores it. Helps: a firewall.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    VrrpAuthentication {
        /// The instance's name.
        instance: String,
        /// keepalived's file.
        file: PathBuf,
    },
    /// Fence `clear`, and keepalived checks the servers of a service: a backup has no table that
    /// the checks could edit, and after a promotion a server that died meanwhile gets requests.
    /// Helps: fence `marks`.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    ChecksWithoutTable {
        /// The service, as keepalived's file names it.
        service: String,
        /// keepalived's file.
        file: PathBuf,
    },
    /// Scheduler mh, and keepalived removes a server that is down instead of giving it weight 0:
    /// as [`Kind::DestinationOrder`]. Helps: `inhibit_on_failure`.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    ChecksReorder {
        /// The service, as keepalived's file names it.
        service: String,
        /// keepalived's file.
        file: PathBuf,
    },
    /// `lvs_sync_daemon` in keepalived's file (or `lvs_sync_daemon_interface`): the kernel has one
    /// sync daemon of each role. With the settings of the node's, keepalived stops those of the
    /// node; with others, the node takes on no role while one runs. Helps: to remove it.
    ///
    /// Severity: error with the settings of another daemon, else a warning.
    #[non_exhaustive]
    KeepalivedSync {
        /// Its sync id.
        sync_id: u8,
        /// keepalived's file.
        file: PathBuf,
    },
    /// The kernel's table is not what the role wants. Helps: the fix changes it; what a health
    /// check or an operator has changed is no difference.
    ///
    /// Severity: error, on a backup a warning.
    #[non_exhaustive]
    TableDiffers {
        /// How many changes are between them.
        changes: usize,
    },
    /// The kernel refuses a service of the table, mostly as it lacks the scheduler or persistence
    /// engine: a promotion would fail. That was tried in a network namespace made for it. Helps:
    /// the kernel's module, or another scheduler.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    ServiceRefused {
        /// The service.
        service: ServiceId,
    },
    /// The director has no services: it serves alone. Helps: services in the configuration, or
    /// added with ipvsadm.
    ///
    /// Severity: error.
    NoServices,
    /// A UDP service without one-packet scheduling, and `expire_nodest_conn` is 0: a flow (a
    /// resolver that uses one port, say) whose server was removed is dropped for as long as it
    /// goes on, and the timeout after (`ip_vs_in_hook()` in net/netfilter/ipvs/ip_vs_core.c).
    /// Helps: `expire_nodest_conn=1`, or one-packet.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    UdpDropped {
        /// The services.
        services: Vec<ServiceId>,
    },
    /// TCP services with another scheduler than mh, and a shorter timeout than the kernel's 15
    /// minutes (`ipvsadm --set`, `lvs_timeouts` of keepalived): the director forgets a connection
    /// that is silent for longer, and its next packet is answered by a reset. mh finds the server
    /// again. Helps: a longer timeout, on every node.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    TcpTimeout {
        /// The services.
        services: Vec<ServiceId>,
        /// The timeout.
        timeout: Duration,
    },
    /// A defence of IPVS against floods is at work (`drop_entry`, `drop_packet`, `secure_tcp`: 3
    /// is always, 2 while memory is low; Documentation/networking/ipvs-sysctl.rst): it drops what
    /// clients send, too. Helps: 1, which is automatic.
    ///
    /// Severity: error on a director, else a warning.
    #[non_exhaustive]
    Defence {
        /// The names of the sysctls, below net.ipv4.vs.
        names: Vec<String>,
    },
    /// A UDP service without one-packet scheduling, and a long timeout: a flow keeps its server,
    /// though that be dead and have weight 0, until it was silent for so long. Helps: a timeout
    /// shorter than the pauses of clients that repeat themselves (`--set` in ipvsadm(8)), or
    /// one-packet.
    ///
    /// Severity: notice.
    #[non_exhaustive]
    UdpTimeout {
        /// The services.
        services: Vec<ServiceId>,
        /// The timeout.
        timeout: Duration,
    },
    /// The last role that was asked for, or a release, failed, and no role was reached since.
    /// keepalived drops the messages of the programs that it starts, and does not notify again.
    /// Helps: what the message says, then the role once more.
    ///
    /// Severity: error, a warning where the node is as it was before.
    #[non_exhaustive]
    RoleFailed {
        /// The role, or `release`.
        task: String,
    },
    /// The node remembers no role, and has what a role leaves: its state directory was lost, or is
    /// another one. A role that is taken on goes on from there; what it had changed before (ARP
    /// settings, sysctls, services) is not known any more. Helps: to take on a role again, or to
    /// release the node, which gives back what bears its marks and names the rest.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    Forgotten {
        /// What was found, in words.
        signs: Vec<String>,
    },
    /// A role would be refused: an object of another program is in the way, the table does not
    /// suit the fence, or ARP settings cannot be set in a container. It is judged before the first
    /// role too, and for promotion as well as demotion. Helps: what the message says.
    ///
    /// Severity: error.
    Blocked,
    /// Anything else that the role wants otherwise. Helps: the fix.
    ///
    /// Severity: warning.
    #[non_exhaustive]
    OutOfPlace {
        /// What would be done.
        step: Step,
    },
}

impl Kind {
    /// Its name for programs: `arp-answer`. It stays the same from version to version.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::ArpAnswer { .. } => "arp-answer",
            Kind::ArpAnnounce { .. } => "arp-announce",
            Kind::ArpSilent { .. } => "arp-silent",
            Kind::ProxyArp { .. } => "proxy-arp",
            Kind::WrongInterface { .. } => "wrong-interface",
            Kind::LoopbackScope { .. } => "loopback-scope",
            Kind::LoopbackMask { .. } => "loopback-mask",
            Kind::VipUnusable { .. } => "vip-unusable",
            Kind::VipMissing { .. } => "vip-missing",
            Kind::VipOnInterface { .. } => "vip-on-interface",
            Kind::VipElsewhere { .. } => "vip-elsewhere",
            Kind::Secondary { .. } => "secondary",
            Kind::RoleDiffers { .. } => "role-differs",
            Kind::OtherDirector { .. } => "other-director",
            Kind::KeepalivedMissing { .. } => "keepalived-missing",
            Kind::Unfenced { .. } => "unfenced",
            Kind::UnlistedVip { .. } => "unlisted-vip",
            Kind::MarksDiffer => "marks-differ",
            Kind::PeerUnknown { .. } => "peer-unknown",
            Kind::PeerIsGateway { .. } => "peer-is-gateway",
            Kind::BehindGateway { .. } => "behind-gateway",
            Kind::LoopbackDestination { .. } => "loopback-destination",
            Kind::NoRoute { .. } => "no-route",
            Kind::AnswersItself { .. } => "answers-itself",
            Kind::NoHost { .. } => "no-host",
            Kind::OtherPort { .. } => "other-port",
            Kind::NotListening { .. } => "not-listening",
            Kind::AnswerSource { .. } => "answer-source",
            Kind::ListenersUnseen { .. } => "listeners-unseen",
            Kind::OwnRequests => "own-requests",
            Kind::MarkOverwritten { .. } => "mark-overwritten",
            Kind::MarkedServices { .. } => "marked-services",
            Kind::Dropped { .. } => "dropped",
            Kind::HalfSeen { .. } => "half-seen",
            Kind::Translated { .. } => "translated",
            Kind::Masqueraded { .. } => "masqueraded",
            Kind::SyncDropped { .. } => "sync-dropped",
            Kind::DestinationOrder { .. } => "destination-order",
            Kind::BackupOnly => "backup-only",
            Kind::SyncThreshold { .. } => "sync-threshold",
            Kind::SysctlsDiffer { .. } => "sysctls-differ",
            Kind::SyncDaemon => "sync-daemon",
            Kind::SyncInterface { .. } => "sync-interface",
            Kind::ExpireQuiescentTemplate { .. } => "expire-quiescent-template",
            Kind::ExpireNodestConn => "expire-nodest-conn",
            Kind::RpFilter { .. } => "rp-filter",
            Kind::PreemptingVrrp { .. } => "preempting-vrrp",
            Kind::VipWithoutInstance { .. } => "vip-without-instance",
            Kind::VipNotAccepted { .. } => "vip-not-accepted",
            Kind::SlowVrrp { .. } => "slow-vrrp",
            Kind::VrrpAuthentication { .. } => "vrrp-authentication",
            Kind::ChecksWithoutTable { .. } => "checks-without-table",
            Kind::ChecksReorder { .. } => "checks-reorder",
            Kind::KeepalivedSync { .. } => "keepalived-sync",
            Kind::TableDiffers { .. } => "table-differs",
            Kind::ServiceRefused { .. } => "service-refused",
            Kind::NoServices => "no-services",
            Kind::UdpDropped { .. } => "udp-dropped",
            Kind::TcpTimeout { .. } => "tcp-timeout",
            Kind::Defence { .. } => "defence",
            Kind::UdpTimeout { .. } => "udp-timeout",
            Kind::RoleFailed { .. } => "role-failed",
            Kind::Forgotten { .. } => "forgotten",
            Kind::Blocked => "blocked",
            Kind::OutOfPlace { .. } => "out-of-place",
        }
    }
}
