/*
 * lvs-dr: web servers as their own load balancer. Linux IPVS in direct-routing mode, placement of the VIP, ARP
 * settings, and the change of a node's role. Link with -llvs_dr (pkg-config: lvs_dr). Linux only.
 *
 * Results. Functions return LVS_OK (0) or a negative status, LVS_ERR_...: from -1 on for wrong arguments, -100 for
 * refusals of the kernel, -200 for the system, -300 for a node and what belongs to others, -900 for bugs. Numbers
 * keep their meaning; later versions may add some within these ranges. lvs_last_error_message() has the words and
 * lvs_last_errno() the errno of the last failure in the calling thread; a call that succeeds leaves them alone. A
 * result is written only by a call that succeeds. Nothing is printed, and no signal or exit handler is installed.
 * Where memory runs out, the process is aborted.
 *
 * Arguments. A pointer must not be NULL unless the function says what NULL means: otherwise LVS_ERR_NULL. Texts are
 * UTF-8 and end with a NUL: names, addresses and ids up to 255 octets, paths 4095, tables 16 MiB. They are copied.
 * Addresses are texts, as in inet_pton(3), with a port "192.168.0.11:80" or "[2001:db8::11]:80"; all numbers are in
 * host byte order.
 *
 * Structures begin with their size, which the caller sets, also of those to be filled; the other fields are set, or
 * cleared:
 *
 *     struct lvs_destination server = { .size = sizeof server, .address = "192.168.0.11:80", .weight = 1 };
 *
 * So a program works with later libraries, whose structures have more fields at their end: what an older program
 * does not give is 0, and 0 means what was done before there was the field. An older library takes a longer
 * structure as long as the fields that it does not know are 0, and clears them in those that it fills; otherwise
 * LVS_ERR_SIZE.
 *
 * Handles (lvs_ipvs, lvs_vips, lvs_arp, lvs_node) are made by lvs_..._open() and ended by lvs_..._free(), lists by
 * lvs_..._free() as well, texts that are given to the caller (char **) by lvs_text_free(), and not to be written to.
 * A handle may be used by any thread, but by one at a time; different handles do not disturb one another. A handle
 * belongs to the network namespace that it was opened in, whatever thread uses it. After fork(2) a handle is for one
 * of the two processes only.
 */

#ifndef LVS_DR_H
#define LVS_DR_H

/* Made from src/capi/ by cbindgen: `make header` brings it up to date. */

#include <stddef.h>
#include <stdint.h>

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
 * The `size` of a structure is none that this version knows, or a field that it does not know is set.
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
 * A value makes no sense, or the kernel would take it although it is wrong.
 */
#define LVS_ERR_INVALID -5

/**
 * A list has no entry of this index.
 */
#define LVS_ERR_INDEX -6

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
 * The scheduler or persistence engine is unknown, and its module could not be loaded.
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
 * The handle is in use by another thread.
 */
#define LVS_ERR_BUSY -116

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
 * The address, service or setting belongs to somebody else, and is left as it was.
 */
#define LVS_ERR_FOREIGN -300

/**
 * A file in the state directory cannot be believed.
 */
#define LVS_ERR_STATE -301

/**
 * A later request for a role arrived while this one waited; this one is not carried out.
 */
#define LVS_ERR_OVERTAKEN -302

/**
 * Another process works on the node for too long.
 */
#define LVS_ERR_LOCKED -303

/**
 * A change was made without an error, but the kernel does not show its effect.
 */
#define LVS_ERR_NOT_VERIFIED -304

/**
 * A bug in this library. The handles that were used may only be freed.
 */
#define LVS_ERR_PANIC -900

/**
 * Each UDP packet is scheduled by itself. These flags are the kernel's, IP_VS_SVC_F_* in linux/ip_vs.h.
 */
#define LVS_SERVICE_ONE_PACKET 4

/**
 * The scheduler's first flag: for sh and mh, another destination is chosen where the first choice has weight 0
 * or is overloaded.
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
 * Direct routing: packets are passed on unchanged. (These numbers are this library's, not the kernel's.)
 */
#define LVS_FORWARD_DIRECT 0

