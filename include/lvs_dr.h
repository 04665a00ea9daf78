/*
 * lvs-dr: Linux IPVS in direct-routing mode on servers that are their own load balancers: IPVS services, the
 * placement of the VIP, ARP settings, and the role of a node. Link with -llvs_dr (pkg-config: lvs_dr). Linux only.
 *
 * Results. Functions return LVS_OK (0) or a negative status, LVS_ERR_...: from -1 on for wrong arguments, -100 for
 * refusals of the kernel, -200 for the system, -300 for a node and objects of other programs, -900 for bugs. Numbers
 * keep their meaning; later versions may add some within these ranges. lvs_last_error_message() returns the message and
 * lvs_last_errno() the errno of the last failure in the calling thread; a call that succeeds changes neither. A
 * result is written only by a call that succeeds. The library prints nothing but the Rust runtime's line about a bug
 * (LVS_ERR_PANIC), and installs no signal or exit handler. When memory runs out, the process is aborted.
 *
 * Time. A call blocks until its work is done. A request to the kernel has a time limit of 5 s (LVS_ERR_NO_ANSWER);
 * functions that wait longer say so. Functions that change a node wait up to 30 s for another process that works on
 * it.
 *
 * Arguments. A pointer must not be NULL unless the function says what NULL means: otherwise LVS_ERR_NULL. Texts are
 * UTF-8 and end with a NUL: names, addresses and ids up to 255 octets, paths 4095, tables 16 MiB. They are copied.
 * Addresses are texts, as in inet_pton(3), with a port "192.168.0.11:80" or "[2001:db8::11]:80"; all numbers are in
 * host byte order.
 *
 * A structure begins with its size. The caller sets it, also in a structure that the library fills, and sets or
 * clears the other fields:
 *
 *     struct lvs_destination server = { .size = sizeof server, .address = "192.168.0.11:80", .weight = 1 };
 *
 * From version 1.0 on, a program works with later libraries, whose structures have more fields at their end: a field
 * that an older program does not have counts as 0, and 0 means the behaviour of the older library. An older library
 * takes a longer structure if the fields that it does not know are 0, otherwise it fails with LVS_ERR_SIZE; in a
 * structure that it fills, it clears them. Before 1.0 each minor version may change structures and functions, and
 * has a SONAME and versions of symbols of its own. All that is here is there since 0.1, unless it says otherwise.
 *
 * Handles (lvs_ipvs, lvs_vips, lvs_arp, lvs_node, lvs_marks, lvs_monitor, lvs_local_marks, lvs_classifier,
 * lvs_driver, lvs_supervisor) are opened by lvs_..._open() and freed by lvs_..._free(). Lists are freed by
 * lvs_..._free() as well. Texts that are returned through a char ** are freed by lvs_text_free(), and must not be
 * written to. A handle belongs to the network namespace that it was opened in, whatever thread uses it. Different
 * handles are independent. Any thread may use a handle, one at a time: a second one gets LVS_ERR_BUSY. No thread may
 * use what is being freed.
 *
 * The process. A thread of the library is started where a handle's network namespace is not that of the calling
 * thread; it blocks all signals, and has ended when the call returns. Otherwise there is none: nft(8) and iptables(8),
 * which functions for a node run, and processes that try what the kernel can load, are waited for by their
 * descriptors. That the program ignores SIGCHLD, or waits for any child, does no harm. After fork(2) the child gets
 * LVS_ERR_FORKED from its parent's handles; freed there, they change nothing for the parent. Descriptors are closed by
 * execve(2). Where /proc is not mounted or a system call is forbidden, calls fail with LVS_ERR_SYSTEM or
 * LVS_ERR_PERMISSION.
 */

#ifndef LVS_DR_H
#define LVS_DR_H

/* Made from src/capi/ by cbindgen: `make header` brings it up to date. */

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* The version of this header; lvs_version() has that of the library. */
#define LVS_VERSION "0.1.0"
#define LVS_VERSION_MAJOR 0
#define LVS_VERSION_MINOR 1
#define LVS_VERSION_PATCH 0

/**
 * Done.
 */
#define LVS_OK 0

/**
 * A pointer that must not be NULL is.
 */
#define LVS_ERR_NULL -1

/**
 * The `size` of a structure is not one that this version knows, a field that this version does not
 * know is set, or a buffer is too small for its text.
 */
#define LVS_ERR_SIZE -2

/**
 * A text is not UTF-8, or too long.
 */
#define LVS_ERR_TEXT -3

/**
 * A table cannot be read; the message has the line.
 */
#define LVS_ERR_PARSE -4

/**
 * A value is not usable; the message says why, and what was expected.
 */
#define LVS_ERR_INVALID -5

/**
 * A list has no entry of this index.
 */
#define LVS_ERR_INDEX -6

/**
 * The handle is in use by another thread, or this is a callback of a call that uses it.
 */
#define LVS_ERR_BUSY -7

/**
 * The handle was opened before fork(2), in the parent process.
 */
#define LVS_ERR_FORKED -8

/**
 * The kernel refused, for a reason that is not among those below: see the errno.
 */
#define LVS_ERR_REFUSED -100

/**
 * `CAP_NET_ADMIN` is missing. IPVS wants it in the initial user namespace.
 */
#define LVS_ERR_PERMISSION -101

/**
 * The kernel has no IPVS, and could not load it.
 */
#define LVS_ERR_NO_IPVS -102

/**
 * The kernel lacks this address family (usually IPv6 switched off).
 */
#define LVS_ERR_NO_FAMILY -103

/**
 * The scheduler, persistence engine, or part of traffic control (cls_bpf, act_skbedit) is
 * unknown, and its module could not be loaded.
 */
#define LVS_ERR_NO_MODULE -104

/**
 * No such virtual service.
 */
#define LVS_ERR_NO_SERVICE -105

/**
 * No such destination.
 */
#define LVS_ERR_NO_DESTINATION -106

/**
 * The virtual service is there already.
 */
#define LVS_ERR_SERVICE_EXISTS -107

/**
 * The destination is there already.
 */
#define LVS_ERR_DESTINATION_EXISTS -108

/**
 * A number is outside of what the kernel accepts.
 */
#define LVS_ERR_OUT_OF_RANGE -109

/**
 * No such network interface.
 */
#define LVS_ERR_NO_INTERFACE -110

/**
 * The network interface is down, or has no carrier.
 */
#define LVS_ERR_INTERFACE_DOWN -111

/**
 * The address is there already.
 */
#define LVS_ERR_ADDRESS_EXISTS -112

/**
 * The address is not there.
 */
#define LVS_ERR_NO_ADDRESS -113

/**
 * The sync daemon runs already.
 */
#define LVS_ERR_DAEMON_RUNS -114

/**
 * The sync daemon does not run.
 */
#define LVS_ERR_NO_DAEMON -115

/**
 * The kernel ran out of memory or buffers.
 */
#define LVS_ERR_NO_MEMORY -117

/**
 * The kernel finds the request wrong without saying why.
 */
#define LVS_ERR_REQUEST -118

/**
 * A system call other than a request to IPVS or to routing failed: see the errno.
 */
#define LVS_ERR_SYSTEM -200

/**
 * The kernel did not answer in time. Whether the change was made is not known: read it back.
 */
#define LVS_ERR_NO_ANSWER -201

/**
 * An answer of the kernel is not understood.
 */
#define LVS_ERR_MALFORMED -202

/**
 * The address, service, mark or setting belongs to another program, and is left as it was.
 */
#define LVS_ERR_FOREIGN -300

/**
 * A file in the state directory is damaged, or was written by a later version.
 */
#define LVS_ERR_STATE -301

/**
 * Superseded by a later request for a role, which arrived while this one waited.
 */
#define LVS_ERR_SUPERSEDED -302

/**
 * Another process held the node's lock until the time limit.
 */
#define LVS_ERR_LOCKED -303

/**
 * The kernel reported no error for a change, but does not show its effect.
 */
#define LVS_ERR_NOT_VERIFIED -304

/**
 * A bug in this library: the Rust runtime has printed a line about it to the standard error. The
 * handles that were used can only be freed.
 */
#define LVS_ERR_PANIC -900

/**
 * The size of the longest id of a service, and of the longest address with its port, in octets,
 * with the NUL at its end.
 */
#define LVS_ID_SIZE 64

/**
 * Each UDP packet is scheduled by itself. These flags are the kernel's, IP_VS_SVC_F_* in
 * linux/ip_vs.h.
 */
#define LVS_SERVICE_ONE_PACKET 4

/**
 * The scheduler's first flag: for sh and mh, another destination is chosen where the first choice
 * has weight 0 or is overloaded.
 */
#define LVS_SERVICE_SCHED1 8

/**
 * The scheduler's second flag: for sh and mh, the source port counts too.
 */
#define LVS_SERVICE_SCHED2 16

/**
 * The scheduler's third flag.
 */
#define LVS_SERVICE_SCHED3 32

/**
 * NAT. These numbers are the kernel's, IP_VS_CONN_F_* in linux/ip_vs.h.
 */
#define LVS_FORWARD_MASQUERADE 0

/**
 * The director itself.
 */
#define LVS_FORWARD_LOCAL 1

/**
 * Packets travel inside others, see `tunnel`.
 */
#define LVS_FORWARD_TUNNEL 2

/**
 * Direct routing: packets are passed on unchanged.
 */
#define LVS_FORWARD_DIRECT 3

/**
 * A method that this library does not know: it is listed, but never set.
 */
#define LVS_FORWARD_OTHER 255

/**
 * IP in IP.
 */
#define LVS_TUNNEL_IPIP 0

/**
 * Generic UDP encapsulation, to `tunnel_port`.
 */
#define LVS_TUNNEL_GUE 1

/**
 * Generic routing encapsulation.
 */
#define LVS_TUNNEL_GRE 2

/**
 * A type that this library does not know: it is listed, but never set.
 */
#define LVS_TUNNEL_OTHER 255

/**
 * The outer packet has no checksum.
 */
#define LVS_CHECKSUM_NONE 0

/**
 * The outer packet has a checksum of all of it.
 */
#define LVS_CHECKSUM_FULL 1

/**
 * The outer packet's checksum is left to the receiver; not with GRE.
 */
#define LVS_CHECKSUM_REMOTE 2

/**
 * The sync daemon that sends the connections of this node. The numbers are the kernel's,
 * IP_VS_STATE_* in linux/ip_vs.h.
 */
#define LVS_SYNC_MASTER 1

/**
 * The sync daemon that receives the connections of other nodes.
 */
#define LVS_SYNC_BACKUP 2

/**
 * In lvs_connection: it came or went while the table was read, and where it comes from is not
 * known.
 */
#define LVS_ORIGIN_UNKNOWN 0

/**
 * In lvs_connection: this node has scheduled it.
 */
#define LVS_ORIGIN_LOCAL 1

/**
 * In lvs_connection: this node has learned it from another one's sync daemon.
 */
#define LVS_ORIGIN_SYNC 2

/**
 * In lvs_place: it does not expire.
 */
#define LVS_PLACE_PERMANENT 1

/**
 * In lvs_place: its preferred lifetime is over, and it is not the source of new connections.
 */
#define LVS_PLACE_DEPRECATED 2

/**
 * In lvs_place: IPv6 duplicate address detection has not ended, so the address is not usable yet.
 */
#define LVS_PLACE_TENTATIVE 4

/**
 * In lvs_place: IPv6 duplicate address detection found the address on another node, so it is not
 * usable.
 */
#define LVS_PLACE_DAD_FAILED 8

/**
 * In lvs_place: another program added it; this library neither changes nor removes it.
 */
#define LVS_PLACE_FOREIGN 16

/**
 * No role yet.
 */
#define LVS_ROLE_NONE 0

/**
 * The director: schedules connections, and serves its share of them. The numbers of the roles are
 * none of keepalived's states (VRRP_STATE_*), so that a state that is passed as a role is
 * LVS_ERR_INVALID.
 */
#define LVS_ROLE_MASTER 17

/**
 * Serves the connections that the director sends to it.
 */
#define LVS_ROLE_BACKUP 18

/**
 * Like LVS_ROLE_BACKUP: VRRP found a fault.
 */
#define LVS_ROLE_FAULT 19

/**
 * Like LVS_ROLE_BACKUP: VRRP was stopped. The node continues to serve; see lvs_node_release().
 */
#define LVS_ROLE_STOP 20

/**
 * The node adds the VIP to the interface, announces it, and removes it.
 */
#define LVS_VIP_OWNER_NODE 0

/**
 * keepalived or another program moves the VIP on the interface. The node handles only the VIP on
 * `lo`.
 */
#define LVS_VIP_OWNER_KEEPALIVED 1

/**
 * Routers spread the connections over all nodes, and each node directs. The VIP is on `lo` only;
 * LVS_ROLE_MASTER has a route by which a routing daemon advertises it.
 */
#define LVS_VIP_OWNER_ROUTES 2

/**
 * The default of this version: LVS_FENCE_MARKS.
 */
#define LVS_FENCE_DEFAULT 0

/**
 * A backup has no services: its table is kept in the state directory, and restored at promotion.
 * For kernels without the modules that LVS_FENCE_MARKS needs.
 */
#define LVS_FENCE_CLEAR 1

/**
 * Every node has the same table. tc rules mark the packets that come from the MAC address of
 * another node, and this node serves them itself. Needs cls_bpf and act_skbedit in the kernel.
 *
 * 2, 3 and 4 are reserved: they were the fences quiesce, stateless and backup-only of earlier
 * versions. They fail with LVS_ERR_INVALID; pass LVS_FENCE_DEFAULT instead.
 */
#define LVS_FENCE_MARKS 5

/**
 * The VIP is always on `lo`. On the director it is on the interface as well.
 */
#define LVS_LOOPBACK_ALWAYS 0

/**
 * The VIP is on `lo` of backups only.
 */
#define LVS_LOOPBACK_BACKUP 1

/**
 * The node sets arp_ignore 1 and arp_announce 2 on each interface whose link reaches clients: the
 * one that is named, those on the same link (the interface below a macvlan), and those with an
 * address in the subnet of one of these or of a VIP.
 */
#define LVS_ARP_DEFAULT 0

/**
 * The node leaves ARP settings alone.
 */
#define LVS_ARP_LEAVE 1

/**
 * The node sets `arp_ignore` and `arp_announce` on these interfaces.
 */
#define LVS_ARP_INTERFACE 2

/**
 * The node sets `arp_ignore` and `arp_announce` for all interfaces.
 */
#define LVS_ARP_ALL 3

/**
 * With LVS_FENCE_MARKS, requests of the node's own programs to a VIP are served by this node.
 * Needs nftables or xtables; lvs_node_audit() reports when the node has neither.
 */
#define LVS_OWN_REQUESTS_SERVED_HERE 0

/**
 * Requests of the node's own programs are left alone. The kernel schedules them like a client's,
 * and the answer of another server does not reach the program.
 */
#define LVS_OWN_REQUESTS_LEFT_ALONE 1

