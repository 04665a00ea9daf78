/*
 * keepalived's interface to IPVS (libipvs.h, of version 2.2.7) on lvs_dr.h. Takes the place of keepalived's check/libipvs.c.
 *
 * A function returns 0, or -1 with an errno: keepalived treats EEXIST, ENOENT and ESRCH as the kernel means them. keepalived's
 * processes have one thread each, so texts for the library are made in static buffers.
 */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <lvs_dr.h>

#include "global_data.h"
#include "libipvs.h"
#include "logger.h"
#include "memory.h"

/* One for each process, opened after the fork. */
static lvs_ipvs *ipvs;

/* The errno of the library's last failure. A failure without one was found by the library before the kernel was asked. */
static int library_errno(void)
{
	if (lvs_last_status() == LVS_ERR_NO_ANSWER)
		return ETIMEDOUT;
	return lvs_last_errno() ? lvs_last_errno() : EINVAL;
}

static int result(int status)
{
	if (status == LVS_OK)
		return 0;
	errno = library_errno();
	return -1;
}

/* Where the last failure was the library's, its message says what was tried, on what, why it failed, and what to do. */
const char *ipvs_strerror(int err)
{
	static char text[512];

	if (lvs_last_status() != LVS_OK && library_errno() == err && lvs_last_error_message(text, sizeof(text)))
		return text;
	return strerror(err);
}

int ipvs_init(void)
{
	const char *name = global_data->network_namespace_ipvs;
	char netns[PATH_MAX];

	if (ipvs)
		return 0;
	snprintf(netns, sizeof(netns), "/run/netns/%s", name ? name : "");
	return result(lvs_ipvs_open(name ? netns : NULL, &ipvs));
}

void ipvs_close(void)
{
	lvs_ipvs_free(ipvs);
	ipvs = NULL;
}

int ipvs_flush(void) { return result(lvs_ipvs_flush(ipvs)); }

/* The id of a service, or the address of a destination, which has neither protocol nor mark. A failure gives an empty text,
 * which the library refuses. `port` is in network byte order, as everywhere in libipvs.h. */
static const char *text_of(int af, const union nf_inet_addr *ip, uint16_t port, int protocol, uint32_t mark)
{
	static char texts[2][LVS_ID_SIZE];
	char *text = texts[protocol || mark];
	union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } address;

	memset(&address, 0, sizeof(address));
	memset(text, 0, LVS_ID_SIZE);
	if (af == AF_INET6)
		address.v6 = (struct sockaddr_in6) { .sin6_port = port, .sin6_addr = ip->in6 };
	else
		address.v4 = (struct sockaddr_in) { .sin_port = port, .sin_addr = ip->in };
	address.any.sa_family = (sa_family_t)af;
	if (protocol || mark)
		lvs_id_format(protocol, mark, &address.any, text, LVS_ID_SIZE);
	else
		lvs_address_format(&address.any, text, LVS_ID_SIZE);
	return text;
}

static const char *id_of(const ipvs_service_t *svc)
{
	return text_of(svc->af, &svc->nf_addr, svc->user.port, svc->user.protocol, svc->user.fwmark);
}

static const char *address_of(const ipvs_dest_t *dest) { return text_of(dest->af, &dest->nf_addr, dest->user.port, 0, 0); }

static int set_service(int (*set)(lvs_ipvs *, const struct lvs_service *), const ipvs_service_t *svc)
{
	struct lvs_service to = { .size = sizeof(to), .id = id_of(svc), .scheduler = svc->user.sched_name };
	char netmask[INET_ADDRSTRLEN];

	to.flags = svc->user.flags & (LVS_SERVICE_ONE_PACKET | LVS_SERVICE_SCHED1 | LVS_SERVICE_SCHED2 | LVS_SERVICE_SCHED3);
	if (svc->user.flags & IP_VS_SVC_F_PERSISTENT) {
		to.persistence = svc->user.timeout;
		to.engine = svc->pe_name[0] ? svc->pe_name : NULL;
		/* A prefix length for IPv6. */
		if (svc->af == AF_INET6)
			snprintf(netmask, sizeof(netmask), "%u", svc->user.netmask);
		else
			inet_ntop(AF_INET, &svc->user.netmask, netmask, sizeof(netmask));
		to.netmask = netmask;
	}
	return result(set(ipvs, &to));
}

int ipvs_add_service(ipvs_service_t *svc) { return set_service(lvs_ipvs_add_service, svc); }
int ipvs_update_service(ipvs_service_t *svc) { return set_service(lvs_ipvs_replace_service, svc); }
int ipvs_del_service(ipvs_service_t *svc) { return result(lvs_ipvs_remove_service(ipvs, id_of(svc))); }

static int set_dest(int (*set)(lvs_ipvs *, const char *, const struct lvs_destination *), const ipvs_service_t *svc,
		    const ipvs_dest_t *dest)
{
	struct lvs_destination to = { .size = sizeof(to), .address = address_of(dest), .weight = (uint32_t)dest->user.weight };

	/* The numbers of LVS_FORWARD_, LVS_TUNNEL_ and LVS_CHECKSUM_ are the kernel's. */
	to.forward = dest->user.conn_flags & IP_VS_CONN_F_FWD_MASK;
	to.upper_threshold = dest->user.u_threshold;
	to.lower_threshold = dest->user.l_threshold;
#ifdef _HAVE_IPVS_TUN_CSUM_
	if (to.forward == LVS_FORWARD_TUNNEL) {
		to.tunnel = (uint32_t)dest->tun_type;
		to.tunnel_port = ntohs((uint16_t)dest->tun_port);
		to.tunnel_checksum = (uint32_t)dest->tun_flags;
	}
#endif
	return result(set(ipvs, id_of(svc), &to));
}