/**
 * NAT.
 */
#define LVS_FORWARD_MASQUERADE 1

/**
 * Packets travel inside others, see `tunnel`.
 */
#define LVS_FORWARD_TUNNEL 2

/**
 * The director itself.
 */
#define LVS_FORWARD_LOCAL 3

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
 * For lvs_ipvs_apply: services that the table does not name are removed, whosesoever they are.
 */
#define LVS_APPLY_REMOVE_OTHERS 1

/**
 * In lvs_place: it does not expire.
 */
#define LVS_PLACE_PERMANENT 1

/**
 * In lvs_place: its preferred lifetime is over, and it is not the source of new connections.
 */
#define LVS_PLACE_DEPRECATED 2

/**
 * In lvs_place: IPv6 duplicate detection has not ended, and it does not work yet.
 */
#define LVS_PLACE_TENTATIVE 4

/**
 * In lvs_place: IPv6 duplicate detection found it elsewhere, and it does not work.
 */
#define LVS_PLACE_DAD_FAILED 8

/**
 * In lvs_place: it belongs to somebody else, and is neither changed nor removed.
 */
#define LVS_PLACE_FOREIGN 16

/**
 * No role yet.
 */
#define LVS_ROLE_NONE 0

/**
 * Directs, and serves.
 */
#define LVS_ROLE_MASTER 1

/**
 * Serves what the director sends it.
 */
#define LVS_ROLE_BACKUP 2

/**
 * As a backup: VRRP found a fault.
 */
#define LVS_ROLE_FAULT 3

/**
 * As a backup: VRRP was stopped. The node goes on serving; see lvs_node_release().
 */
#define LVS_ROLE_STOP 4

/**
 * The node puts the VIP on the interface, announces it, and takes it off.
 */
#define LVS_VIP_OWNER_NODE 0

/**
 * keepalived does, or whoever elects the director; the node cares for the loopback VIP only.
 */
#define LVS_VIP_OWNER_KEEPALIVED 1

/**
 * What this version thinks best: LVS_FENCE_QUIESCE.
 */
#define LVS_FENCE_DEFAULT 0

/**
 * A backup has no table: it is kept in the state directory, and restored on promotion.
 */
#define LVS_FENCE_CLEAR 1

/**
 * A backup has the same table, in which every server but itself has weight 0, and learns the director's connections.
 */
#define LVS_FENCE_QUIESCE 2

/**
 * Every node has the same table, with scheduler mh, mh-port and mh-fallback; nothing is fenced.
 */
#define LVS_FENCE_STATELESS 3

/**
 * Every node has the same table, and the kernel's switch `backup_only`; only with LVS_VIP_OWNER_NODE.
 */
#define LVS_FENCE_BACKUP_ONLY 4

/**
 * The VIP is always on `lo`; on the director it is on the interface as well.
 */
#define LVS_LOOPBACK_ALWAYS 0

/**
 * The VIP is on `lo` of backups only.
 */
#define LVS_LOOPBACK_BACKUP 1

/**
 * arp_ignore 1 and arp_announce 2 on the interface.
 */
#define LVS_ARP_DEFAULT 0

/**
 * ARP settings are left alone.
 */
#define LVS_ARP_LEAVE 1

/**
 * `arp_ignore` and `arp_announce` on the interface.
 */
#define LVS_ARP_INTERFACE 2

/**
 * `arp_ignore` and `arp_announce` for all interfaces.
 */
#define LVS_ARP_ALL 3

/**
 * Reads and changes the ARP settings of one network namespace.
 */
typedef struct lvs_arp lvs_arp;

/**
 * Destinations, as they were when the list was made. Several threads may read one list.
 */
typedef struct lvs_destinations lvs_destinations;

/**
 * A client of IPVS in one network namespace.
 */
typedef struct lvs_ipvs lvs_ipvs;

/**
 * A node of the cluster.
 */
typedef struct lvs_node lvs_node;

/**
 * The places of an address, as they were when the list was made. Several threads may read one list.
 */
typedef struct lvs_places lvs_places;

/**
 * Services, as they were when the list was made. Several threads may read one list.
 */
