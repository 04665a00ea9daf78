/*
 * Prints what keepalived's SNMP agent reads: the counters of a service and of its destinations, through keepalived's libipvs.h. It
 * is built with keepalived's own libipvs.c and with ours (see run), and both must print the same.
 *
 *     counters MARK FAMILY PROTOCOL ADDRESS PORT          counters 0 2 6 192.0.2.254 80
 */
#include "config.h"

#include <arpa/inet.h>
#include <netlink/genl/genl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "global_data.h"
#include "libipvs.h"
#include "logger.h"
#include "memory.h"
#include "namespaces.h"

/* What libipvs.c has from the rest of keepalived. */
static data_t none;
data_t *global_data = &none;

void *zalloc(unsigned long size)
{
	return calloc(1, size);
}

void log_message(__attribute__((unused)) int priority, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
}

int nl_ipvs_connect(__attribute__((unused)) const char *netns, struct nl_sock *socket)
{
	return genl_connect(socket);
}

int socket_netns_name(__attribute__((unused)) const char *netns, int family, int type, int protocol)
{
	return socket(family, type, protocol);
}

static void print(const char *name, const ip_vs_stats_t *stats)
{
	printf("%s: %llu connections, packets %llu %llu, octets %llu %llu; a second %llu, %llu %llu, %llu %llu\n", name,
	       stats->conns, stats->inpkts, stats->outpkts, stats->inbytes, stats->outbytes, stats->cps, stats->inpps, stats->outpps,
	       stats->inbps, stats->outbps);
}

int main(int argc, char **argv)
{
	union nf_inet_addr address = { .all = { 0 } };
	struct ip_vs_get_dests_app *dests;
	ipvs_service_entry_t *service;
	char text[INET6_ADDRSTRLEN];
	unsigned i;

	if (argc != 6 || inet_pton(atoi(argv[2]), argv[4], &address) != 1 || ipvs_init())
		return 2;
	service = ipvs_get_service((__u32)atoi(argv[1]), (__u16)atoi(argv[2]), (__u16)atoi(argv[3]), &address,
				   htons((__u16)atoi(argv[5])));
	if (!service || !(dests = ipvs_get_dests(service))) {
		printf("no service\n");
		return 1;
	}
	print("service", &service->stats);
	for (i = 0; i < dests->user.num_dests; i++) {
		struct ip_vs_dest_entry_app *dest = &dests->user.entrytable[i];

		inet_ntop(dest->af, &dest->nf_addr, text, sizeof(text));
		printf("%s, port %u: %u active, %u inactive, %u persistent\n", text, ntohs(dest->user.port), dest->user.activeconns,
		       dest->user.inactconns, dest->user.persistconns);
		print(text, &dest->stats);
	}
	ipvs_close();
	return 0;
}