int ipvs_add_dest(ipvs_service_t *svc, ipvs_dest_t *dest) { return set_dest(lvs_ipvs_add_destination, svc, dest); }
int ipvs_update_dest(ipvs_service_t *svc, ipvs_dest_t *dest) { return set_dest(lvs_ipvs_replace_destination, svc, dest); }
int ipvs_del_dest(ipvs_service_t *svc, ipvs_dest_t *dest)
{
	return result(lvs_ipvs_remove_destination(ipvs, id_of(svc), address_of(dest)));
}

/* NULL restores the timeouts that were found before the first change. A timeout of 0 is not configured. */
int ipvs_set_timeout(const ipvs_timeout_t *to)
{
	static struct lvs_timeouts found = { .size = sizeof(found) };
	struct lvs_timeouts timeouts;

	if (!found.tcp && !to)
		return 0;
	if (!found.tcp && lvs_ipvs_timeouts(ipvs, &found) != LVS_OK)
		return result(lvs_last_status());
	timeouts = found;
	if (to && to->tcp_timeout)
		timeouts.tcp = (uint32_t)to->tcp_timeout;
	if (to && to->tcp_fin_timeout)
		timeouts.tcp_fin = (uint32_t)to->tcp_fin_timeout;
	if (to && to->udp_timeout)
		timeouts.udp = (uint32_t)to->udp_timeout;
	return result(lvs_ipvs_set_timeouts(ipvs, &timeouts));
}

int ipvs_start_daemon(ipvs_daemon_t *dm)
{
	struct lvs_sync_daemon to = { .size = sizeof(to), .interface = dm->mcast_ifn, .role = (uint32_t)dm->state };
#ifdef _HAVE_IPVS_SYNCD_ATTRIBUTES_
	char group[INET6_ADDRSTRLEN];

	to.max_length = dm->sync_maxlen;
	to.port = dm->mcast_port;
	to.ttl = dm->mcast_ttl;
	to.group = dm->mcast_af ? inet_ntop(dm->mcast_af, &dm->mcast_group, group, sizeof(group)) : NULL;
#endif
	to.sync_id = (uint32_t)dm->syncid;
	return result(lvs_ipvs_start_sync_daemon(ipvs, &to));
}

int ipvs_stop_daemon(ipvs_daemon_t *dm) { return result(lvs_ipvs_stop_sync_daemon(ipvs, (uint32_t)dm->state)); }

#ifdef _WITH_SNMP_CHECKER_
/* The fields of keepalived's counters have 32 or 64 bits. */
static void put_counters(ip_vs_stats_t *stats, const struct lvs_counters *from)
{
#define PUT(to, value) stats->to = (__typeof__(stats->to))from->value
	PUT(conns, connections), PUT(cps, connection_rate);
	PUT(inpkts, packets_in), PUT(inpps, packet_rate_in), PUT(outpkts, packets_out), PUT(outpps, packet_rate_out);
	PUT(inbytes, bytes_in), PUT(inbps, byte_rate_in), PUT(outbytes, bytes_out), PUT(outbps, byte_rate_out);
}

/* keepalived reads the counters, and asks for the destinations with what it has asked for. The other fields stay 0. */
ipvs_service_entry_t *ipvs_get_service(__u32 mark, __u16 af, __u16 protocol, union nf_inet_addr *ip, __u16 port)
{
	struct lvs_counters counters = { .size = sizeof(counters) };
	ipvs_service_entry_t *svc;
	lvs_services *list;

	if (result(lvs_ipvs_service(ipvs, text_of(af, ip, port, protocol, mark), &list)))
		return NULL;
	if ((svc = MALLOC(sizeof(*svc))) && lvs_services_counters(list, 0, &counters) == LVS_OK) {
		*svc = (ipvs_service_entry_t) { .user = { .protocol = protocol, .port = port, .fwmark = mark }, .af = af, .nf_addr = *ip };
		put_counters(&svc->stats, &counters);
	}
	lvs_services_free(list);
	return svc;
}

struct ip_vs_get_dests_app *ipvs_get_dests(ipvs_service_entry_t *svc)
{
	struct lvs_destination dest = { .size = sizeof(dest) };
	struct lvs_counters counters = { .size = sizeof(counters) };
	union { struct sockaddr_storage any; struct sockaddr_in v4; struct sockaddr_in6 v6; } address;
	const char *id = text_of(svc->af, &svc->nf_addr, svc->user.port, svc->user.protocol, svc->user.fwmark);
	struct ip_vs_get_dests_app *dests;
	lvs_destinations *list;

	if (result(lvs_ipvs_destinations(ipvs, id, &list)))
		return NULL;
	dests = MALLOC(sizeof(*dests) + lvs_destinations_count(list) * sizeof(ipvs_dest_entry_t));
	while (dests && lvs_destinations_get(list, dests->user.num_dests, &dest) == LVS_OK) {
		ipvs_dest_entry_t *entry = &dests->user.entrytable[dests->user.num_dests];

		lvs_destinations_counters(list, dests->user.num_dests++, &counters);
		put_counters(&entry->stats, &counters);
		entry->user.activeconns = (__u32)counters.active;
		entry->user.inactconns = (__u32)counters.inactive;
		entry->user.persistconns = (__u32)counters.persistent;
		if (lvs_address_parse(dest.address, &address.any) != LVS_OK)
			continue;
		entry->af = address.any.ss_family;
		entry->user.port = address.v4.sin_port;		/* At the same place in both. */
		if (entry->af == AF_INET6)
			entry->nf_addr.in6 = address.v6.sin6_addr;
		else
			entry->nf_addr.in = address.v4.sin_addr;
	}
	lvs_destinations_free(list);
	return dests;
}
#endif