typedef struct lvs_services lvs_services;

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
     * With persistence, which part of a client's address counts, as -M in ipvsadm(8): "255.255.255.0", for
     * IPv6 "64". NULL: all of it.
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
     * Its share of new connections, up to 2147483647; 0: it gets none, and keeps those that it has.
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
 * What a node is to be. All that is 0 or NULL is left to this library, but for the first four fields.
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
     * How many VIPs there are, 1 to 4096.
     */
    size_t vip_count;
    /**
     * The director's table, as `ipvsadm -Sn` prints it: these services and no others are the node's. NULL: the
     * table that is found running is the one that is kept.
     */
    const char *services;
    /**
     * Where the node keeps its state: a directory for root alone, one for each node. NULL: "/run/lvs-dr".
     */
    const char *state_dir;
    /**
     * The interface that sync messages pass, with LVS_FENCE_QUIESCE and LVS_FENCE_BACKUP_ONLY. NULL: `interface`.
     */
    const char *sync_interface;
    /**
     * Their multicast group. NULL: "224.0.0.81".
     */
    const char *sync_group;
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
     * How many announcements follow the VIP to the interface. 0: 5. -1: none.
     */
    int32_t announcements;
    /**
     * Which nodes belong together, 1 to 255. 0: the last number of the first VIP.
     */
    uint32_t sync_id;
    /**
     * The UDP port of sync messages, in host byte order. 0: 8848.
     */
    uint32_t sync_port;
    /**
     * How many routers they may pass, 1 to 255. 0: 1.
     */
    uint32_t sync_ttl;
    /**
     * What makes them full, in octets: 1 tells of each connection at once. 0: 1. -1: the kernel's choice, 1472.
     */
    int32_t sync_max_length;
    /**
     * With LVS_FENCE_QUIESCE: for how many milliseconds a new director takes new connections itself. 0: 500. -1: none.
     */
    int32_t settle_ms;
    /**
     * With LVS_FENCE_BACKUP_ONLY: for how many milliseconds a former director goes on forwarding. 0: 1000. -1: none.
     */
    int32_t drain_ms;
    /**
     * After how many milliseconds lvs_node_announce_again() announces. 0: 5000. -1: never.
     */
    int32_t announce_again_ms;
} lvs_node_config;

/**
 * What a node is.
 */
typedef struct lvs_node_status {
    /**
     * sizeof(struct lvs_node_status).
     */
    size_t size;
    /**
     * How many steps are missing for the role to be in place.
     */
    size_t missing;
    /**
     * How many warnings there are.
     */
    size_t warnings;
    /**
     * How many services the kernel's table has.
     */
    size_t services;
    /**
     * The number of the last request.
     */
    uint64_t generation;
    /**
     * The role that was asked for last: LVS_ROLE_...
     */
    uint32_t role;
    /**
     * 1: it was reached.
     */
    uint32_t reached;
    /**
     * 1: ARP requests for a VIP on `lo` stay unanswered.
     */
    uint32_t hidden;
    /**
     * 0.
     */
    uint32_t reserved;
} lvs_node_status;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The name of a status: "LVS_ERR_PERMISSION". A text that is always there, never NULL.
 */
const char *lvs_status_name(int status);

/**
 * The status of the last call in this thread that failed; LVS_OK before any has.
 */
int lvs_last_status(void);

/**
 * The errno(3) that the kernel gave as reason for the last failure in this thread; 0 where there was none.
 */
int lvs_last_errno(void);

/**
 * Copies the message of the last failure in this thread: what was tried, on what, why it failed, and what to
 * do.
 *
 * At most `size` octets are written, the NUL at the end among them; what is longer is cut between two
 * characters. Returns the message's length without the NUL, as snprintf(3) does: it was cut if that is not
 * below `size`. With `buffer` NULL or `size` 0 nothing is written. Reading the message does not change it.
 */
size_t lvs_last_error_message(char *buffer,
                              size_t size);

/**
 * The version of the library that runs: "0.1.0". LVS_VERSION is that of this header.
 */
const char *lvs_version(void);