/**
 * For lvs_node_apply(): changes what differs between the configuration and the one that was
 * loaded last. Changes that other programs made to the kernel's table stay.
 */
#define LVS_NODE_APPLY_CHANGES 0

/**
 * For lvs_node_apply(): sets all configured services to the configuration. Changes that other
 * programs made to them are undone.
 */
#define LVS_NODE_APPLY_ALL 1

/**
 * The weight becomes 0, and what it was is remembered.
 */
#define LVS_WEIGH_DRAIN 1

/**
 * The weight becomes what it was before it was drained, where it is 0 still.
 */
#define LVS_WEIGH_UNDRAIN 2

/**
 * The weight becomes the one that is given.
 */
#define LVS_WEIGH_SET 3

/**
 * For lvs_node_ask_for_connections(): the director has sent its connections.
 */
#define LVS_ASKED_LEARNED 1

/**
 * A director was received, and has not sent them in time.
 */
#define LVS_ASKED_NOT_SENT 2

/**
 * No director was received: an lvs_supervisor answers there.
 */
#define LVS_ASKED_NO_DIRECTOR 3

/**
 * The size of an address in a structure, in octets, with the NUL at its end.
 */
#define LVS_ADDRESS_SIZE 48

/**
 * In lvs_finding: only some uses of the service suffer.
 */
#define LVS_SEVERITY_NOTICE 1

/**
 * In lvs_finding: it does harm when the director or a server changes next.
 */
#define LVS_SEVERITY_WARNING 2

/**
 * In lvs_finding: it does harm now.
 */
#define LVS_SEVERITY_ERROR 3

/**
 * In lvs_rule: TCP packets without SYN, to `port` or to any port.
 */
#define LVS_PACKETS_LATER 0

/**
 * In lvs_rule: packets of any protocol that come from the MAC address `mac`.
 */
#define LVS_PACKETS_FROM 1

/**
 * In lvs_rule: TCP packets with SYN and without ACK.
 */
#define LVS_PACKETS_OPENING 2

/**
 * The size of an interface's name in a structure, in octets, with the NUL at its end:
 * IF_NAMESIZE.
 */
#define LVS_INTERFACE_SIZE 16

/**
 * The size of a MAC address in a structure, in octets, with the NUL at its end.
 */
#define LVS_MAC_SIZE 24

/**
 * There is no event at present.
 */
#define LVS_EVENT_NONE 0

/**
 * A neighbour is new, or its MAC address or state changed.
 */
#define LVS_EVENT_NEIGHBOUR 1

/**
 * The kernel forgot a neighbour.
 */
#define LVS_EVENT_NEIGHBOUR_GONE 2

/**
 * An interface is new or changed: its name, flags, MAC address or master.
 */
#define LVS_EVENT_INTERFACE 3

/**
 * An interface was removed, or moved to another network namespace.
 */
#define LVS_EVENT_INTERFACE_GONE 4

/**
 * An address of an interface is new or changed.
 */
#define LVS_EVENT_ADDRESS 5

/**
 * An address of an interface was removed.
 */
#define LVS_EVENT_ADDRESS_GONE 6

/**
 * Notifications were lost, because they came faster than they were read: read everything again.
 */
#define LVS_EVENT_MISSED 7

/**
 * Nothing that is installed can set a mark, see lvs_marked_reason().
 */
#define LVS_BACKEND_NONE 0

/**
 * nftables, by nft(8): `table inet lvs-dr`, all of it.
 */
#define LVS_BACKEND_NFT 1

/**
 * xtables, by iptables(8) and ip6tables(8): rules of chain OUTPUT in table mangle with the
 * comment `lvs-dr`.
 */
#define LVS_BACKEND_XTABLES 2

/**
 * Take on a role, as lvs_node_become_role() does.
 */
#define LVS_TASK_ROLE 1

/**
 * Give everything back, as lvs_node_release() does.
 */
#define LVS_TASK_RELEASE 2

/**
 * Load what was changed in the configured services, as lvs_node_apply() does with
 * LVS_NODE_APPLY_CHANGES.
 */
#define LVS_TASK_APPLY 3

/**
 * Undo what other programs have changed, as lvs_node_repair() does.
 */
#define LVS_TASK_REPAIR 4

/**
 * Add the VIPs that other programs have removed, and look at nothing else.
 */
#define LVS_TASK_RESTORE_VIPS 5

/**
 * Change the weights of a server's destinations, as lvs_node_weigh() does. It is asked for by
 * lvs_driver_request_weigh().
 */
#define LVS_TASK_WEIGH 6

/**
 * Do what can be done about an audit's findings, as lvs_node_fix() does.
 */
#define LVS_TASK_FIX 7

/**
 * Set all configured services to the configuration, as lvs_node_apply() does with
 * LVS_NODE_APPLY_ALL.
 */
#define LVS_TASK_APPLY_ALL 8

/**
 * There is no report at present.
 */
#define LVS_REPORT_NONE 0

/**
 * A step is carried out next. The text is the step's.
 */
#define LVS_REPORT_STEP 1

/**
 * A task has ended. The text is the plan that was carried out, or the error message.
 */
#define LVS_REPORT_ENDED 2

/**
 * For lvs_supervisor_config: roles only. Nothing is repaired, and the other nodes are not heard.
 */
#define LVS_SUPERVISOR_ONLY_ROLES 1

/**
 * There is no notice at present.
 */
#define LVS_NOTICE_NONE 0

/**
 * This step of a role is carried out next, or was carried out when a role was tried again.
 */
#define LVS_NOTICE_STEP 1

/**
 * What other programs have changed in `group` is set right.
 */
#define LVS_NOTICE_REPAIR 2

/**
 * keepalived's VIPs show that `group` has `role`, which was not notified. It is taken on.
 */
#define LVS_NOTICE_SHOWN 3

/**
 * The node has learned `count` of `total` connections of the director, as far as it does.
 */
#define LVS_NOTICE_LEARNED 4

/**
 * `count` connections were sent to the other nodes.
 */
#define LVS_NOTICE_RESYNCED 5

/**
 * The node takes part in elections (`count` is 1), or stays out until it knows the director's
 * connections (0).
 */
#define LVS_NOTICE_ELECTIONS 6

/**
 * Another node directs `group` (`count` is 1), or the one that did is not received any more (0).
 */
#define LVS_NOTICE_DIRECTOR 7

/**
 * The sync daemons were started again, as their interface was made anew.
 */
#define LVS_NOTICE_SYNC_RESTARTED 8

/**
 * What an operator should know.
 */
#define LVS_NOTICE_WARNING 9

/**
 * What has failed, and why. It is tried again.
 */
#define LVS_NOTICE_FAILURE 10

/**
 * A notice that this version of the interface has no number for.
 */
#define LVS_NOTICE_OTHER 11

/**
 * In lvs_notice: it is about no single group.
 */
#define LVS_NO_GROUP 4294967295

/**
 * In lvs_other_node: its table or this node's is not known.
 */
#define LVS_TABLE_NOT_KNOWN 0

/**
 * In lvs_other_node: its table is this node's.
 */
#define LVS_TABLE_EQUAL 1

/**
 * In lvs_other_node: its table is another than this node's.
 */
#define LVS_TABLE_DIFFERS 2

/**
 * Reads and changes the ARP settings of one network namespace.
 */
typedef struct lvs_arp lvs_arp;

/**
 * Attaches a BPF program to an interface that marks arriving TCP packets by whether a socket of
 * this node takes them, and changes what it knows.
 *
 * A packet of this node's connections gets `local`; one with SYN from a peer gets `local`, one
 * from elsewhere none. A packet without SYN that no socket takes gets `elsewhere`, or `before`
 * and the number of the peer that it comes from, or `local`. The marks lead to IPVS services of
 * yours. The manual of the crate (marks::Classifier) and docs/ecmp.md say more.
 *
 * Takes Linux 5.8, and CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN in the initial user namespace.
 */
typedef struct lvs_classifier lvs_classifier;

/**
 * Classifiers that are attached, and what they know and have counted. Several threads may read
 * one list.
 */
typedef struct lvs_classifiers lvs_classifiers;

/**
 * Connections, as they were when the list was made. Several threads may read one list.
 */
typedef struct lvs_connections lvs_connections;

/**
 * Destinations, as they were when the list was made. Several threads may read one list.
 */
typedef struct lvs_destinations lvs_destinations;

/**
 * A node that a program with a loop of its own drives.
 */
typedef struct lvs_driver lvs_driver;

/**
 * What an audit has found. Several threads may read one list.
 */
typedef struct lvs_findings lvs_findings;

/**
 * A client of IPVS in one network namespace.
 */
typedef struct lvs_ipvs lvs_ipvs;

/**
 * Sets the marks of packets that programs of this node send to a VIP, in one network namespace:
 * IPVS schedules these too, and a mark leads them to a service of yours with this node as its
 * only destination. A namespace has one set of marks, whichever process has set it: a node with
 * LVS_FENCE_MARKS and LVS_OWN_REQUESTS_SERVED_HERE replaces what this sets.
 *
 * A call runs nft(8) or iptables(8), one after the other: milliseconds where nothing has to be
 * changed. A program that takes longer than 5 s is killed, so that a call blocks for less than a
 * minute. Takes CAP_NET_ADMIN, and CAP_NET_RAW for iptables in its legacy variant. Fails with
 * LVS_ERR_SYSTEM where the namespace cannot be entered, or a program that worked before fails.
 */
typedef struct lvs_local_marks lvs_local_marks;

/**
 * Marks that are in force, as they were when the list was made. Several threads may read one
 * list.
 */
typedef struct lvs_marked lvs_marked;

/**
 * Adds and removes rules that mark packets, in one network namespace: filters of tc(8) on arriving
 * packets. A node with LVS_FENCE_MARKS has rules of its own, which this leaves alone.
 */
typedef struct lvs_marks lvs_marks;

/**
 * Receives the kernel's notifications about neighbours, interfaces and addresses of one network
 * namespace. Open it before you read what it is about, so that no change is missed between the
 * two.
 */
typedef struct lvs_monitor lvs_monitor;

/**
 * Neighbours, as they were when the list was made. Several threads may read one list.
 */
typedef struct lvs_neighbours lvs_neighbours;

/**
 * A node of the cluster, for one group of VIPs.
 */
typedef struct lvs_node lvs_node;

/**
 * The other nodes of a cluster, as they were when the list was made. Several threads may read one
 * list.
 */
typedef struct lvs_other_nodes lvs_other_nodes;

/**
 * Other nodes, see lvs_status_peers().
 */
typedef struct lvs_peers lvs_peers;

/**
 * The places of an address, as they were when the list was made. Several threads may read one
 * list.
 */
typedef struct lvs_places lvs_places;

/**
 * Rules that mark packets, see lvs_status_rules() and lvs_marks_rules().
 */
typedef struct lvs_rules lvs_rules;

/**
 * Services, as they were when the list was made. Several threads may read one list.
 */
typedef struct lvs_services lvs_services;

/**
 * The status of a node, as it was when it was read. Several threads may read one status.
 */
typedef struct lvs_status lvs_status;

/**
 * Supervises a node, all its groups: follows keepalived, repairs, tells and hears the other nodes,
 * as `lvs-node watch` does.
 */
typedef struct lvs_supervisor lvs_supervisor;

/**
 * The sync daemons that ran when the list was made. Several threads may read one list.
 */
typedef struct lvs_sync_daemons lvs_sync_daemons;

/**
 * Texts, a line or more each. Several threads may read one list.
 */
typedef struct lvs_texts lvs_texts;

/**
 * Finds and changes the VIPs of one network namespace.
 */
typedef struct lvs_vips lvs_vips;

/**
 * A virtual service: what is balanced, and how.
 */
typedef struct lvs_service {
    /**
     * sizeof(struct lvs_service).
     */
    size_t size;
    /**
     * "tcp 192.168.0.254:80", "udp [2001:db8::fe]:53", "sctp ...", "fwmark 1" or "fwmark 1 ipv6".
     */
    const char *id;
    /**
     * How a destination is chosen, as -s in ipvsadm(8): "wrr".
     */
    const char *scheduler;
    /**
     * LVS_SERVICE_...
     */
    uint32_t flags;
    /**
     * For how many seconds a client stays with its destination, up to 2678400; 0: it does not.
     */
    uint32_t persistence;
    /**
     * With persistence, which part of a client's address counts, as -M in ipvsadm(8):
     * "255.255.255.0", for IPv6 "64". NULL: all of it.
     */
    const char *netmask;
    /**
     * The persistence engine that tells clients apart: "sip". NULL: their addresses do.
     */
    const char *engine;
} lvs_service;

/**
 * A destination: a real server of a virtual service.
 */