/**
 * Takes back a text that was given away.
 *
 * Any text that this library gave, or NULL, which does nothing. Not for free(3), and not for texts that are
 * part of a list.
 */
void lvs_text_free(char *text);

/**
 * Opens a client of IPVS, and loads the kernel's module where it is not loaded yet.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the calling thread's.
 * `ipvs`: is set to the client; free it with lvs_ipvs_free(). Fails with LVS_ERR_NO_IPVS, or LVS_ERR_SYSTEM
 * where the namespace cannot be entered.
 */
int lvs_ipvs_open(const char *netns,
                  struct lvs_ipvs **ipvs);

/**
 * Ends a client. What it has changed stays. NULL does nothing.
 */
void lvs_ipvs_free(struct lvs_ipvs *ipvs);

/**
 * Adds a service. Fails with LVS_ERR_SERVICE_EXISTS, LVS_ERR_NO_MODULE, or LVS_ERR_INVALID for what makes no
 * sense.
 */
int lvs_ipvs_add_service(struct lvs_ipvs *ipvs,
                         const struct lvs_service *service);

/**
 * Sets a service to all of this; what it was set to before is lost. It keeps its destinations and connections.
 * Fails with LVS_ERR_NO_SERVICE, otherwise as lvs_ipvs_add_service().
 */
int lvs_ipvs_replace_service(struct lvs_ipvs *ipvs,
                             const struct lvs_service *service);

/**
 * Removes a service and its destinations. Fails with LVS_ERR_NO_SERVICE.
 */
int lvs_ipvs_remove_service(struct lvs_ipvs *ipvs, const char *id);

/**
 * Lists all services, in the order in which ipvsadm does. `services`: is set to the list; free it with
 * lvs_services_free().
 */
int lvs_ipvs_services(struct lvs_ipvs *ipvs,
                      struct lvs_services **services);

/**
 * How many services a list has; 0 for NULL.
 */
size_t lvs_services_count(const struct lvs_services *services);

/**
 * Fills `service` with the entry of this index, counted from 0; set its `size` before. The texts in it are the
 * list's, and live as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_services_get(const struct lvs_services *services,
                     size_t index,
                     struct lvs_service *service);

/**
 * Ends a list. NULL does nothing.
 */
void lvs_services_free(struct lvs_services *services);

/**
 * Adds a destination to the service of this id. Fails with LVS_ERR_NO_SERVICE, LVS_ERR_DESTINATION_EXISTS, or
 * LVS_ERR_INVALID for what makes no sense.
 */
int lvs_ipvs_add_destination(struct lvs_ipvs *ipvs,
                             const char *id,
                             const struct lvs_destination *destination);

/**
 * Sets a destination to all of this; what it was set to before is lost. It keeps its connections. To change
 * only the weight, read the destination from a list, change that, and give it here. Fails with
 * LVS_ERR_NO_SERVICE, LVS_ERR_NO_DESTINATION, otherwise as lvs_ipvs_add_destination().
 */
int lvs_ipvs_replace_destination(struct lvs_ipvs *ipvs,
                                 const char *id,
                                 const struct lvs_destination *destination);

/**
 * Removes a destination; its connections break. `address`: "192.168.0.11:80". Fails with LVS_ERR_NO_SERVICE,
 * LVS_ERR_NO_DESTINATION.
 */
int lvs_ipvs_remove_destination(struct lvs_ipvs *ipvs,
                                const char *id,
                                const char *address);

/**
 * Lists the destinations of a service, by address. `destinations`: is set to the list; free it with
 * lvs_destinations_free(). Fails with LVS_ERR_NO_SERVICE.
 */
int lvs_ipvs_destinations(struct lvs_ipvs *ipvs,
                          const char *id,
                          struct lvs_destinations **destinations);

/**
 * How many destinations a list has; 0 for NULL.
 */
size_t lvs_destinations_count(const struct lvs_destinations *destinations);

/**
 * Fills `destination` with the entry of this index, counted from 0; set its `size` before. The text in it is
 * the list's, and lives as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_destinations_get(const struct lvs_destinations *destinations,
                         size_t index,
                         struct lvs_destination *destination);

/**
 * Ends a list. NULL does nothing.
 */
void lvs_destinations_free(struct lvs_destinations *destinations);

/**
 * Reads all services with their destinations as one text, as `ipvsadm -Sn` prints them. `table`: is set to it;
 * free it with lvs_text_free().
 */
int lvs_ipvs_table(struct lvs_ipvs *ipvs,
                   char **table);

/**
 * Says what lvs_ipvs_apply() would do, and changes nothing. `plan`: is set to a text, a command of ipvsadm(8)
 * on each line, empty where nothing is to be done; free it with lvs_text_free().
 */
int lvs_ipvs_plan(struct lvs_ipvs *ipvs,
                  const char *table,
                  uint32_t flags,
                  char **plan);

/**
 * Makes the kernel's table what this text says, in the format of `ipvsadm -Sn`; commands of ipvsadm(8) for timeouts
 * (`--set`) and sync daemons (`--start-daemon`, `--stop-daemon`) may be among its lines. What is there already
 * keeps its connections; when a change fails, those before it are undone.
 *
 * `flags`: 0, and services that the text does not name stay as they are; or LVS_APPLY_REMOVE_OTHERS. `done`: is
 * set to the plan that was carried out, as lvs_ipvs_plan() gives it; NULL if it is of no interest. Fails with
 * LVS_ERR_PARSE, or as the functions for single changes do.
 */
int lvs_ipvs_apply(struct lvs_ipvs *ipvs,
                   const char *table,
                   uint32_t flags,
                   char **done);

/**
 * Opens a client for VIPs.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the calling thread's.
 * `vips`: is set to the client; free it with lvs_vips_free().
 */
int lvs_vips_open(const char *netns,
                  struct lvs_vips **vips);

/**
 * Ends a client. What it has changed stays. NULL does nothing.
 */
void lvs_vips_free(struct lvs_vips *vips);

/**
 * Places a VIP, and brings one that is there in another form into the right one.
 *
 * `vip`: "192.168.0.254". `interface`: "lo" for the loopback interface, where it gets scope host: the place of
 * every node that serves. Any other name: where neighbours find it, the director's place. `changed`: is set to
 * 1 if there was anything to do, otherwise to 0; NULL if it is of no interest. Fails with
 * LVS_ERR_NO_INTERFACE, LVS_ERR_PERMISSION, and LVS_ERR_FOREIGN where the address is there and belongs to
 * somebody else.
 */
int lvs_vips_add(struct lvs_vips *vips,
                 const char *vip,
                 const char *interface,
                 int *changed);

/**
 * Removes a VIP from this interface. The arguments and errors are those of lvs_vips_add(); a VIP that is not
 * there is no error.
 */
int lvs_vips_remove(struct lvs_vips *vips,
                    const char *vip,
                    const char *interface,
                    int *changed);

/**
 * Moves a VIP: it is added to interface `to`, then removed from `from`, wherever of the two it is now; between
 * the two it sits at both. Otherwise as lvs_vips_add(). Fails with LVS_ERR_FOREIGN where it sits on a third
 * interface.
 */
int lvs_vips_relocate(struct lvs_vips *vips,
                      const char *vip,
                      const char *from,
                      const char *to,
                      int *changed);

/**
 * Removes a VIP from `lo` and, unless that is NULL, from `interface`. What belongs to somebody else stays, and
 * is no error.
 */
int lvs_vips_withdraw(struct lvs_vips *vips,
                      const char *vip,
                      const char *interface,
                      int *changed);

/**
 * Finds everywhere that an address sits. `places`: is set to the list, which may be empty; free it with
 * lvs_places_free().
 */
int lvs_vips_locate(struct lvs_vips *vips,
                    const char *vip,
                    struct lvs_places **places);

/**
 * How many places a list has; 0 for NULL.
 */
size_t lvs_places_count(const struct lvs_places *places);

/**
 * Fills `place` with the entry of this index, counted from 0; set its `size` before. The texts in it are the
 * list's, and live as long as that. Fails with LVS_ERR_INDEX.
 */
int lvs_places_get(const struct lvs_places *places,
                   size_t index,
                   struct lvs_place *place);