typedef struct lvs_destination {
    /**
     * sizeof(struct lvs_destination).
     */
    size_t size;
    /**
     * "192.168.0.11:80" or "[2001:db8::11]:80".
     */
    const char *address;
    /**
     * Its share of new connections, up to 2147483647; 0: it gets none, and keeps those that it
     * has.
     */
    uint32_t weight;
    /**
     * LVS_FORWARD_...
     */
    uint32_t forward;
    /**
     * From this many connections on it gets no new ones. 0: no limit.
     */
    uint32_t upper_threshold;
    /**
     * Below this many it gets new ones again. 0: three quarters of the upper one.
     */
    uint32_t lower_threshold;
    /**
     * With LVS_FORWARD_TUNNEL: LVS_TUNNEL_...; otherwise this and the next two are 0.
     */
    uint32_t tunnel;
    /**
     * With LVS_TUNNEL_GUE and LVS_TUNNEL_GRE: LVS_CHECKSUM_...
     */
    uint32_t tunnel_checksum;
    /**
     * With LVS_TUNNEL_GUE: the UDP port, 1 to 65535, in host byte order like every number here.
     */
    uint32_t tunnel_port;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_destination;

/**
 * Says whether a service belongs to the program: returns 0 if it does not. `id`: "tcp
 * 192.168.0.254:80"; it is there until the function returns. `context`: as it was passed with the
 * function. It must return: neither longjmp(3) nor a C++ exception may leave it.
 */
typedef int (*lvs_owns)(const char *id, void *context);

/**
 * What has passed, and how fast. The kernel updates both about every two seconds. With direct
 * routing the answers do not pass the director: their counters stay 0.
 */
typedef struct lvs_counters {
    /**
     * sizeof(struct lvs_counters).
     */
    size_t size;
    /**
     * Connections scheduled since the service or destination was added, or its counters were set
     * to 0.
     */
    uint64_t connections;
    /**
     * Packets from clients.
     */
    uint64_t packets_in;
    /**
     * Packets to clients.
     */
    uint64_t packets_out;
    /**
     * Octets from clients.
     */
    uint64_t bytes_in;
    /**
     * Octets to clients.
     */
    uint64_t bytes_out;
    /**
     * Connections a second.
     */
    uint64_t connection_rate;
    /**
     * Packets a second from clients.
     */
    uint64_t packet_rate_in;
    /**
     * Packets a second to clients.
     */
    uint64_t packet_rate_out;
    /**
     * Octets a second from clients.
     */
    uint64_t byte_rate_in;
    /**
     * Octets a second to clients.
     */
    uint64_t byte_rate_out;
    /**
     * Of a destination: established connections (TCP, SCTP). 0 for a service.
     */
    uint64_t active;
    /**
     * Of a destination: connections in other states; of UDP and of firewall marks, all. 0 for a
     * service.
     */
    uint64_t inactive;
    /**
     * Of a destination: persistence templates, clients that come back to it. 0 for a service.
     */
    uint64_t persistent;
} lvs_counters;

/**
 * What has become of a destination that was drained.
 */
typedef struct lvs_drained {
    /**
     * sizeof(struct lvs_drained).
     */
    size_t size;
    /**
     * The weight that it had before.
     */
    uint32_t weight;
    /**
     * 1 if its connections were gone before the time limit, otherwise 0.
     */
    uint32_t empty;
    /**
     * Connections that are still established.
     */
    uint32_t active;
    /**
     * Connections in other states, which end by themselves; of UDP and of firewall marks, all.
     */
    uint32_t inactive;
    /**
     * Persistence templates: clients that come back to it for a while.
     */
    uint32_t persistent;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_drained;

/**
 * What IPVS says of itself.
 */
typedef struct lvs_info {
    /**
     * sizeof(struct lvs_info).
     */
    size_t size;
    /**
     * The version of IPVS in the kernel: 1, 2, 1 for many years.
     */
    uint32_t version_major;
    /**
     * See `version_major`.
     */
    uint32_t version_minor;
    /**
     * See `version_major`.
     */
    uint32_t version_patch;
    /**
     * The number of buckets of the connection table. From kernel 7.2 on it grows with the load,
     * and is 0 before the first service.
     */
    uint32_t connection_table_size;
} lvs_info;

/**
 * How long the kernel remembers a connection that is silent, in seconds, up to 2678400 (31 days).
 */
typedef struct lvs_timeouts {
    /**
     * sizeof(struct lvs_timeouts).
     */
    size_t size;
    /**
     * An established TCP connection. In this and the next two, 0 leaves it as it is.
     */
    uint32_t tcp;
    /**
     * A TCP connection that its client has closed.
     */
    uint32_t tcp_fin;
    /**
     * A UDP flow.
     */
    uint32_t udp;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_timeouts;

/**
 * A sync daemon, see `--start-daemon` in ipvsadm(8). What is 0 or NULL is the kernel's choice when
 * a daemon is started; of one that runs, all is known.
 */
typedef struct lvs_sync_daemon {
    /**
     * sizeof(struct lvs_sync_daemon).
     */
    size_t size;
    /**
     * The interface that the messages pass: "eth0".
     */
    const char *interface;
    /**
     * The multicast group; NULL: 224.0.0.81.
     */
    const char *group;
    /**
     * LVS_SYNC_MASTER or LVS_SYNC_BACKUP.
     */
    uint32_t role;
    /**
     * Which daemons belong together, 0 to 255. A backup with 0 listens to all.
     */
    uint32_t sync_id;
    /**
     * The longest message, in octets of UDP payload, up to 65535; 0: what fits the interface.
     */
    uint32_t max_length;
    /**
     * The UDP port, in host byte order; 0: 8848.
     */
    uint32_t port;
    /**
     * How many routers a message may pass, up to 255; 0: 1.
     */
    uint32_t ttl;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_sync_daemon;

/**
 * A connection, or a persistence template: where the next connections of a client go.
 */
typedef struct lvs_connection {
    /**
     * sizeof(struct lvs_connection).
     */
    size_t size;
    /**
     * The client: "192.0.2.9:40000". The port of a template is 0.
     */
    const char *client;
    /**
     * The address of the service. Of a template of a firewall mark, the mark stands in place of
     * an address.
     */
    const char *service;
    /**
     * The real server.
     */
    const char *destination;
    /**
     * The name of the state, as in `ipvsadm -Lnc`: "ESTABLISHED".
     */
    const char *state;
    /**
     * The name of the persistence engine; NULL: none.
     */
    const char *engine;
    /**
     * With an engine: what it tells clients apart by. Otherwise NULL.
     */
    const char *engine_data;
    /**
     * IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP; 0 for a template of a firewall mark; 255 for one
     * that this library does not know.
     */
    uint32_t protocol;
    /**
     * LVS_ORIGIN_...
     */
    uint32_t origin;
    /**
     * When it is forgotten if nothing more comes, in seconds.
     */
    uint32_t expires;
    /**
     * 1 for a persistence template, otherwise 0.
     */
    uint32_t is_template;
} lvs_connection;

/**
 * An address on an interface.
 */
typedef struct lvs_place {
    /**
     * sizeof(struct lvs_place).
     */
    size_t size;
    /**
     * The address, without its prefix length.
     */
    const char *address;
    /**
     * The other end of a point-to-point address, or NULL.
     */
    const char *peer;
    /**
     * The interface's name.
     */
    const char *interface;
    /**
     * The interface's index.
     */
    uint32_t index;
    /**
     * The prefix length.
     */
    uint32_t prefix;
    /**
     * How far the address is valid: RT_SCOPE_... in linux/rtnetlink.h. 0 is global, 254 host.
     */
    uint32_t scope;
    /**
     * LVS_PLACE_...
     */
    uint32_t flags;
    /**
     * Who added it: IFA_PROTO in linux/if_addr.h. 86 is this library, 18 keepalived, 0 not known.
     */
    uint32_t mark;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_place;

/**
 * ARP settings, as in /proc/sys/net/ipv4/conf. To hide a VIP on `lo`, 1 and 2 are what to use.
 */
typedef struct lvs_arp_settings {
    /**
     * sizeof(struct lvs_arp_settings).
     */
    size_t size;
    /**
     * arp_ignore: for which addresses requests are answered.
     */
    int32_t ignore;
    /**
     * arp_announce: which address is named as sender.
     */
    int32_t announce;
} lvs_arp_settings;

/**
 * The configuration of a node. A field that is 0 or NULL has its default; the first four have
 * none.
 *
 * A node whose VIPs do not all move together has several groups of VIPs. Each has its own
 * lvs_node; they differ only in `group`, `interface`, `vips` and `services`, and list the same
 * `groups`.
 */
typedef struct lvs_node_config {
    /**
     * sizeof(struct lvs_node_config).
     */
    size_t size;
    /**
     * The interface that clients reach, and that holds the director's VIP.
     */
    const char *interface;
    /**
     * The VIPs: "192.168.0.254", without a prefix length.
     */
    const char *const *vips;
    /**
     * The number of VIPs, 1 to 4096.
     */
    size_t vip_count;
    /**
     * The services of the VIPs, in the format of `ipvsadm -Sn`. They are loaded when the kernel
     * has none of them; afterwards they belong to the programs that edit the kernel's table, and
     * lvs_node_apply() changes them. NULL: the node loads no services.
     */
    const char *services;
    /**
     * The directory for the node's state: writable for root alone, one for each node. NULL:
     * "/run/lvs-dr".
     */
    const char *state_dir;
    /**
     * The interface of the sync messages. NULL: `interface`.
     */
    const char *sync_interface;
    /**
     * The multicast group of the sync messages. NULL: "224.0.0.81".
     */
    const char *sync_group;
    /**
     * The name of this group of VIPs. NULL: "", for a node that has only one group.
     */
    const char *group;
    /**
     * The names of all groups of the node, `group` among them. The VIPs of other groups that the
     * node had before are released. NULL: only `group`.
     */
    const char *const *groups;
    /**
     * The number of names in `groups`, up to 255.
     */
    size_t group_count;
    /**
     * With LVS_FENCE_MARKS, MAC addresses of other nodes, in addition to those that the node
     * finds by itself: the address of the node as a destination, "=", the MAC address. Several
     * entries may have the same node. "192.168.0.12=02:00:00:00:00:01".
     */
    const char *const *peer_macs;
    /**
     * The number of entries in `peer_macs`, up to 4096.
     */
    size_t peer_mac_count;
    /**
     * LVS_VIP_OWNER_...
     */
    uint32_t vip_owner;
    /**
     * LVS_FENCE_...
     */
    uint32_t fence;
    /**
     * LVS_LOOPBACK_...
     */
    uint32_t loopback;
    /**
     * LVS_ARP_...
     */
    uint32_t arp;
    /**
     * With LVS_ARP_INTERFACE and LVS_ARP_ALL; otherwise 0.
     */
    int32_t arp_ignore;
    /**
     * With LVS_ARP_INTERFACE and LVS_ARP_ALL; otherwise 0.
     */
    int32_t arp_announce;
    /**
     * The number of announcements that are sent when the VIP is added to the interface. 0: 5. -1:
     * none.
     */
    int32_t announcements;
    /**
     * The sync id of the cluster, 1 to 255: other clusters on the link need another. 0: the last
     * octet of the first VIP, or 1 when that is 0.
     */
    uint32_t sync_id;
    /**
     * The UDP port of the sync messages, in host byte order. 0: 8848.
     */
    uint32_t sync_port;
    /**
     * The number of routers that a sync message may pass, 1 to 255. 0: 1.
     */
    uint32_t sync_ttl;
    /**
     * The length at which a sync message is sent, in octets. 1 sends each connection at once. 0:
     * 1. -1: the kernel's default, 1472.
     */
    int32_t sync_max_length;
    /**
     * The time between a promotion and lvs_node_announce_again()'s announcement, in milliseconds.
     * 0: 5000. -1: no announcement.
     */
    int32_t announce_again_ms;
    /**
     * With LVS_FENCE_MARKS, the first of the 256 packet marks that the node uses. The marks do
     * not leave the node; no other program may use them. 0: 1280725760 (0x4c565300).
     */
    uint32_t marks_base;
    /**
     * LVS_OWN_REQUESTS_...
     */
    uint32_t own_requests;
    /**
     * The file with the key that the nodes of the cluster share, 32 octets or more, readable for
     * root alone. What other nodes send without it is ignored. NULL: there is no key.
     */
    const char *sync_key_file;
    /**
     * Services for which an audit does not demand that this node listens: "tcp 192.168.0.254:80".
     */
    const char *const *without_listener;
    /**
     * The number of entries in `without_listener`, up to 65536.
     */
    size_t without_listener_count;
} lvs_node_config;

/**
 * Is told each step of a node before it is carried out. `text`: the step, for a log; it is there
 * until the function returns. `context`: as it was passed with the function. It must return:
 * neither longjmp(3) nor a C++ exception may leave it. Calls that use the same node are
 * LVS_ERR_BUSY within it.
 */
typedef void (*lvs_log)(const char *text, void *context);

/**
 * The sessions of a server, see lvs_node_sessions().
 */
typedef struct lvs_sessions {
    /**
     * sizeof(struct lvs_sessions).
     */
    size_t size;
    /**
     * Connections of TCP and SCTP that are established, and flows of UDP.
     */
    uint64_t active;
    /**
     * Connections in other states, which end by themselves.
     */
    uint64_t ending;
    /**
     * Clients of persistent services that are bound to the server.
     */
    uint64_t templates;
} lvs_sessions;

/**
 * The status of a node, in numbers.
 */
typedef struct lvs_node_status {
    /**
     * sizeof(struct lvs_node_status).
     */
    size_t size;
    /**
     * The number of steps that are missing for the role to be in place, see
     * lvs_status_missing().
     */
    size_t missing;
    /**
     * The number of steps that lvs_node_repair() would run, see lvs_status_drift().
     */
    size_t drift;
    /**
     * The number of warnings, see lvs_status_warnings().
     */
    size_t warnings;
    /**
     * The number of services in the kernel's table, without those of the node's own marks, see
     * lvs_status_services().
     */
    size_t services;
    /**
     * Connections and persistence templates that the node's services count.
     */
    uint64_t connections;
    /**
     * Connections that the services of the node's own marks count, of all groups.
     */
    uint64_t marked_connections;
    /**
     * The number of the last request for a role.
     */
    uint64_t generation;
    /**
     * The role of the last request: LVS_ROLE_...
     */
    uint32_t role;
    /**
     * 1 if that role was reached, otherwise 0.
     */
    uint32_t reached;
    /**
     * 1 if neighbours do not learn of a VIP on `lo`: on each interface whose link reaches
     * clients, the kernel neither answers ARP requests for it nor names it as the sender of its
     * own. Otherwise 0.
     */
    uint32_t hidden;
    /**
     * arp_ignore, as it counts on the interface: the greater of its own and that of "all". -1:
     * there is no such interface.
     */
    int32_t arp_ignore;
    /**
     * arp_announce, as it counts on the interface. -1: there is no such interface.
     */
    int32_t arp_announce;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * The address of the other node that directs, or directed last, as a text. "": none is known.
     */
    char director[LVS_ADDRESS_SIZE];
} lvs_node_status;

/**
 * A role or a release that was not reached, and none that was since.
 */
typedef struct lvs_failure {
    /**
     * sizeof(struct lvs_failure).
     */
    size_t size;
    /**
     * What failed: "master", "backup", "fault", "stop" or "release". NULL: nothing has.
     */
    const char *task;
    /**
     * Why. NULL: nothing has failed.
     */
    const char *reason;
    /**
     * When: seconds since 1970-01-01 00:00:00 UTC, as time(2). 0: nothing has failed.
     */
    uint64_t time;
} lvs_failure;

/**
 * Something that does harm, or will.
 */
typedef struct lvs_finding {
    /**
     * sizeof(struct lvs_finding).
     */
    size_t size;
    /**
     * What it is, for programs: "arp-answer". It stays the same from version to version.
     */
    const char *kind;
    /**
     * What was found where, and what it does, for people.
     */
    const char *reason;
    /**
     * What to do: the steps of lvs_node_fix(), commands to be run by hand, or words.
     */
    const char *remedy;
    /**
     * LVS_SEVERITY_...
     */
    uint32_t severity;
    /**
     * 1 if lvs_node_fix() does something about it, otherwise 0.
     */
    uint32_t is_fixable;
} lvs_finding;

/**
 * A rule: a packet mark for packets that arrive on an interface for a VIP.
 * When several rules match a packet, the mark of the kind with the highest number in this order
 * stays: LVS_PACKETS_LATER, LVS_PACKETS_FROM, LVS_PACKETS_OPENING.
 */
typedef struct lvs_rule {
    /**
     * sizeof(struct lvs_rule).
     */
    size_t size;
    /**
     * The interface on which the packets arrive.
     */
    const char *interface;
    /**
     * The destination address of the packets.
     */
    const char *vip;
    /**
     * With LVS_PACKETS_FROM: the MAC address, "02:00:00:00:00:01". Otherwise NULL.
     */
    const char *mac;
    /**
     * The kind of packets: LVS_PACKETS_...
     */
    uint32_t packets;
    /**
     * With LVS_PACKETS_LATER: the TCP port, in host byte order; 0: any. Otherwise 0.
     */
    uint32_t port;
    /**
     * The mark that the packets get.
     */
    uint32_t mark;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_rule;

/**
 * A MAC address of another node. A node that sends from several has an entry for each.
 */
typedef struct lvs_peer {
    /**
     * sizeof(struct lvs_peer).
     */
    size_t size;
    /**
     * The address of the node as a destination.
     */
    const char *address;
    /**
     * The MAC address, "02:00:00:00:00:01". NULL: none of this node is known.
     */
    const char *mac;
} lvs_peer;

/**
 * What has changed.
 */
typedef struct lvs_event {
    /**
     * sizeof(struct lvs_event).
     */
    size_t size;
    /**
     * LVS_EVENT_...
     */
    uint32_t kind;
    /**
     * The interface's index; 0 with LVS_EVENT_NONE and LVS_EVENT_MISSED.
     */
    uint32_t index;
    /**
     * Of a neighbour: NUD_... as in lvs_neighbour. Otherwise 0.
     */
    uint32_t state;
    /**
     * Of a neighbour: 1 if it is an IPv6 router. Otherwise 0.
     */
    uint32_t is_router;
    /**
     * The interface's name, of a neighbour and of an interface; the last one, where it is gone.
     * Otherwise "".
     */
    char interface[LVS_INTERFACE_SIZE];
    /**
     * The neighbour's MAC address, "02:00:00:00:00:01". "": there is none.
     */
    char mac[LVS_MAC_SIZE];
    /**
     * The address, of a neighbour and of an address. Otherwise "".
     */
    char address[LVS_ADDRESS_SIZE];
} lvs_event;

/**
 * A host on a link, as the kernel knows it (ARP and neighbour discovery), see ip-neighbour(8).
 */
typedef struct lvs_neighbour {
    /**
     * sizeof(struct lvs_neighbour).
     */
    size_t size;
    /**
     * The interface's index.
     */
    uint32_t index;
    /**
     * NUD_... in linux/neighbour.h: 0x02 is reachable, 0x04 stale, 0x20 failed, 0x80 permanent.
     */
    uint32_t state;
    /**
     * 1 if it is an IPv6 router, otherwise 0.
     */
    uint32_t is_router;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * The interface's name.
     */
    char interface[LVS_INTERFACE_SIZE];
    /**
     * Its MAC address, "02:00:00:00:00:01". "": the kernel knows none.
     */
    char mac[LVS_MAC_SIZE];
    /**
     * Its address.
     */
    char address[LVS_ADDRESS_SIZE];
} lvs_neighbour;

/**
 * A mark for what this node sends to an address.
 */
typedef struct lvs_local_mark {
    /**
     * sizeof(struct lvs_local_mark).
     */
    size_t size;
    /**
     * The VIP.
     */
    const char *vip;
    /**
     * The mark. Not 0.
     */
    uint32_t mark;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_local_mark;

/**
 * A service whose packets a classifier marks.
 */
typedef struct lvs_classified {
    /**
     * sizeof(struct lvs_classified).
     */
    size_t size;
    /**
     * The VIP and the TCP port: "192.168.0.254:80" or "[2001:db8::fe]:80".
     */
    const char *service;
    /**
     * The mark of packets of this node's own sockets, of those with SYN from a peer, and of
     * strays. Not 0.
     */
    uint32_t local;
    /**
     * The mark of packets without SYN from elsewhere that no socket of this node takes. 0: there
     * is no other node, and they get `local`.
     */
    uint32_t elsewhere;
    /**
     * The mark of the same packets from a peer: this and the peer's number are added up. 0: they
     * are strays.
     */
    uint32_t before;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_classified;

/**
 * A MAC address of another node. A node that sends from several has an entry for each.
 */
typedef struct lvs_classifier_peer {
    /**
     * sizeof(struct lvs_classifier_peer).
     */
    size_t size;
    /**
     * The MAC address, "02:00:00:00:00:01".
     */
    const char *mac;
    /**
     * The number of the node, 0 to 255, see `before` in lvs_classified.
     */
    uint32_t number;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_classifier_peer;

/**
 * A classifier on an interface. The counters are packets since it was attached, of all its
 * services.
 */
typedef struct lvs_attached {
    /**
     * sizeof(struct lvs_attached).
     */
    size_t size;
    /**
     * The interface's name.
     */
    const char *interface;
    /**
     * The number of services that it knows, see lvs_classifiers_service().
     */
    size_t services;
    /**
     * The number of MAC addresses that it knows, see lvs_classifiers_peer().
     */
    size_t peers;
    /**
     * Of a socket of this node, from clients and from peers.
     */
    uint64_t local;
    /**
     * With SYN, from a peer: new connections that it has scheduled to this node.
     */
    uint64_t peer_openings;
    /**
     * With SYN, from outside: IPVS schedules them.
     */
    uint64_t openings;
    /**
     * Without SYN, from outside, for another node.
     */
    uint64_t forwarded;
    /**
     * Without SYN, from a peer, passed on to the node that was their server before the last
     * change.
     */
    uint64_t second_hops;
    /**
     * Without SYN, from a peer, and of no known connection: the kernel answers with a reset.
     */
    uint64_t strays;
    /**
     * 1 if it is the program of this version. 0: of another one; nothing is known of it, and
     * lvs_classifier_apply() replaces it.
     */
    uint32_t is_current;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_attached;

/**
 * What a driver reports.
 */
typedef struct lvs_report {
    /**
     * sizeof(struct lvs_report).
     */
    size_t size;
    /**
     * LVS_REPORT_...
     */
    uint32_t kind;
    /**
     * LVS_TASK_..., of a task that has ended.
     */
    uint32_t task;
    /**
     * LVS_ROLE_..., of LVS_TASK_ROLE.
     */
    uint32_t role;
    /**
     * The status of a task that has ended: LVS_OK, LVS_ERR_SUPERSEDED when another request is
     * carried out instead, or as the function named at the task.
     */
    int32_t status;
    /**
     * The errno(3) that the kernel gave as reason; 0 where there was none.
     */
    int32_t error_number;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_report;

/**
 * What is supervised.
 */
typedef struct lvs_supervisor_config {
    /**
     * sizeof(struct lvs_supervisor_config).
     */
    size_t size;
    /**
     * keepalived's `notify_fifo`. NULL: roles come by lvs_supervisor_request(), or from other
     * processes.
     */
    const char *fifo;
    /**
     * The VRRP instance whose states count for a node without groups. NULL: every instance's. A
     * group is named as its instance.
     */
    const char *instance;
    /**
     * The file that keepalived watches (`track_file`): the node stays out of elections until it
     * knows the director's connections. NULL: it always takes part.
     */
    const char *track_file;
    /**
     * LVS_SUPERVISOR_...
     */
    uint32_t flags;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_supervisor_config;

/**
 * What a supervisor tells its program.
 */
typedef struct lvs_notice {
    /**
     * sizeof(struct lvs_notice).
     */
    size_t size;
    /**
     * LVS_NOTICE_...
     */
    uint32_t kind;
    /**
     * The index of the group's node among those that were passed to lvs_supervisor_open(), or
     * LVS_NO_GROUP.
     */
    uint32_t group;
    /**
     * See the kinds; otherwise 0.
     */
    uint64_t count;
    /**
     * See LVS_NOTICE_LEARNED; otherwise 0.
     */
    uint64_t total;
    /**
     * LVS_ROLE_..., with LVS_NOTICE_SHOWN; otherwise LVS_ROLE_NONE.
     */
    uint32_t role;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_notice;

/**
 * What a supervisor has counted since it was opened.
 */
typedef struct lvs_supervisor_counts {
    /**
     * sizeof(struct lvs_supervisor_counts).
     */
    size_t size;
    /**
     * Repairs that changed something.
     */
    uint64_t repairs;
    /**
     * What has failed.
     */
    uint64_t failures;
    /**
     * How long ago something failed last, in milliseconds. UINT64_MAX: nothing has.
     */
    uint64_t failed_ms;
    /**
     * How often all connections were sent to the other nodes.
     */
    uint64_t resyncs;
    /**
     * How often the role of a group has changed.
     */
    uint64_t role_changes;
    /**
     * How long ago one changed last, in milliseconds. UINT64_MAX: none has.
     */
    uint64_t role_changed_ms;
    /**
     * Connections that the node knows.
     */
    uint64_t known;
    /**
     * Connections that the director knows, as it says. UINT64_MAX: none is received.
     */
    uint64_t at_director;
    /**
     * Other nodes that direct and are received.
     */
    uint64_t directors_heard;
    /**
     * Other clusters with this one's sync id on its link.
     */
    uint64_t other_clusters;
    /**
     * Datagrams without the cluster's key.
     */
    uint64_t refused;
    /**
     * How long the supervisor was not waiting, in microseconds.
     */
    uint64_t busy_us;
    /**
     * 1 if the node has learned all connections of the director, otherwise 0.
     */
    uint32_t knows_all;
    /**
     * 1 if the node directs a group, otherwise 0.
     */
    uint32_t directs;
} lvs_supervisor_counts;

/**
 * Another node of the cluster.
 */
typedef struct lvs_other_node {
    /**
     * sizeof(struct lvs_other_node).
     */
    size_t size;
    /**
     * The version of its program. NULL: one that does not say.
     */
    const char *version;
    /**
     * Its addresses but for VIPs, for lvs_texts_get(). They belong to the list.
     */
    const struct lvs_texts *addresses;
    /**
     * The names of the groups that it directs, for lvs_texts_get(). They belong to the list.
     */
    const struct lvs_texts *directs;
    /**
     * How many connections it knows. UINT64_MAX: it is silent.
     */
    uint64_t connections;
    /**
     * How long ago its role has changed, as far as it knows, in milliseconds. UINT64_MAX: it does
     * not say.
     */
    uint64_t changed_ms;
    /**
     * How long ago it was received last, in milliseconds. One that is silent for a minute is
     * forgotten.
     */
    uint64_t silent_ms;
    /**
     * Its role: LVS_ROLE_..., that of a director where it directs one group. LVS_ROLE_NONE: it is
     * silent.
     */
    uint32_t role;
    /**
     * LVS_TABLE_...
     */
    uint32_t table;
} lvs_other_node;

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The name of a status: "LVS_ERR_PERMISSION". A text that is always there, never NULL.
 */
const char *lvs_status_name(int status);

/**
 * The status of the last call in this thread that failed; LVS_OK before any has.
 */
int lvs_last_status(void);

/**
 * The errno(3) that the kernel gave as reason for the last failure in this thread; 0 where there
 * was none.
 */
int lvs_last_errno(void);

/**
 * Copies the message of the last failure in this thread: what was tried, on what, why it failed,
 * and what to do.
 *
 * At most `size` octets are written, the NUL at the end among them; what is longer is cut between
 * two characters. Returns the message's length without the NUL, as snprintf(3) does: it was cut
 * if that is not below `size`. With `buffer` NULL or `size` 0 nothing is written. Reading the
 * message does not change it.
 */
size_t lvs_last_error_message(char *buffer, size_t size);

/**
 * The version of the library that runs: "0.1.0". LVS_VERSION is that of this header.
 */
const char *lvs_version(void);

/**
 * Frees a text that this library returned through a `char **`. NULL is ignored.
 *
 * Such a text is not for free(3). Texts in the entries of a list are freed with the list.
 */
void lvs_text_free(char *text);

/**
 * Writes a socket address as the text that this library takes: "192.168.0.11:80",
 * "[2001:db8::11]:80". Does not block.
 *
 * `address`: a `struct sockaddr_in` or `struct sockaddr_in6`, in network byte order as ever.
 * `text`: `size` octets, LVS_ID_SIZE are always enough. Fails with LVS_ERR_INVALID for another
 * family and for a `sin6_scope_id`, LVS_ERR_SIZE where the text does not fit.
 */
int lvs_address_format(const struct sockaddr *address, char *text, size_t size);

/**
 * Reads an address with its port, as in `struct lvs_destination`, into a socket address.
 * `address`: is set to a `struct sockaddr_in` or `struct sockaddr_in6`. Does not block. Fails with
 * LVS_ERR_INVALID.
 */
int lvs_address_parse(const char *text, struct sockaddr_storage *address);

/**
 * Writes the id of a service, as in `struct lvs_service`: "tcp 192.168.0.254:80", "fwmark 1 ipv6".
 * Does not block.
 *
 * `mark`: a firewall mark; of `address` only the family counts then, and `protocol` is ignored. 0:
 * the service has none; `protocol` is IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP. `address`, `text`
 * and the errors: as with lvs_address_format().
 */
int lvs_id_format(int protocol,
                  uint32_t mark,
                  const struct sockaddr *address,
                  char *text,
                  size_t size);

/**
 * Reads the id of a service. Does not block.
 *
 * `protocol`: is set to IPPROTO_..., or to 0 for a firewall mark. `mark`: is set to the mark, or
 * to 0. `address`: is set to the address and port; for a firewall mark to the unspecified address
 * of its family. Each may be NULL if it is not needed. Fails with LVS_ERR_INVALID.
 */
int lvs_id_parse(const char *id, int *protocol, uint32_t *mark, struct sockaddr_storage *address);

/**
 * Opens a client of IPVS, and loads the kernel's module where it is not loaded yet.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
 * calling thread's. `ipvs`: is set to the client; free it with lvs_ipvs_free(). Fails with
 * LVS_ERR_NO_IPVS, or LVS_ERR_SYSTEM where the namespace cannot be entered.
 */
int lvs_ipvs_open(const char *netns, struct lvs_ipvs **ipvs);

/**
 * Frees the client. Its changes stay. NULL is ignored.
 */
void lvs_ipvs_free(struct lvs_ipvs *ipvs);

/**
 * Adds a service. Fails with LVS_ERR_SERVICE_EXISTS, LVS_ERR_NO_MODULE, or LVS_ERR_INVALID for
 * what makes no sense.
 */
int lvs_ipvs_add_service(struct lvs_ipvs *ipvs, const struct lvs_service *service);

/**
 * Sets a service to all of this; what it was set to before is lost. It keeps its destinations and
 * connections. Fails with LVS_ERR_NO_SERVICE, otherwise as lvs_ipvs_add_service().
 */
int lvs_ipvs_replace_service(struct lvs_ipvs *ipvs, const struct lvs_service *service);

/**
 * Removes a service and its destinations. Fails with LVS_ERR_NO_SERVICE.
 */
int lvs_ipvs_remove_service(struct lvs_ipvs *ipvs, const char *id);

/**
 * Lists all services, in the order in which ipvsadm does. `services`: is set to the list; free it
 * with lvs_services_free().
 */
int lvs_ipvs_services(struct lvs_ipvs *ipvs, struct lvs_services **services);

/**
 * Reads one service, as a list of one. `services`: as for lvs_ipvs_services(). One request. Fails
 * with LVS_ERR_NO_SERVICE.
 */
int lvs_ipvs_service(struct lvs_ipvs *ipvs, const char *id, struct lvs_services **services);

/**
 * Returns the number of services in a list; 0 for NULL.
 */
size_t lvs_services_count(const struct lvs_services *services);

/**
 * Fills `service` with the entry of this index, counted from 0; set its `size` before. The texts
 * in it are the list's, and live as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_services_get(const struct lvs_services *services,
                     size_t index,
                     struct lvs_service *service);

/**
 * Frees the list. NULL is ignored.
 */
void lvs_services_free(struct lvs_services *services);

/**
 * Adds a destination to the service of this id. Fails with LVS_ERR_NO_SERVICE,
 * LVS_ERR_DESTINATION_EXISTS, or LVS_ERR_INVALID for what makes no sense.
 */
int lvs_ipvs_add_destination(struct lvs_ipvs *ipvs,
                             const char *id,
                             const struct lvs_destination *destination);

/**
 * Sets a destination to all of this; what it was set to before is lost. It keeps its connections.
 * To change only the weight, use lvs_ipvs_set_weight(). Fails with LVS_ERR_NO_SERVICE,
 * LVS_ERR_NO_DESTINATION, otherwise as lvs_ipvs_add_destination().
 */
int lvs_ipvs_replace_destination(struct lvs_ipvs *ipvs,
                                 const char *id,
                                 const struct lvs_destination *destination);

/**
 * Removes a destination; its connections break. `address`: "192.168.0.11:80". Fails with
 * LVS_ERR_NO_SERVICE, LVS_ERR_NO_DESTINATION.
 */
int lvs_ipvs_remove_destination(struct lvs_ipvs *ipvs, const char *id, const char *address);

/**
 * Lists the destinations of a service, by address. `destinations`: is set to the list; free it
 * with lvs_destinations_free(). Fails with LVS_ERR_NO_SERVICE.
 */
int lvs_ipvs_destinations(struct lvs_ipvs *ipvs,
                          const char *id,
                          struct lvs_destinations **destinations);

/**
 * Reads one destination, as a list of one. `address`: "192.168.0.11:80". `destinations`: as for
 * lvs_ipvs_destinations(). Fails with LVS_ERR_NO_SERVICE, LVS_ERR_NO_DESTINATION.
 */
int lvs_ipvs_destination(struct lvs_ipvs *ipvs,
                         const char *id,
                         const char *address,
                         struct lvs_destinations **destinations);

/**
 * Returns the number of destinations in a list; 0 for NULL.
 */
size_t lvs_destinations_count(const struct lvs_destinations *destinations);

/**
 * Fills `destination` with the entry of this index, counted from 0; set its `size` before. The
 * text in it is the list's, and lives as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_destinations_get(const struct lvs_destinations *destinations,
                         size_t index,
                         struct lvs_destination *destination);

/**
 * Frees the list. NULL is ignored.
 */
void lvs_destinations_free(struct lvs_destinations *destinations);

/**
 * Reads all services with their destinations as one text, as `ipvsadm -Sn` prints them. `table`:
 * is set to it; free it with lvs_text_free().
 */
int lvs_ipvs_table(struct lvs_ipvs *ipvs, char **table);

/**
 * Plans what lvs_ipvs_apply() would do. Changes nothing. `plan`: is set to a text, a command of
 * ipvsadm(8) on each line, empty where nothing is to be done; free it with lvs_text_free().
 */
int lvs_ipvs_plan(struct lvs_ipvs *ipvs,
                  const char *table,
                  lvs_owns owns,
                  void *context,
                  char **plan);

/**
 * Makes the kernel's table what this text says, in the format of `ipvsadm -Sn`; commands of
 * ipvsadm(8) for timeouts (`--set`) and sync daemons (`--start-daemon`, `--stop-daemon`) may be
 * among its lines. What is there already keeps its connections; when a change fails, those before
 * it are undone.
 *
 * `owns`: is asked for each service of the kernel that the text does not name; one that belongs
 * to the program is removed. NULL: they all stay. `context`: is passed to `owns`. `done`: is set
 * to the plan that was carried out, as lvs_ipvs_plan() gives it; NULL if it is not needed. Fails
 * with LVS_ERR_PARSE, or as the functions for single changes do.
 */
int lvs_ipvs_apply(struct lvs_ipvs *ipvs,
                   const char *table,
                   lvs_owns owns,
                   void *context,
                   char **done);

/**
 * Fills `counters` with those of the service of this index in the list, as they were when the list
 * was made; set its `size` before. Does not block. Fails with LVS_ERR_INDEX.
 */
int lvs_services_counters(const struct lvs_services *services,
                          size_t index,
                          struct lvs_counters *counters);

/**
 * Fills `counters` with those of the destination of this index in the list, otherwise as
 * lvs_services_counters().
 */
int lvs_destinations_counters(const struct lvs_destinations *destinations,
                              size_t index,
                              struct lvs_counters *counters);

/**
 * Fills `counters` with those of all services together; set its `size` before. Reads
 * /proc/net/ip_vs_stats. Fails with LVS_ERR_SYSTEM.
 */
int lvs_ipvs_totals(struct lvs_ipvs *ipvs, struct lvs_counters *counters);

/**
 * Sets the counters of a service and its destinations to 0. `id`: NULL for all services. Rates
 * stay. Fails with LVS_ERR_NO_SERVICE.
 */
int lvs_ipvs_zero(struct lvs_ipvs *ipvs, const char *id);

/**
 * Removes all services with their destinations, those of other programs too.
 */
int lvs_ipvs_flush(struct lvs_ipvs *ipvs);

/**
 * Sets the weight of a destination, and leaves the rest of it as it is. `weight`: up to
 * 2147483647; with 0 it gets no new connections, and keeps those that it has. Two requests. Fails
 * with LVS_ERR_NO_SERVICE, LVS_ERR_NO_DESTINATION.
 */
int lvs_ipvs_set_weight(struct lvs_ipvs *ipvs,
                        const char *id,
                        const char *address,
                        uint32_t weight);

/**
 * Gives a destination weight 0, so that it gets no new connections, and waits until those that it
 * has are gone: of TCP and SCTP the established ones, otherwise all. It stays in the table with
 * weight 0: remove it with lvs_ipvs_remove_destination(), or give it its weight again with
 * lvs_ipvs_set_weight().
 *
 * `limit_ms`: how long to wait, in milliseconds; the connections are counted every 100 ms. With 0
 * it does not wait, for a program with a loop of its own: lvs_ipvs_destination() counts later.
 * `drained`: is filled; set its `size` before; NULL if it is not needed. Fails with
 * LVS_ERR_NO_SERVICE, and LVS_ERR_NO_DESTINATION also when another program removes it meanwhile.
 */
int lvs_ipvs_drain(struct lvs_ipvs *ipvs,
                   const char *id,
                   const char *address,
                   uint32_t limit_ms,
                   struct lvs_drained *drained);

/**
 * Reads what IPVS says of itself; set `size` of the structure before. One request.
 */
int lvs_ipvs_info(struct lvs_ipvs *ipvs, struct lvs_info *info);

/**
 * Reads a sysctl of IPVS. `name`: what stands behind `net.ipv4.vs.`: "sloppy_tcp"; see
 * Documentation/networking/ipvs-sysctl.rst in the kernel's source. `value`: is set to the text
 * that the kernel prints: "1", "2 50"; free it with lvs_text_free(); to NULL where this kernel has
 * no such setting. Reads a file below /proc/sys. Fails with LVS_ERR_INVALID for a name that the
 * library does not know, LVS_ERR_SYSTEM.
 */
int lvs_ipvs_setting(struct lvs_ipvs *ipvs, const char *name, char **value);

/**
 * Writes a sysctl of IPVS, otherwise as lvs_ipvs_setting(). `value`: is checked first. Fails with
 * LVS_ERR_INVALID, and LVS_ERR_SYSTEM: ENOENT where this kernel has no such setting, EINVAL for a
 * value that it does not take, EACCES without privileges.
 */
int lvs_ipvs_set_setting(struct lvs_ipvs *ipvs, const char *name, const char *value);

/**
 * Reads the timeouts; set `size` of the structure before. One request.
 */
int lvs_ipvs_timeouts(struct lvs_ipvs *ipvs, struct lvs_timeouts *timeouts);

/**
 * Sets the timeouts; 0 leaves one as it is. One request. Fails with LVS_ERR_INVALID.
 */
int lvs_ipvs_set_timeouts(struct lvs_ipvs *ipvs, const struct lvs_timeouts *timeouts);

/**
 * Starts a sync daemon. One request, whatever the table. The kernel waits for a start or an end
 * that is under way, for some milliseconds. Fails with LVS_ERR_DAEMON_RUNS (EEXIST) where one of
 * that role runs, LVS_ERR_NO_INTERFACE, LVS_ERR_INVALID.
 */
int lvs_ipvs_start_sync_daemon(struct lvs_ipvs *ipvs, const struct lvs_sync_daemon *daemon);

/**
 * Stops a sync daemon. `role`: LVS_SYNC_MASTER or LVS_SYNC_BACKUP. One request, whatever the
 * table; up to three where the kernel leaves one without an answer, which takes 50 ms each. Fails
 * with LVS_ERR_NO_DAEMON (ESRCH) where none runs.
 */
int lvs_ipvs_stop_sync_daemon(struct lvs_ipvs *ipvs, uint32_t role);

/**
 * Lists the sync daemons that run: none, one or two. `daemons`: is set to the list; free it with
 * lvs_sync_daemons_free(). One request.
 */
int lvs_ipvs_sync_daemons(struct lvs_ipvs *ipvs, struct lvs_sync_daemons **daemons);

/**
 * Returns the number of daemons in a list; 0 for NULL.
 */
size_t lvs_sync_daemons_count(const struct lvs_sync_daemons *daemons);

/**
 * Fills `daemon` with the entry of this index, counted from 0; set its `size` before. The texts in
 * it are the list's, and live as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_sync_daemons_get(const struct lvs_sync_daemons *daemons,
                         size_t index,
                         struct lvs_sync_daemon *daemon);

/**
 * Frees the list. NULL is ignored.
 */
void lvs_sync_daemons_free(struct lvs_sync_daemons *daemons);

/**
 * Lists the connection table: connections, and the templates of persistent clients. `connections`:
 * is set to the list; free it with lvs_connections_free().
 *
 * Reads /proc/net/ip_vs_conn and ip_vs_conn_sync in full, the only way that the kernel has; before
 * kernel 6.13 that takes a minute for 100000 connections. Fails with LVS_ERR_SYSTEM,
 * LVS_ERR_MALFORMED.
 */
int lvs_ipvs_connections(struct lvs_ipvs *ipvs, struct lvs_connections **connections);

/**
 * Returns the number of connections in a list; 0 for NULL.
 */
size_t lvs_connections_count(const struct lvs_connections *connections);

/**
 * Fills `connection` with the entry of this index, counted from 0; set its `size` before. The
 * texts in it are the list's, and live as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_connections_get(const struct lvs_connections *connections,
                        size_t index,
                        struct lvs_connection *connection);

/**
 * Frees the list. NULL is ignored.
 */
void lvs_connections_free(struct lvs_connections *connections);

/**
 * Opens a client for VIPs.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
 * calling thread's. `vips`: is set to the client; free it with lvs_vips_free().
 */
int lvs_vips_open(const char *netns, struct lvs_vips **vips);

/**
 * Frees the client. Its changes stay. NULL is ignored. After lvs_vips_announce() this closes a
 * packet socket: the kernel waits for a grace period of RCU, some 10 ms.
 */
void lvs_vips_free(struct lvs_vips *vips);

/**
 * Places a VIP, and brings one that is there in another form into the right one.
 *
 * `vip`: "192.168.0.254". `interface`: "lo" for the loopback interface, where it gets scope host:
 * the place of every node that serves. Any other name: where neighbours find it, the director's
 * place. `changed`: is set to 1 if there was anything to do, otherwise to 0; NULL if it is not
 * needed. Fails with LVS_ERR_NO_INTERFACE, LVS_ERR_PERMISSION, and LVS_ERR_FOREIGN when another
 * program has added the address already.
 */
int lvs_vips_add(struct lvs_vips *vips, const char *vip, const char *interface, int *changed);

/**
 * Removes a VIP from this interface. The arguments and errors are those of lvs_vips_add(); a VIP
 * that is not there is no error.
 */
int lvs_vips_remove(struct lvs_vips *vips, const char *vip, const char *interface, int *changed);

/**
 * Moves a VIP: it is added to interface `to`, then removed from `from`, whichever of the two has
 * it now; for a moment both have it. Otherwise as lvs_vips_add(). Fails with LVS_ERR_FOREIGN when
 * a third interface has it.
 */
int lvs_vips_relocate(struct lvs_vips *vips,
                      const char *vip,
                      const char *from,
                      const char *to,
                      int *changed);

/**
 * Places a VIP: sees to it that it sits on interface `to` and nowhere else. It is added before it
 * is removed elsewhere: from `lo`, and from every interface where this library has added it.
 * Before Linux 5.18 that is not known, and lvs_vips_relocate() is to be told from where.
 * Otherwise as lvs_vips_add(). Fails with LVS_ERR_FOREIGN when it sits on another interface where
 * another program has added it; nothing is changed then.
 */
int lvs_vips_place(struct lvs_vips *vips, const char *vip, const char *to, int *changed);

/**
 * Adds the route by which a routing daemon (BIRD, FRR) learns that it is to advertise a VIP:
 * `unreachable VIP proto 86 table 86`. The kernel does not look that table up, unless an ip rule
 * says so. One that is there is no error. Fails with LVS_ERR_INVALID, LVS_ERR_PERMISSION, and
 * LVS_ERR_FOREIGN where another route to the VIP has the same metric.
 */
int lvs_vips_advertise(struct lvs_vips *vips, const char *vip);

/**
 * Removes that route. Other routes to the VIP stay, and a missing one is no error. Fails with
 * LVS_ERR_INVALID and LVS_ERR_PERMISSION.
 */
int lvs_vips_unadvertise(struct lvs_vips *vips, const char *vip);

/**
 * Lists the addresses that have such a route. `advertised`: is set to the list, which may be
 * empty; free it with lvs_texts_free().
 */
int lvs_vips_advertised(struct lvs_vips *vips, struct lvs_texts **advertised);

/**
 * Removes a VIP from `lo` and, unless that is NULL, from `interface`. An address that another
 * program added stays, and is no error.
 */
int lvs_vips_withdraw(struct lvs_vips *vips, const char *vip, const char *interface, int *changed);

/**
 * Finds the interfaces that hold an address. `vip`: NULL for every address of every interface.
 * `places`: is set to the list, which may be empty; free it with lvs_places_free().
 */
int lvs_vips_locate(struct lvs_vips *vips, const char *vip, struct lvs_places **places);

/**
 * Returns the number of places in a list; 0 for NULL.
 */
size_t lvs_places_count(const struct lvs_places *places);

/**
 * Fills `place` with the entry of this index, counted from 0; set its `size` before. The texts in
 * it are the list's, and live as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_places_get(const struct lvs_places *places, size_t index, struct lvs_place *place);

/**
 * Frees the list. NULL is ignored.
 */
void lvs_places_free(struct lvs_places *places);

/**
 * Announces to the neighbours that this node has the VIP: sends `times` gratuitous ARP requests
 * or unsolicited neighbour advertisements at once, up to 1000. keepalived sends 5.
 *
 * `sent`: is set to 1, or to 0 on an interface without neighbours (loopback, point-to-point,
 * NOARP); NULL if it is not needed. Fails with LVS_ERR_NO_ADDRESS where the interface does not
 * hold the VIP, LVS_ERR_INTERFACE_DOWN, LVS_ERR_NO_INTERFACE, and LVS_ERR_SYSTEM (EPERM) without
 * CAP_NET_RAW.
 *
 * The client keeps the packet socket for the next call, so that a call does not wait for its
 * close; lvs_vips_free() does.
 */
int lvs_vips_announce(struct lvs_vips *vips,
                      const char *vip,
                      const char *interface,
                      uint32_t times,
                      int *sent);

/**
 * Opens a client for ARP settings.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
 * calling thread's. `arp`: is set to the client; free it with lvs_arp_free().
 */
int lvs_arp_open(const char *netns, struct lvs_arp **arp);

/**
 * Frees the client. Its changes stay. NULL is ignored.
 */
void lvs_arp_free(struct lvs_arp *arp);

/**
 * Reads the settings of an interface, or of "all". `settings` is filled; set its `size` before.
 * Fails with LVS_ERR_NO_INTERFACE.
 */
int lvs_arp_get(struct lvs_arp *arp, const char *target, struct lvs_arp_settings *settings);

/**
 * Reads the effective settings of an interface: of its own and those of "all", the greater number
 * each. Otherwise as lvs_arp_get().
 */
int lvs_arp_effective(struct lvs_arp *arp,
                      const char *interface,
                      struct lvs_arp_settings *settings);

/**
 * Reads whether ARP requests that arrive on an interface for a VIP on `lo` stay unanswered: what
 * counts is the greater of `arp_ignore` of the interface and of "all", and `route_localnet` of
 * `lo`. `scope_host`: 1 where the VIP has scope host, as lvs_vips_add() adds it, otherwise 0.
 * `hidden`: is set to 1 or 0. Fails with LVS_ERR_NO_INTERFACE.
 */
int lvs_arp_hides_loopback_vip(struct lvs_arp *arp,
                               const char *interface,
                               int scope_host,
                               int *hidden);

/**
 * Reads what lvs_arp_set() would find and change. Changes nothing. `previous`: is filled with the
 * settings that are there; set its `size` before. `changes`: is set to 1 if they differ from
 * `settings`, otherwise to 0; NULL if it is not needed. Fails as lvs_arp_set().
 */
int lvs_arp_plan(struct lvs_arp *arp,
                 const char *target,
                 const struct lvs_arp_settings *settings,
                 struct lvs_arp_settings *previous,
                 int *changes);

/**
 * Sets both settings of an interface, or of "all".
 *
 * `previous`: is filled with what was found, for lvs_arp_give_back(); set its `size` before; NULL
 * if it is not needed. It may be the same structure as `settings`. After a failure one of the two
 * may be set: read them with lvs_arp_get(). Fails with LVS_ERR_INVALID for what is not 0 to 8 and
 * 0 to 2, LVS_ERR_NO_INTERFACE, and LVS_ERR_SYSTEM where /proc/sys cannot be written to (EACCES,
 * EPERM, EROFS).
 */
int lvs_arp_set(struct lvs_arp *arp,
                const char *target,
                const struct lvs_arp_settings *settings,
                struct lvs_arp_settings *previous);

/**
 * Restores what lvs_arp_set() changed: from `settings`, which were set, to `previous`, which were
 * found.
 *
 * A setting that another program changed since stays, and is no error: `kept` is set to 1 then,
 * otherwise to 0; NULL if it is not needed.
 */
int lvs_arp_give_back(struct lvs_arp *arp,
                      const char *target,
                      const struct lvs_arp_settings *settings,
                      const struct lvs_arp_settings *previous,
                      int *kept);

/**
 * Reads a role by its name, in any case: "master", "BACKUP", "fault", "stop". `role`: is set to
 * LVS_ROLE_... Fails with LVS_ERR_INVALID.
 */
int lvs_role_from_text(const char *text, uint32_t *role);

/**
 * Opens a node. Changes nothing yet, and does not block.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
 * calling thread's. `config`: the configuration; it is copied. `node`: is set to the node; free
 * it with lvs_node_free(). Fails with LVS_ERR_INVALID, LVS_ERR_PARSE (the services),
 * LVS_ERR_NO_IPVS, and LVS_ERR_NO_INTERFACE. A node that has a role opens without its interface
 * as well: it can take on LVS_ROLE_FAULT or LVS_ROLE_STOP, and be released.
 */
int lvs_node_open(const char *netns, const struct lvs_node_config *config, struct lvs_node **node);

/**
 * Frees a node. The changes that it made stay; lvs_node_release() takes them back. NULL is
 * ignored.
 *
 * A node keeps the packet sockets by which it has announced VIPs and asked for the director, one
 * each. Closing one waits for a grace period of RCU, some 10 ms.
 */
void lvs_node_free(struct lvs_node *node);

/**
 * Sets the function that is told each step of this node's roles, repairs and so on before it is
 * carried out, by the thread that called. `log`: NULL for none. `context`: is passed to `log`.
 * Does not block.
 */
int lvs_node_set_log(struct lvs_node *node, lvs_log log, void *context);

/**
 * Plans what lvs_node_become_role() would do. Changes nothing, and takes no lock.
 *
 * `plan`: is set to a text, a line for each warning and step, empty if nothing is to be done;
 * free it with lvs_text_free(). Fails with LVS_ERR_FOREIGN when a VIP, a mark or a sync daemon
 * belongs to another program, LVS_ERR_INVALID when the kernel lacks what the fence needs,
 * LVS_ERR_STATE when the state directory is damaged, LVS_ERR_NO_INTERFACE.
 */
int lvs_node_plan(struct lvs_node *node, uint32_t role, char **plan);

/**
 * Takes on a role. Writes nothing when the role is in place already.
 *
 * `done`: is set to the plan that was carried out, as lvs_node_plan() prints it; NULL if it is
 * not needed.
 *
 * Requests are numbered, and the last one wins. The call waits up to 30 s for those before it,
 * then fails with LVS_ERR_LOCKED. The work itself: a director that is demoted reads and sends its
 * connections, for 2 s at most; with LVS_FENCE_MARKS the node waits up to 300 ms for the MAC
 * addresses of nodes that it does not know, and up to 50 ms a VIP for the answer of another
 * director.
 *
 * Fails as lvs_node_plan(), with LVS_ERR_SUPERSEDED when a later request superseded this one,
 * LVS_ERR_LOCKED, LVS_ERR_NOT_VERIFIED, or the status of the step that failed. After any error
 * the same request or another can be made again, and continues from the state that it finds.
 */
int lvs_node_become_role(struct lvs_node *node, uint32_t role, char **done);

/**
 * Plans what lvs_node_apply() would do. Changes nothing, and takes no lock. `extent`:
 * LVS_NODE_APPLY_... `plan`: as with lvs_node_plan(). Fails as lvs_node_plan(), and with
 * LVS_ERR_INVALID when the node has no role yet.
 */
int lvs_node_plan_apply(struct lvs_node *node, uint32_t extent, char **plan);

/**
 * Brings the configured `services` into the kernel's table. Destinations are changed in place,
 * and keep their connections. To load changed services, open a node with the new configuration
 * and call this.
 *
 * `extent`: LVS_NODE_APPLY_... `done`: as with lvs_node_become_role(). Waits up to 30 s for
 * another process that works on the node. Fails as lvs_node_become_role(), and with
 * LVS_ERR_INVALID when the node has no role yet.
 */
int lvs_node_apply(struct lvs_node *node, uint32_t extent, char **done);

/**
 * Gives the node another configuration, for its next task: lvs_node_apply() brings it in, with
 * the smallest change. Does not block.
 *
 * `config`: as with lvs_node_open(). Fails as lvs_node_open(), and with LVS_ERR_INVALID for what
 * cannot be changed while the node lives: `state_dir`, `group` and `groups`. The node keeps its
 * configuration then.
 */
int lvs_node_reconfigure(struct lvs_node *node, const struct lvs_node_config *config);

/**
 * Plans what lvs_node_weigh() would do. Changes nothing. `plan`: as with lvs_node_plan(). Fails
 * as lvs_node_weigh().
 */
int lvs_node_plan_weigh(struct lvs_node *node,
                        const char *server,
                        uint32_t change,
                        uint32_t weight,
                        char **plan);

/**
 * Changes the weights of a server in all services of this node's table. Sessions stay. The other
 * nodes have tables of their own: a server is out once it is drained on all.
 *
 * `server`: its address, without a port; NULL: this node. `change`: LVS_WEIGH_... `weight`: with
 * LVS_WEIGH_SET the weight, 0 to 2147483647, otherwise 0. `done`: as with lvs_node_become_role().
 * Blocks as lvs_node_become_role(). Fails as that, with LVS_ERR_NO_DESTINATION, and with
 * LVS_ERR_INVALID where a scheduler drops connections while a server has weight 0 (mh and sh
 * without their fallback, dh).
 */
int lvs_node_weigh(struct lvs_node *node,
                   const char *server,
                   uint32_t change,
                   uint32_t weight,
                   char **done);

/**
 * Counts the sessions of a server that this node knows, of the services of its table.
 *
 * `server`: its address, without a port; NULL: this node. `sessions`: is filled; set its `size`
 * before. Reads the whole list of connections. Fails as lvs_ipvs_connections().
 */
int lvs_node_sessions(struct lvs_node *node, const char *server, struct lvs_sessions *sessions);

/**
 * Plans what lvs_node_repair() would do. Changes nothing, and takes no lock. `plan` and the
 * errors: as with lvs_node_plan().
 */
int lvs_node_plan_repair(struct lvs_node *node, char **plan);

/**
 * Restores what other programs changed: VIPs, ARP settings, sysctls, sync daemons, the rules and
 * services of the marks. Follows changed MAC addresses of other nodes. Loads the configured
 * services if the kernel has none of them; services, destinations and weights that differ stay.
 * Does nothing when the node has no role yet, and supersedes no request for a role.
 *
 * `done`: as with lvs_node_become_role(). Waits up to 30 s for another process that works on the
 * node. Fails as lvs_node_become_role().
 */
int lvs_node_repair(struct lvs_node *node, char **done);

/**
 * Stops the node's sync daemons and starts them again. Needed after the sync interface was
 * removed and another one of the same name was made: the kernel's daemons stay with the old one,
 * and then neither send nor receive, without an error. Does nothing when the node runs no sync
 * daemons.
 *
 * Waits up to 30 s for another process that works on the node, then fails with LVS_ERR_LOCKED.
 * Fails also with LVS_ERR_STATE, LVS_ERR_NO_INTERFACE, LVS_ERR_PERMISSION.
 */
int lvs_node_restart_sync_daemons(struct lvs_node *node);

/**
 * Sets which other node directs this group's VIPs. With LVS_FENCE_MARKS, packets of connections
 * that this node does not know are sent to that node. For a program that monitors the nodes:
 * lvs_node_become_role() finds the director by itself, but does not notice when it dies later.
 *
 * `director`: the address of the node as a destination. NULL: the director is dead or not known,
 * and this node serves such packets itself. Does nothing with LVS_FENCE_CLEAR, and when the node
 * has no role yet. Waits up to 30 s for another process that works on the node, then fails with
 * LVS_ERR_LOCKED. Fails also with LVS_ERR_INVALID for a text that is not an address,
 * LVS_ERR_STATE, LVS_ERR_PERMISSION.
 */
int lvs_node_set_director(struct lvs_node *node, const char *director);

/**
 * Sends all connections of the node's services to the sync daemons of the other nodes, also those
 * that were opened before these nodes joined.
 *
 * `count`: is set to the number of connections; NULL if it is not needed. Blocks until the
 * kernel's connections are read, which takes a minute for 100000 of them on older kernels, and
 * for 5 ms per 600 connections. Fails with LVS_ERR_SYSTEM when the sync interface is missing
 * (ENODEV), is down (ENETDOWN) or has no address (ENETUNREACH, EADDRNOTAVAIL).
 */
int lvs_node_resync(struct lvs_node *node, size_t *count);

/**
 * Counts the connections of the node's services. Connections that expire within 5 s are ignored.
 * `count`: is set to the number. Blocks until the kernel's connections are read, see
 * lvs_node_resync().
 */
int lvs_node_known_connections(struct lvs_node *node, size_t *count);

/**
 * Announces the VIPs of a director once more, for neighbours that missed the first announcement.
 *
 * Blocks for `announce_again_ms`, then announces. Returns at once when another role is requested,
 * when the node is not a director that owns its VIPs, or when `announce_again_ms` is -1. Fails as
 * lvs_vips_announce(); that the interface is down is not an error here.
 */
int lvs_node_announce_again(struct lvs_node *node);

/**
 * Places VIPs again that another program has removed, and looks at nothing else: for a program
 * that follows the kernel's notifications (lvs_monitor). `done`, the blocking time and the
 * errors: as with lvs_node_repair().
 */
int lvs_node_restore_vips(struct lvs_node *node, char **done);

/**
 * The role that keepalived's VIPs show. `role`: is set to LVS_ROLE_MASTER where all of them are
 * on the interface, LVS_ROLE_BACKUP where none is, and LVS_ROLE_NONE where some are, or the node
 * moves its VIPs itself. Changes nothing.
 */
int lvs_node_shown_role(struct lvs_node *node, uint32_t *role);

/**
 * Says why lvs_node_release() would break connections now: the node's table sends new ones to
 * this node, beside other servers. `reason`: is set to a text, to be freed with lvs_text_free(),
 * or to NULL where it breaks none, as far as the table says. Changes nothing. Takes as long as
 * the table is large. The errors are those of lvs_node_plan_release().
 */
int lvs_node_still_used(struct lvs_node *node, char **reason);

/**
 * Asks the director's lvs_supervisor to send all its connections. Blocks for `limit_ms`
 * milliseconds at most.
 *
 * `answer`: is set to LVS_ASKED_... `known` and `total`: with LVS_ASKED_LEARNED, are set to how
 * many of how many connections this node knows now, otherwise to 0; NULL if they are not needed.
 * Fails with LVS_ERR_SYSTEM where the sync interface is missing or down, and LVS_ERR_INVALID
 * where the file of the key cannot be used.
 */
int lvs_node_ask_for_connections(struct lvs_node *node,
                                 uint32_t limit_ms,
                                 uint32_t *answer,
                                 uint64_t *known,
                                 uint64_t *total);

/**
 * Plans what lvs_node_release() would do. Changes nothing, and takes no lock. `plan` and the
 * errors: as with lvs_node_plan().
 */
int lvs_node_plan_release(struct lvs_node *node, char **plan);

/**
 * Releases the node: removes the VIPs that it added, and the rules and services of its marks;
 * restores ARP settings and sysctls; keeps or restores the services that it found running;
 * deletes its state. Changes that other programs made since stay. What several groups share is
 * released with the last of them.
 *
 * `done`, the blocking time and the errors: as with lvs_node_become_role().
 */
int lvs_node_release(struct lvs_node *node, char **done);

/**
 * Reads the status of the node. Changes nothing, and takes no lock. `status`: is set to it; free
 * it with lvs_status_free(). Takes as long as the table is large. Fails with LVS_ERR_STATE,
 * LVS_ERR_PERMISSION.
 */
int lvs_node_read_status(struct lvs_node *node, struct lvs_status **status);

/**
 * Frees a status, and the lists that belong to it. NULL is ignored.
 */
void lvs_status_free(struct lvs_status *status);

/**
 * Fills `summary` with the status in numbers; set its `size` before. Does not block.
 */
int lvs_status_summary(const struct lvs_status *status, struct lvs_node_status *summary);

/**
 * Whether a service belongs to the node: it is among its configured services, or among those that
 * it has loaded. `owned`: is set to 1 or 0. Does not block. Fails with LVS_ERR_INVALID.
 */
int lvs_status_owns(const struct lvs_status *status, const char *id, int *owned);

/**
 * The places of the VIPs, for lvs_places_get(). This list and those of the next functions belong
 * to the status, and live as long as it. NULL for NULL.
 */
const struct lvs_places *lvs_status_places(const struct lvs_status *status);

/**
 * The services in the kernel, without those of the node's own marks, for lvs_services_get().
 */
const struct lvs_services *lvs_status_services(const struct lvs_status *status);

/**
 * The destinations of the service of this index in lvs_status_services(), for
 * lvs_destinations_get(). NULL where there is no such service.
 */
const struct lvs_destinations *lvs_status_destinations(const struct lvs_status *status,
                                                       size_t index);

/**
 * The sync daemons that run, for lvs_sync_daemons_get().
 */
const struct lvs_sync_daemons *lvs_status_sync_daemons(const struct lvs_status *status);

/**
 * The rules of LVS_FENCE_MARKS that the kernel has on the node's interfaces, those of other
 * groups of the node among them, for lvs_rules_get(). Empty with LVS_FENCE_CLEAR.
 */
const struct lvs_rules *lvs_status_rules(const struct lvs_status *status);

/**
 * The other nodes that LVS_FENCE_MARKS knows, with the MAC addresses that they send from, for
 * lvs_peers_get().
 */
const struct lvs_peers *lvs_status_peers(const struct lvs_status *status);

/**
 * The steps that are missing for the role to be in place: none, if all is well.
 */
const struct lvs_texts *lvs_status_missing(const struct lvs_status *status);

/**
 * The steps that lvs_node_repair() would run.
 */
const struct lvs_texts *lvs_status_drift(const struct lvs_status *status);

/**
 * What an operator should know.
 */
const struct lvs_texts *lvs_status_warnings(const struct lvs_status *status);

/**
 * The classifiers that mark packets on the node's interfaces, with what they know and have
 * counted, for lvs_classifiers_get(). Empty unless `vip_owner` is LVS_VIP_OWNER_ROUTES, and
 * without the privileges that reading them takes (lvs_classifier).
 */
const struct lvs_classifiers *lvs_status_classifiers(const struct lvs_status *status);

/**
 * The VIPs that a routing daemon is to advertise, with LVS_VIP_OWNER_ROUTES.
 */
const struct lvs_texts *lvs_status_advertised(const struct lvs_status *status);

/**
 * The interfaces whose links reach clients (LVS_ARP_DEFAULT), the one that is named first.
 * lvs_arp_effective() has the settings that count there.
 */
const struct lvs_texts *lvs_status_interfaces(const struct lvs_status *status);

/**
 * Whether a destination was drained, by lvs_node_weigh() or LVS_TASK_WEIGH. `id`: the service.
 * `address`: the destination, "192.168.0.11:80". `drained`: is set to 1 or 0. `weight`: is set to
 * the weight that it had before, 0 if it was not drained; NULL if it is not needed. Does not
 * block. Fails with LVS_ERR_INVALID.
 */
int lvs_status_drained(const struct lvs_status *status,
                       const char *id,
                       const char *address,
                       int *drained,
                       uint32_t *weight);

/**
 * A digest of the node's services in the kernel, to be compared with other nodes'. `table`: is
 * set to that of services, destinations and weights. `order`: is set to that of the order in
 * which the kernel lists the destinations of services with scheduler mh, whose hash tables depend
 * on it. NULL for what is not needed. Both stay comparable between nodes of one version. Does not
 * block.
 */
int lvs_status_digest(const struct lvs_status *status, uint64_t *table, uint64_t *order);

/**
 * Fills `failure` with the last role or release that was not reached, where none was since; set
 * its `size` before. The texts in it belong to the status, and live as long as that. Does not
 * block.
 */
int lvs_status_failure(const struct lvs_status *status, struct lvs_failure *failure);

/**
 * Frees a list that a function has made. NULL is ignored. The lists of a status are freed with
 * it.
 */
void lvs_texts_free(struct lvs_texts *texts);

/**
 * Returns the number of texts in a list; 0 for NULL.
 */
size_t lvs_texts_count(const struct lvs_texts *texts);

/**
 * Returns the text of this index, counted from 0: it belongs to the list, and lives as long as
 * that. NULL where there is none.
 */
const char *lvs_texts_get(const struct lvs_texts *texts, size_t index);

/**
 * Looks for settings that do harm now, or will at the next failover. Changes nothing.
 *
 * `keepalived`: the path of keepalived's file, or NULL. `findings`: is set to the list, the worst
 * first; free it with lvs_findings_free(). Takes as long as the table is large, and up to 300 ms
 * where MAC addresses of other nodes are not known. Fails as lvs_node_read_status(), and with
 * LVS_ERR_SYSTEM when keepalived's file cannot be read.
 */
int lvs_node_audit(struct lvs_node *node, const char *keepalived, struct lvs_findings **findings);

/**
 * Returns the number of findings in a list; 0 for NULL.
 */
size_t lvs_findings_count(const struct lvs_findings *findings);

/**
 * Fills `finding` with the entry of this index, counted from 0; set its `size` before. The texts
 * in it belong to the list, and live as long as the list. Fails with LVS_ERR_INDEX.
 */
int lvs_findings_get(const struct lvs_findings *findings,
                     size_t index,
                     struct lvs_finding *finding);

/**
 * Frees a list. NULL is ignored.
 */
void lvs_findings_free(struct lvs_findings *findings);

/**
 * Plans what lvs_node_fix() would do. Changes nothing, and takes no lock. `plan` and the errors:
 * as with lvs_node_plan().
 */
int lvs_node_plan_fix(struct lvs_node *node, char **plan);

/**
 * Does what it can about an audit's findings, those where `is_fixable` is 1: lvs_node_repair(),
 * and what that leaves to an operator. `done`, the blocking time and the errors: as with
 * lvs_node_repair().
 */
int lvs_node_fix(struct lvs_node *node, char **done);

/**
 * Tries whether the kernel can mark packets, in a network namespace made for that; the kernel may
 * load modules meanwhile. Without CAP_SYS_ADMIN, which the namespace needs, nothing is tried:
 * lvs_marks_add() then says what is missing. Blocks for 10 s at most. Fails with LVS_ERR_NO_MODULE
 * (sch_ingress, cls_bpf or act_skbedit is missing) and LVS_ERR_SYSTEM.
 */
int lvs_marks_supported(void);

/**
 * Opens a client for rules.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
 * calling thread's. `owner`: a number that tells the rules of this program from those of others;
 * it must be the same after a restart. `marks`: is set to the client; free it with
 * lvs_marks_free().
 */
int lvs_marks_open(const char *netns, uint64_t owner, struct lvs_marks **marks);

/**
 * Frees the client. Its rules stay. NULL is ignored.
 */
void lvs_marks_free(struct lvs_marks *marks);

/**
 * Lists the rules of this owner on an interface. `rules`: is set to the list, which may be empty;
 * free it with lvs_rules_free(). An interface that does not exist has no rules. A privilege is not
 * needed.
 */
int lvs_marks_rules(struct lvs_marks *marks, const char *interface, struct lvs_rules **rules);

/**
 * Adds a rule. One that differs in the mark alone is replaced, and no packet is without a mark
 * meanwhile. A rule that is there already is no error. Takes CAP_NET_ADMIN.
 *
 * `rule`: set its `size` before; `mac` is NULL unless `packets` is LVS_PACKETS_FROM. `made`: is
 * set to 1 if the interface had no clsact or ingress qdisc and was given one, otherwise to 0; NULL
 * if it is not needed. Fails with LVS_ERR_INVALID, LVS_ERR_NO_INTERFACE and LVS_ERR_PERMISSION.
 */
int lvs_marks_add(struct lvs_marks *marks, const struct lvs_rule *rule, int *made);

/**
 * Removes a rule, which is equal in all fields. `removed`: is set to 1, or to 0 where there was no
 * such rule; NULL if it is not needed. Otherwise as lvs_marks_add().
 */
int lvs_marks_remove(struct lvs_marks *marks, const struct lvs_rule *rule, int *removed);

/**
 * Removes all rules of this owner from an interface. `made`: 1 where lvs_marks_add() made the
 * qdisc, which is then removed too, unless other filters are in it; otherwise 0. Fails with
 * LVS_ERR_PERMISSION.
 */
int lvs_marks_clear(struct lvs_marks *marks, const char *interface, int made);

/**
 * Frees a list of lvs_marks_rules(). NULL is ignored. A list of lvs_status_rules() is freed with
 * its status.
 */
void lvs_rules_free(struct lvs_rules *rules);

/**
 * Returns the number of rules in a list; 0 for NULL.
 */
size_t lvs_rules_count(const struct lvs_rules *rules);

/**
 * Fills `rule` with the entry of this index, counted from 0; set its `size` before. The texts in
 * it belong to the list, and live as long as the list. Fails with LVS_ERR_INDEX.
 */
int lvs_rules_get(const struct lvs_rules *rules, size_t index, struct lvs_rule *rule);

/**
 * Returns the number of entries in a list; 0 for NULL.
 */
size_t lvs_peers_count(const struct lvs_peers *peers);

/**
 * Fills `peer` with the entry of this index, counted from 0; set its `size` before. The texts in
 * it belong to the list, and live as long as the list. Fails with LVS_ERR_INDEX.
 */
int lvs_peers_get(const struct lvs_peers *peers, size_t index, struct lvs_peer *peer);

/**
 * Begins to receive notifications. No privilege is needed. Does not block.
 *
 * `netns`: the file of the network namespace to listen in ("/run/netns/blue"), or NULL for the
 * calling thread's. `monitor`: is set to the monitor; free it with lvs_monitor_free(). Fails with
 * LVS_ERR_SYSTEM.
 */
int lvs_monitor_open(const char *netns, struct lvs_monitor **monitor);

/**
 * Frees the monitor. NULL is ignored.
 */
void lvs_monitor_free(struct lvs_monitor *monitor);

/**
 * The descriptor of the monitor: it is readable when lvs_monitor_next() has an event. Otherwise
 * as lvs_driver_fd().
 */
int lvs_monitor_fd(const struct lvs_monitor *monitor);

/**
 * Takes the next event. Call it until there is none: the descriptor may not be readable while
 * events are left.
 *
 * `event` is filled; set its `size` before. Its kind is LVS_EVENT_NONE when there is none at
 * present. Does not wait for an event. The kernel is asked for the name of a neighbour's
 * interface where it is not known yet. Fails with LVS_ERR_SYSTEM.
 */
int lvs_monitor_next(struct lvs_monitor *monitor, struct lvs_event *event);

/**
 * Lists the neighbours of both families on all interfaces, multicast addresses included. Sends
 * nothing to the network, and needs no privilege. `neighbours`: is set to the list, which may be
 * empty; free it with lvs_neighbours_free().
 */
int lvs_marks_neighbours(struct lvs_marks *marks, struct lvs_neighbours **neighbours);

/**
 * Returns the number of neighbours in a list; 0 for NULL.
 */
size_t lvs_neighbours_count(const struct lvs_neighbours *neighbours);

/**
 * Fills `neighbour` with the entry of this index, counted from 0; set its `size` before. Fails
 * with LVS_ERR_INDEX.
 */
int lvs_neighbours_get(const struct lvs_neighbours *neighbours,
                       size_t index,
                       struct lvs_neighbour *neighbour);

/**
 * Frees the list. NULL is ignored.
 */
void lvs_neighbours_free(struct lvs_neighbours *neighbours);

/**
 * Asks the kernel to find out the MAC address of `address` on the link of `interface`, or to
 * confirm the one that it knows. Does not wait for the answer: an lvs_monitor or
 * lvs_marks_neighbours() shows it. An entry that is reachable or permanent is left alone. Takes
 * CAP_NET_ADMIN. Fails with LVS_ERR_INVALID, LVS_ERR_NO_INTERFACE and LVS_ERR_PERMISSION.
 */
int lvs_marks_resolve(struct lvs_marks *marks, const char *address, const char *interface);

/**
 * Lists the MAC addresses that this node's frames may carry on an interface: its own; for a VLAN
 * or macvlan also those of the interface below; for a bond or team also those of its slaves.
 * `macs`: is set to the list; free it with lvs_texts_free(). Fails with LVS_ERR_NO_INTERFACE.
 */
int lvs_marks_macs(struct lvs_marks *marks, const char *interface, struct lvs_texts **macs);

/**
 * Lists the next hops on the way to the outside: of the routes to 203.0.113.1 and 2001:db8::1.
 * Sends nothing to the network. `gateways`: is set to the list, which is empty where there are no
 * routes; free it with lvs_texts_free().
 */
int lvs_marks_gateways(struct lvs_marks *marks, struct lvs_texts **gateways);

/**
 * Finds by which interface packets of this node to an address leave. `interface`: is set to its
 * name, or to NULL where there is no route; that of the node's own addresses is "lo". `gateway`:
 * is set to the next hop, or to NULL where the address is on the interface's link; NULL if it is
 * not needed. Free both with lvs_text_free(). Sends nothing to the network.
 */
int lvs_marks_route_to(struct lvs_marks *marks,
                       const char *address,
                       char **interface,
                       char **gateway);

/**
 * Asks the link who has an address, by ARP or neighbour discovery, and lists the MAC addresses
 * that answer. Changes nothing. Takes CAP_NET_RAW.
 *
 * `netns`: as with lvs_vips_open(). `limit_ms`: for how long it waits for an answer, in
 * milliseconds. `linger_ms`: for how long it waits for further answers after the first, within
 * `limit_ms`. `macs`: is set to the list, which may be empty; free it with lvs_texts_free().
 * Blocks for `limit_ms` at most, and for a grace period of RCU, some 10 ms, by which the kernel
 * closes the socket. Fails with LVS_ERR_INVALID (an address that is no VIP's, an interface that
 * is not like Ethernet), LVS_ERR_NO_INTERFACE, LVS_ERR_INTERFACE_DOWN, and LVS_ERR_SYSTEM
 * (EPERM).
 */
int lvs_who_has(const char *netns,
                const char *interface,
                const char *address,
                uint32_t limit_ms,
                uint32_t linger_ms,
                struct lvs_texts **macs);

/**
 * Opens a client. Starts no program yet, and does not block.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
 * calling thread's. `marks`: is set to the client; free it with lvs_local_marks_free().
 */
int lvs_local_marks_open(const char *netns, struct lvs_local_marks **marks);

/**
 * Frees the client. The marks stay. NULL is ignored.
 */
void lvs_local_marks_free(struct lvs_local_marks *marks);

/**
 * Reads the marks that are in force. Changes nothing. `found`: is set to the list; free it with
 * lvs_marked_free(). The blocking time and the errors are those of lvs_local_marks.
 */
int lvs_local_marks_observe(struct lvs_local_marks *marks, struct lvs_marked **found);

/**
 * Sets these marks and no others. Marks that are right already stay. nftables replaces all at
 * once; with xtables a packet gets the old mark or the new one meanwhile.
 *
 * `wanted`: `count` structures, up to 4096, each with its `size` set; NULL where `count` is 0.
 * They are copied. `found`: is set to the marks that are in force then, to be freed with
 * lvs_marked_free(); NULL if it is not needed. That no backend can set a mark is no error: it is
 * absent from the list, and lvs_marked_reason() says why. Fails with LVS_ERR_INVALID for an
 * address that is no VIP's or that has two marks, and nothing is changed then; with
 * LVS_ERR_NOT_VERIFIED when another process changes the marks at the same time; and as
 * lvs_local_marks, which also says for how long it blocks.
 */
int lvs_local_marks_apply(struct lvs_local_marks *marks,
                          const struct lvs_local_mark *wanted,
                          size_t count,
                          struct lvs_marked **found);

/**
 * Removes all marks, of every backend. Rules of other programs stay. `removed`: is set to 1 if
 * there were any, otherwise to 0; NULL if it is not needed. The blocking time and the errors are
 * those of lvs_local_marks.
 */
int lvs_local_marks_remove(struct lvs_local_marks *marks, int *removed);

/**
 * Returns what sets the marks: LVS_BACKEND_... LVS_BACKEND_NONE for NULL.
 */
uint32_t lvs_marked_backend(const struct lvs_marked *marked);

/**
 * Returns why there is no backend, or none for one of the address families, and what to do: a
 * text that belongs to the list, and lives as long as that. NULL where nothing is missing, and
 * for NULL.
 */
const char *lvs_marked_reason(const struct lvs_marked *marked);

/**
 * Returns the number of marks in a list; 0 for NULL.
 */
size_t lvs_marked_count(const struct lvs_marked *marked);

/**
 * Fills `mark` with the entry of this index, counted from 0; set its `size` before. The text in
 * it belongs to the list, and lives as long as the list. Fails with LVS_ERR_INDEX.
 */
int lvs_marked_get(const struct lvs_marked *marked, size_t index, struct lvs_local_mark *mark);

/**
 * Frees the list. NULL is ignored.
 */
void lvs_marked_free(struct lvs_marked *marked);

/**
 * Tries whether the kernel lets this process use a classifier: loads the program, and attaches it
 * nowhere. Takes the time of the kernel's verifier, some milliseconds. Fails with
 * LVS_ERR_NO_MODULE, and the verifier's words in the message.
 */
int lvs_classifier_supported(void);

/**
 * Opens a client for classifiers.
 *
 * `netns` and `owner`: as with lvs_marks_open(). `classifier`: is set to the client; free it with
 * lvs_classifier_free().
 */
int lvs_classifier_open(const char *netns, uint64_t owner, struct lvs_classifier **classifier);

/**
 * Frees the client. The programs that it has attached stay. NULL is ignored.
 */
void lvs_classifier_free(struct lvs_classifier *classifier);

/**
 * Makes what the classifier on an interface knows this; attaches it where there is none, and adds
 * the qdisc clsact where there is neither that nor ingress. Repeating it is no error.
 *
 * `services`: `service_count` structures, up to 4096; `peers`: `peer_count` structures, up to
 * 1024. Each has its `size` set; NULL where the count is 0. They are copied. Each service and
 * each peer changes in one step, those that are added before others go. The counters go on. The
 * first call takes the time of the kernel's verifier, some milliseconds. Fails with
 * LVS_ERR_INVALID, LVS_ERR_NO_INTERFACE, LVS_ERR_NO_MODULE where the kernel does not let this
 * process use bpf(2), LVS_ERR_PERMISSION, and LVS_ERR_FOREIGN where another program's filter has
 * the priority.
 */
int lvs_classifier_apply(struct lvs_classifier *classifier,
                         const char *interface,
                         const struct lvs_classified *services,
                         size_t service_count,
                         const struct lvs_classifier_peer *peers,
                         size_t peer_count);

/**
 * Removes the classifier of this owner from an interface, with all that it knows. A missing one
 * is no error. The qdisc stays: lvs_marks_clear() removes it. Fails with LVS_ERR_PERMISSION.
 */
int lvs_classifier_remove(struct lvs_classifier *classifier, const char *interface);

/**
 * Reads what the classifier of this owner on an interface knows and has counted. `found`: is set
 * to a list, to be freed with lvs_classifiers_free(): it has one entry, or none where there is no
 * such classifier or interface. Fails with LVS_ERR_NO_MODULE without CAP_BPF and CAP_SYS_ADMIN.
 */
int lvs_classifier_observe(struct lvs_classifier *classifier,
                           const char *interface,
                           struct lvs_classifiers **found);

/**
 * Returns the number of classifiers in a list; 0 for NULL.
 */
size_t lvs_classifiers_count(const struct lvs_classifiers *classifiers);

/**
 * Fills `attached` with the entry of this index, counted from 0; set its `size` before. The text
 * in it belongs to the list, and lives as long as the list. Fails with LVS_ERR_INDEX.
 */
int lvs_classifiers_get(const struct lvs_classifiers *classifiers,
                        size_t index,
                        struct lvs_attached *attached);

/**
 * Fills `service` with a service of the classifier of this index: that of the index `number`,
 * both counted from 0. Otherwise as lvs_classifiers_get().
 */
int lvs_classifiers_service(const struct lvs_classifiers *classifiers,
                            size_t index,
                            size_t number,
                            struct lvs_classified *service);

/**
 * Fills `peer` with a MAC address that the classifier of this index knows: that of the index
 * `number`, both counted from 0. Otherwise as lvs_classifiers_get().
 */
int lvs_classifiers_peer(const struct lvs_classifiers *classifiers,
                         size_t index,
                         size_t number,
                         struct lvs_classifier_peer *peer);

/**
 * Frees a list of lvs_classifier_observe(). NULL is ignored. A list of lvs_status_classifiers()
 * is freed with its status.
 */
void lvs_classifiers_free(struct lvs_classifiers *classifiers);

/**
 * Opens a node for a program with a loop of its own. Changes nothing yet, and does not block.
 *
 * `netns`, `config` and the errors: as with lvs_node_open(). `driver`: is set to the driver; free
 * it with lvs_driver_free(). Fails with LVS_ERR_SYSTEM as well (`EMFILE`, `ENFILE`, `ENOMEM`).
 */
int lvs_driver_open(const char *netns,
                    const struct lvs_node_config *config,
                    struct lvs_driver **driver);

/**
 * Gives the driver's node another configuration, for the tasks behind the one that is under way:
 * LVS_TASK_APPLY brings it in. Otherwise as lvs_node_reconfigure().
 */
int lvs_driver_reconfigure(struct lvs_driver *driver, const struct lvs_node_config *config);

/**
 * Frees a driver. A task that is under way is given up, as by a process that is killed: what was
 * done stays, and the next request goes on from there. NULL is ignored.
 *
 * A driver keeps the packet sockets by which it has announced VIPs and asked for the director,
 * one each. Closing one waits for a grace period of RCU, some 10 ms.
 */
void lvs_driver_free(struct lvs_driver *driver);

/**
 * The descriptor of the driver. It is readable when lvs_driver_dispatch() has something to do:
 * wait for it with poll(2), epoll(7) or a library's loop. It is the driver's: neither read nor
 * close it. -1: `driver` is NULL.
 */
int lvs_driver_fd(const struct lvs_driver *driver);

/**
 * Asks for a task. Does not block; lvs_driver_dispatch() carries it out.
 *
 * `task`: LVS_TASK_... but LVS_TASK_WEIGH. `role`: LVS_ROLE_..., with LVS_TASK_ROLE; 0 otherwise.
 * A role and a release supersede what this driver has under way, and earlier requests of other
 * processes. The other tasks wait for it. Fails with LVS_ERR_INVALID, LVS_ERR_SYSTEM; the errors
 * of the task are reported.
 */
int lvs_driver_request(struct lvs_driver *driver, uint32_t task, uint32_t role);

/**
 * Asks for LVS_TASK_WEIGH. `server`, `change` and `weight`: as with lvs_node_weigh(). Otherwise
 * as lvs_driver_request().
 */
int lvs_driver_request_weigh(struct lvs_driver *driver,
                             const char *server,
                             uint32_t change,
                             uint32_t weight);

/**
 * Does what there is to do now: call it when the descriptor is readable.
 *
 * Never sleeps, and waits neither for a lock nor for another node. It begins steps for 2 ms and
 * ends the one that it has begun: a request to the kernel, or a file that is written. A look at
 * the whole, for the first role and for a repair, reads the table, which takes as long as the
 * table is large. nft(8) and iptables(8) are waited for by the descriptor.
 *
 * Files in `state_dir` are written to the disk (fsync(2)). The default, below /run, is a tmpfs,
 * where there is none to wait for; elsewhere a dispatch waits for the disk. No packet socket is
 * closed: see lvs_driver_free().
 *
 * Fails with LVS_ERR_SYSTEM; the errors of tasks are reported.
 */
int lvs_driver_dispatch(struct lvs_driver *driver);

/**
 * Gives up the task that is under way, and those that wait for it. What was done stays, and they
 * are not reported; the next request goes on from there. Does not block.
 */
int lvs_driver_cancel(struct lvs_driver *driver);

/**
 * Sets which other node directs, as lvs_node_set_director(), without waiting: fails with
 * LVS_ERR_LOCKED while another process, or a task of this driver, works on the node. It can be
 * said again later.
 */
int lvs_driver_set_director(struct lvs_driver *driver, const char *director);

/**
 * Reads the status of the node, as lvs_node_read_status().
 */
int lvs_driver_read_status(struct lvs_driver *driver, struct lvs_status **status);

/**
 * Takes the next report.
 *
 * `report` is filled; set its `size` before. Its kind is LVS_REPORT_NONE when there is none at
 * present. `text`: is set to the report's text, to be freed with lvs_text_free(), or to NULL when
 * there is no report; NULL if it is not needed.
 */
int lvs_driver_next_report(struct lvs_driver *driver, struct lvs_report *report, char **text);

/**
 * Whether a task is under way or a report is to be taken: 1 or 0. 0 for NULL and where another
 * thread uses the driver.
 */
int lvs_driver_is_busy(struct lvs_driver *driver);

/**
 * Opens a supervisor for the groups of one node. Changes nothing yet, and does not block.
 *
 * `netns`: as with lvs_node_open(). `nodes`: `count` configurations, 1 to 255, a node for each
 * group; they are copied. `config`: what is supervised; NULL: the defaults. `supervisor`: is set
 * to the supervisor; free it with lvs_supervisor_free(). Fails as lvs_node_open(), and with
 * LVS_ERR_STATE, LVS_ERR_SYSTEM (EMFILE, ENFILE, ENOMEM).
 */
int lvs_supervisor_open(const char *netns,
                        const struct lvs_node_config *nodes,
                        size_t count,
                        const struct lvs_supervisor_config *config,
                        struct lvs_supervisor **supervisor);

/**
 * Gives the node another configuration, of each group in the same order, and brings it in as
 * lvs_node_apply() does. Roles stay. Does not block.
 *
 * `nodes`, `count`: as with lvs_supervisor_open(). Fails as lvs_node_reconfigure(), and with
 * LVS_ERR_INVALID for another number of groups; every group keeps its configuration then.
 */
int lvs_supervisor_reconfigure(struct lvs_supervisor *supervisor,
                               const struct lvs_node_config *nodes,
                               size_t count);

/**
 * Frees a supervisor. What it has changed stays. NULL is ignored.
 */
void lvs_supervisor_free(struct lvs_supervisor *supervisor);

/**
 * The descriptor of the supervisor: as lvs_driver_fd().
 */
int lvs_supervisor_fd(const struct lvs_supervisor *supervisor);

/**
 * Takes on a role for a group, as if keepalived had notified it. Does not block;
 * lvs_supervisor_dispatch() carries it out. `group`: its name; "" for a node without groups.
 * `role`: LVS_ROLE_... Fails with LVS_ERR_INVALID.
 */
int lvs_supervisor_request(struct lvs_supervisor *supervisor, const char *group, uint32_t role);

/**
 * Does what there is to do now: call it when the descriptor is readable. Never sleeps, and waits
 * neither for a lock nor for another node. As lvs_driver_dispatch() for each group; a look at the
 * whole, once a second, reads the table where it may have changed. Fails with LVS_ERR_SYSTEM;
 * every other failure is a notice, and is tried again.
 */
int lvs_supervisor_dispatch(struct lvs_supervisor *supervisor);

/**
 * Takes the next notice.
 *
 * `notice` is filled; set its `size` before. Its kind is LVS_NOTICE_NONE when there is none at
 * present. `text`: is set to the notice as a line or more for a log, to be freed with
 * lvs_text_free(), or to NULL when there is none; NULL if it is not needed. Does not block.
 */
int lvs_supervisor_next_notice(struct lvs_supervisor *supervisor,
                               struct lvs_notice *notice,
                               char **text);

/**
 * Fills `counts` with what the supervisor has counted; set its `size` before. Does not block.
 */
int lvs_supervisor_read_counts(struct lvs_supervisor *supervisor,
                               struct lvs_supervisor_counts *counts);

/**
 * Lists which other nodes have another table than this one, and why that matters. `unequal`: is
 * set to the list, which may be empty; free it with lvs_texts_free(). Does not block.
 */
int lvs_supervisor_unequal(struct lvs_supervisor *supervisor, struct lvs_texts **unequal);

/**
 * Lists the other nodes of the cluster that were received within the last minute, in the order of
 * their addresses. `others`: is set to the list, which may be empty; free it with
 * lvs_other_nodes_free(). Does not block.
 */
int lvs_supervisor_others(struct lvs_supervisor *supervisor, struct lvs_other_nodes **others);

/**
 * Returns the number of nodes in a list; 0 for NULL.
 */
size_t lvs_other_nodes_count(const struct lvs_other_nodes *others);

/**
 * Fills `node` with the entry of this index, counted from 0; set its `size` before. The text and
 * the lists in it belong to the list, and live as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_other_nodes_get(const struct lvs_other_nodes *others,
                        size_t index,
                        struct lvs_other_node *node);

/**
 * Frees the list. NULL is ignored.
 */
void lvs_other_nodes_free(struct lvs_other_nodes *others);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  /* LVS_DR_H */