/**
 * Ends a list. NULL does nothing.
 */
void lvs_places_free(struct lvs_places *places);

/**
 * Tells the neighbours that the VIP is to be found here, with `times` gratuitous ARP requests or unsolicited
 * neighbour advertisements in one go. keepalived sends 5.
 *
 * `sent`: is set to 1, or to 0 on an interface where nobody keeps such entries; NULL if it is of no interest.
 * Fails with LVS_ERR_NO_ADDRESS where the interface does not hold the VIP, LVS_ERR_INTERFACE_DOWN,
 * LVS_ERR_NO_INTERFACE, and LVS_ERR_SYSTEM (EPERM) without CAP_NET_RAW.
 */
int lvs_vips_announce(struct lvs_vips *vips,
                      const char *vip,
                      const char *interface,
                      uint32_t times,
                      int *sent);

/**
 * Opens a client for ARP settings.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the calling thread's.
 * `arp`: is set to the client; free it with lvs_arp_free().
 */
int lvs_arp_open(const char *netns,
                 struct lvs_arp **arp);

/**
 * Ends a client. What it has changed stays. NULL does nothing.
 */
void lvs_arp_free(struct lvs_arp *arp);

/**
 * Reads the settings of an interface, or of "all". `settings` is filled; set its `size` before. Fails with
 * LVS_ERR_NO_INTERFACE.
 */
int lvs_arp_get(const struct lvs_arp *arp,
                const char *target,
                struct lvs_arp_settings *settings);

/**
 * Reads the settings that count on an interface: of its own and those of "all", the greater number each.
 * Otherwise as lvs_arp_get().
 */
int lvs_arp_effective(const struct lvs_arp *arp,
                      const char *interface,
                      struct lvs_arp_settings *settings);

/**
 * Sets both settings of an interface, or of "all".
 *
 * `previous`: is filled with what was found, for lvs_arp_give_back(); set its `size` before; NULL if it is of
 * no interest. It may be the same structure as `settings`. After a failure one of the two may be set:
 * lvs_arp_get() tells. Fails with LVS_ERR_NO_INTERFACE, and LVS_ERR_SYSTEM where /proc/sys cannot be written
 * to (EACCES, EPERM, EROFS).
 */
int lvs_arp_set(const struct lvs_arp *arp,
                const char *target,
                const struct lvs_arp_settings *settings,
                struct lvs_arp_settings *previous);

/**
 * Gives back what lvs_arp_set() changed: from `settings`, what was set, to `previous`, what was found before.
 *
 * What somebody else has changed since stays, and is no error: `kept` is set to 1 then, otherwise to 0; NULL
 * if it is of no interest.
 */
int lvs_arp_give_back(const struct lvs_arp *arp,
                      const char *target,
                      const struct lvs_arp_settings *settings,
                      const struct lvs_arp_settings *previous,
                      int *kept);

/**
 * What a role is called, in any case: "master", "BACKUP", "fault", "stop". `role`: is set to LVS_ROLE_...
 * Fails with LVS_ERR_INVALID.
 */
int lvs_role_from_text(const char *text,
                       uint32_t *role);

/**
 * Opens a node. Nothing is changed yet.
 *
 * `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the calling thread's.
 * `config`: what the node is to be; it is copied. `node`: is set to the node; free it with lvs_node_free().
 * Fails with LVS_ERR_INVALID, LVS_ERR_PARSE (the services), LVS_ERR_NO_IPVS, and, where the node has no role yet,
 * LVS_ERR_NO_INTERFACE: one that loses its interface can still take on fault or stop, and be released.
 */
int lvs_node_open(const char *netns,
                  const struct lvs_node_config *config,
                  struct lvs_node **node);

/**
 * Ends the use of a node. What it has changed stays: see lvs_node_release(). NULL does nothing.
 */
void lvs_node_free(struct lvs_node *node);

/**
 * Says what lvs_node_become_role() would do, and changes nothing. `plan`: is set to a text, a line for each
 * warning and step, empty where nothing is to be done; free it with lvs_text_free(). Fails with
 * LVS_ERR_FOREIGN, LVS_ERR_STATE.
 */
int lvs_node_plan(struct lvs_node *node,
                  uint32_t role,
                  char **plan);

/**
 * Takes on a role. Where all is in place already, nothing is written.
 *
 * `done`: is set to the plan that was carried out, as lvs_node_plan() gives it; NULL if it is of no interest.
 * Fails as lvs_node_plan(), with LVS_ERR_OVERTAKEN when a later request came while this one waited,
 * LVS_ERR_LOCKED, LVS_ERR_NOT_VERIFIED, or with the status of the step that failed. Whatever the error, the
 * same request or another can be made again, and goes on from what is there.
 */
int lvs_node_become_role(struct lvs_node *node,
                         uint32_t role,
                         char **done);

/**
 * Prepares a director to give up the VIP, so that no session notices when it does: new connections go to the
 * successor from now on, and the other nodes are told of all that there are. It stays the director until
 * another role is asked for: LVS_ROLE_BACKUP once the VIP has moved, LVS_ROLE_MASTER if it did not.
 *
 * `successors`: who directs next, most likely first, as addresses of destinations; NULL if `count` is 0: any.
 * `done` and the errors are as with lvs_node_become_role(); also LVS_ERR_INVALID where this node does not direct.
 */
int lvs_node_prepare_handover(struct lvs_node *node,
                              const char *const *successors,
                              size_t count,
                              char **done);

/**
 * Takes on LVS_ROLE_MASTER beside another director: with LVS_FENCE_QUIESCE this node's own server takes all that is
 * new, and what it knows it forwards, so that two directors do no harm. lvs_node_become_role() with
 * LVS_ROLE_MASTER ends that. `done` and the errors are as there.
 */
int lvs_node_direct_beside_another(struct lvs_node *node,
                                   char **done);

/**
 * Tells the other nodes of all connections of this node's services, also of those made before they were there.
 * `count`: is set to how many these were; NULL if it is of no interest. Fails with LVS_ERR_INVALID where the
 * fence does not synchronise, LVS_ERR_SYSTEM where the sync interface is down, say.
 */
int lvs_node_resync(struct lvs_node *node,
                    size_t *count);

/**
 * Counts the connections of its services that this node knows, and that last a few seconds yet. `count`: is set.
 */
int lvs_node_known_connections(struct lvs_node *node,
                               size_t *count);

/**
 * Looks for what is set up so that it harms, or will at the next failover, and changes nothing.
 *
 * `keepalived`: the path of keepalived's file, or NULL. `count`: is set to how many findings there are. `findings`:
 * is set to a text, for each finding its severity, kind, reason and remedy; free it with lvs_text_free(); NULL if
 * it is of no interest.
 */
int lvs_node_audit(struct lvs_node *node,
                   const char *keepalived,
                   size_t *count,
                   char **findings);

/**
 * Announces the VIPs of a director once more, `announce_again_ms` after its role was reached: a neighbour may
 * have missed the first announcement. It returns when that is done, or at once when another role is asked for
 * or there is nothing to announce. Fails as lvs_vips_announce().
 */
int lvs_node_announce_again(struct lvs_node *node);

/**
 * Says what lvs_node_release() would do, and changes nothing. Otherwise as lvs_node_plan().
 */
int lvs_node_plan_release(struct lvs_node *node, char **plan);

/**
 * Takes the node out: VIPs that it placed go, ARP settings get back the values that they had, a table that was
 * found running is put back, and what is remembered is forgotten. What others have changed since stays. `done`
 * and the errors are as with lvs_node_become_role().
 */
int lvs_node_release(struct lvs_node *node,
                     char **done);

/**
 * Says what the node is, and changes nothing. Where each VIP sits, lvs_vips_locate() tells.
 *
 * `status` is filled; set its `size` before. `details`: is set to a text, a line for each missing step
 * ("missing: ...") and each warning ("warning: ..."); free it with lvs_text_free(); NULL if it is of no
 * interest. Fails with LVS_ERR_STATE.
 */
int lvs_node_get_status(struct lvs_node *node,
                        struct lvs_node_status *status,
                        char **details);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LVS_DR_H */
