/*
 * A caller that does everything wrong: NULL for each pointer, wrong sizes, texts that are too long or no UTF-8, small
 * buffers, errors read twice, lists that outlive their handle. Built with -fsanitize=undefined, run under valgrind
 * in the lab by tests/kernel/capi.rs. Says nothing and returns 0 if every call did what lvs_dr.h says.
 */
#include <errno.h>
#include <lvs_dr.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);        \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

/* The call returns this status; if it fails, there are words for it, and the same ones twice. */
#define EXPECT(expected, call)                                                             \
    do {                                                                                   \
        int status_ = (call);                                                                \
        if (status_ != (expected)) {                                                         \
            char words_[300];                                                                \
            lvs_last_error_message(words_, sizeof words_);                                     \
            fprintf(stderr, "%s:%d: %s is %s (%s), not %s\n", __FILE__, __LINE__, #call,   \
                    lvs_status_name(status_), words_, #expected);                              \
            exit(1);                                                                       \
        }                                                                                  \
        if (status_ != LVS_OK)                                                               \
            check_message(status_);                                                          \
    } while (0)

#define WEB "tcp 192.0.2.1:80"
#define TABLE "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1\n"
#define NODE_TABLE                                                                         \
    "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 192.168.0.11:80 -g -w 1\n"           \
    "-a -t 192.0.2.1:80 -r 192.168.0.12:80 -g -w 1\n"

static char *too_long, *bad_utf8 = "eth\xff";

static void check_message(int status)
{
    char whole[2048], again[2048], small[8];
    size_t length = lvs_last_error_message(NULL, 0);

    CHECK(lvs_last_status() == status && length > 0 && length < sizeof whole);
    CHECK(lvs_last_error_message(whole, sizeof whole) == length && strlen(whole) == length);
    CHECK(lvs_last_error_message(again, length + 1) == length && strcmp(whole, again) == 0);
    memset(small, 'x', sizeof small);
    CHECK(lvs_last_error_message(small, 4) == length);
    CHECK(strncmp(small, whole, 3) == 0 && small[3] == '\0' && small[4] == 'x');
    CHECK(lvs_last_error_message(small, 0) == length && small[0] == whole[0]);
    CHECK(lvs_last_status() == status);
}

static void free_nothing(void)
{
    lvs_text_free(NULL);
    lvs_ipvs_free(NULL);
    lvs_services_free(NULL);
    lvs_destinations_free(NULL);
    lvs_vips_free(NULL);
    lvs_places_free(NULL);
    lvs_arp_free(NULL);
    lvs_marks_free(NULL);
    lvs_rules_free(NULL);
    lvs_node_free(NULL);
    lvs_status_free(NULL);
    lvs_findings_free(NULL);
    lvs_connections_free(NULL);
    lvs_sync_daemons_free(NULL);
    lvs_driver_free(NULL);
    lvs_supervisor_free(NULL);
    lvs_monitor_free(NULL);
    lvs_neighbours_free(NULL);
    lvs_local_marks_free(NULL);
    lvs_marked_free(NULL);
    lvs_classifier_free(NULL);
    lvs_classifiers_free(NULL);
    lvs_other_nodes_free(NULL);
    lvs_texts_free(NULL);
    CHECK(lvs_monitor_fd(NULL) == -1 && lvs_neighbours_count(NULL) == 0 && lvs_marked_count(NULL) == 0);
    CHECK(lvs_marked_backend(NULL) == LVS_BACKEND_NONE && lvs_marked_reason(NULL) == NULL);
    CHECK(lvs_classifiers_count(NULL) == 0 && lvs_other_nodes_count(NULL) == 0 && lvs_status_classifiers(NULL) == NULL);
    CHECK(lvs_status_advertised(NULL) == NULL && lvs_status_interfaces(NULL) == NULL);
    CHECK(lvs_driver_fd(NULL) == -1 && lvs_supervisor_fd(NULL) == -1 && lvs_driver_is_busy(NULL) == 0);
    CHECK(lvs_status_places(NULL) == NULL && lvs_status_services(NULL) == NULL && lvs_status_rules(NULL) == NULL);
    CHECK(lvs_status_destinations(NULL, 0) == NULL && lvs_status_sync_daemons(NULL) == NULL);
    CHECK(lvs_status_peers(NULL) == NULL && lvs_status_missing(NULL) == NULL && lvs_status_drift(NULL) == NULL);
    CHECK(lvs_status_warnings(NULL) == NULL && lvs_texts_count(NULL) == 0 && lvs_texts_get(NULL, 0) == NULL);
    CHECK(lvs_findings_count(NULL) == 0 && lvs_connections_count(NULL) == 0 && lvs_sync_daemons_count(NULL) == 0);
    CHECK(lvs_rules_count(NULL) == 0 && lvs_peers_count(NULL) == 0);
    CHECK(lvs_services_count(NULL) == 0 && lvs_destinations_count(NULL) == 0 && lvs_places_count(NULL) == 0);
    CHECK(strcmp(lvs_status_name(LVS_ERR_NULL), "LVS_ERR_NULL") == 0);
    CHECK(strcmp(lvs_status_name(12345), "unknown status") == 0);
    CHECK(strcmp(lvs_version(), LVS_VERSION) == 0);
}

/* What must not be a text: NULL unless that has a meaning, no UTF-8, too long. */
#define BAD_TEXT(call)                                                                     \
    do {                                                                                   \
        const char *text = bad_utf8;                                                       \
        EXPECT(LVS_ERR_TEXT, call);                                                        \
        text = too_long;                                                                   \
        EXPECT(LVS_ERR_TEXT, call);                                                        \
    } while (0)
#define BAD_OR_NULL(call)                                                                  \
    do {                                                                                   \
        const char *text = NULL;                                                           \
        EXPECT(LVS_ERR_NULL, call);                                                        \
        BAD_TEXT(call);                                                                    \
    } while (0)
/* What must not be the size of a structure. */
#define BAD_SIZE(structure, call)                                                          \
    do {                                                                                   \
        size_t sizes[] = { 0, 1, sizeof(size_t), sizeof(structure) - 1, 4097, SIZE_MAX };  \
        for (size_t each = 0; each < sizeof sizes / sizeof *sizes; each++) {               \
            (structure).size = sizes[each];                                                \
            EXPECT(LVS_ERR_SIZE, call);                                                    \
        }                                                                                  \
        (structure).size = sizeof(structure);                                              \
    } while (0)

/* The services of one address are this program's. */
static int owns_mail(const char *id, void *context)
{
    return strstr(id, context) != NULL;
}

static void misuse_addresses(void)
{
    struct sockaddr_storage address, again;
    struct sockaddr *any = (struct sockaddr *)&address;
    char text[LVS_ID_SIZE];
    int protocol;
    uint32_t mark;

    EXPECT(LVS_OK, lvs_id_parse("udp [2001:db8::1]:53", &protocol, &mark, &address));
    CHECK(protocol == IPPROTO_UDP && mark == 0 && address.ss_family == AF_INET6);
    CHECK(((struct sockaddr_in6 *)&address)->sin6_port == htons(53));
    EXPECT(LVS_OK, lvs_id_parse("fwmark 9", NULL, &mark, NULL));
    CHECK(mark == 9);
    EXPECT(LVS_ERR_NULL, lvs_id_format(IPPROTO_UDP, 0, NULL, text, sizeof text));
    EXPECT(LVS_ERR_NULL, lvs_id_format(IPPROTO_UDP, 0, any, NULL, sizeof text));
    EXPECT(LVS_ERR_INVALID, lvs_id_format(IPPROTO_ICMP, 0, any, text, sizeof text));
    EXPECT(LVS_ERR_SIZE, lvs_id_format(IPPROTO_UDP, 0, any, text, 0));
    EXPECT(LVS_ERR_SIZE, lvs_id_format(IPPROTO_UDP, 0, any, text, strlen("udp [2001:db8::1]:53")));
    EXPECT(LVS_OK, lvs_id_format(IPPROTO_UDP, 0, any, text, sizeof text));
    CHECK(strcmp(text, "udp [2001:db8::1]:53") == 0);
    EXPECT(LVS_OK, lvs_id_format(0, 7, any, text, sizeof text));
    CHECK(strcmp(text, "fwmark 7 ipv6") == 0);
    BAD_OR_NULL(lvs_id_parse(text, NULL, NULL, NULL));
    EXPECT(LVS_ERR_INVALID, lvs_id_parse("tcp 192.0.2.1", NULL, NULL, NULL));
    EXPECT(LVS_OK, lvs_address_parse("192.0.2.1:80", &again));
    CHECK(((struct sockaddr_in *)&again)->sin_addr.s_addr == htonl(0xc0000201));
    EXPECT(LVS_OK, lvs_address_format((struct sockaddr *)&again, text, sizeof text));
    CHECK(strcmp(text, "192.0.2.1:80") == 0);
    EXPECT(LVS_ERR_NULL, lvs_address_parse("192.0.2.1:80", NULL));
    BAD_OR_NULL(lvs_address_parse(text, &again));
    again.ss_family = AF_UNIX;
    EXPECT(LVS_ERR_INVALID, lvs_address_format((struct sockaddr *)&again, text, sizeof text));
}

static void misuse_control(lvs_ipvs *ipvs, const lvs_services *services, const lvs_destinations *destinations)
{
    struct lvs_counters counters = { .size = sizeof counters };
    struct lvs_timeouts timeouts = { .size = sizeof timeouts };
    struct lvs_sync_daemon daemon = { .size = sizeof daemon, .role = LVS_SYNC_BACKUP, .interface = "lo" };
    lvs_sync_daemons *daemons = NULL;
    struct lvs_info info = { .size = sizeof info };
    struct lvs_drained drained = { .size = sizeof drained };
    struct lvs_connection connection = { .size = sizeof connection };
    lvs_connections *connections = NULL;
    lvs_services *one = NULL;
    lvs_destinations *server = NULL;
    char *value = NULL;

    EXPECT(LVS_ERR_NULL, lvs_ipvs_info(NULL, &info));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_info(ipvs, NULL));
    BAD_SIZE(info, lvs_ipvs_info(ipvs, &info));
    EXPECT(LVS_OK, lvs_ipvs_info(ipvs, &info));
    CHECK(info.version_major == 1 && info.version_minor == 2);
    EXPECT(LVS_ERR_NULL, lvs_ipvs_drain(NULL, WEB, "10.0.0.1:80", 0, &drained));
    BAD_OR_NULL(lvs_ipvs_drain(ipvs, text, "10.0.0.1:80", 0, &drained));
    BAD_OR_NULL(lvs_ipvs_drain(ipvs, WEB, text, 0, &drained));
    BAD_SIZE(drained, lvs_ipvs_drain(ipvs, WEB, "10.0.0.1:80", 0, &drained));
    EXPECT(LVS_ERR_NO_DESTINATION, lvs_ipvs_drain(ipvs, WEB, "10.0.0.9:80", UINT32_MAX, NULL));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_setting(NULL, "sloppy_tcp", &value));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_setting(ipvs, "sloppy_tcp", NULL));
    BAD_OR_NULL(lvs_ipvs_setting(ipvs, text, &value));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_setting(ipvs, "../../kernel/panic", &value));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_set_setting(NULL, "sloppy_tcp", "1"));
    BAD_OR_NULL(lvs_ipvs_set_setting(ipvs, text, "1"));
    BAD_OR_NULL(lvs_ipvs_set_setting(ipvs, "sloppy_tcp", text));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_set_setting(ipvs, "sloppy_tcp", "on"));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_set_setting(ipvs, "sync_threshold", "9 3"));
    EXPECT(LVS_OK, lvs_ipvs_setting(ipvs, "sloppy_tcp", &value));
    CHECK(strcmp(value, "0") == 0);
    lvs_text_free(value);
    EXPECT(LVS_ERR_NULL, lvs_ipvs_connections(NULL, &connections));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_connections(ipvs, NULL));
    EXPECT(LVS_OK, lvs_ipvs_connections(ipvs, &connections));
    EXPECT(LVS_ERR_NULL, lvs_connections_get(NULL, 0, &connection));
    EXPECT(LVS_ERR_NULL, lvs_connections_get(connections, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_connections_get(connections, lvs_connections_count(connections), &connection));
    BAD_SIZE(connection, lvs_connections_get(connections, 0, &connection));
    lvs_connections_free(connections);

    EXPECT(LVS_ERR_NULL, lvs_services_counters(NULL, 0, &counters));
    EXPECT(LVS_ERR_NULL, lvs_services_counters(services, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_services_counters(services, SIZE_MAX, &counters));
    BAD_SIZE(counters, lvs_services_counters(services, 0, &counters));
    EXPECT(LVS_ERR_NULL, lvs_destinations_counters(NULL, 0, &counters));
    EXPECT(LVS_ERR_NULL, lvs_destinations_counters(destinations, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_destinations_counters(destinations, 1, &counters));
    BAD_SIZE(counters, lvs_destinations_counters(destinations, 0, &counters));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_totals(NULL, &counters));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_totals(ipvs, NULL));
    BAD_SIZE(counters, lvs_ipvs_totals(ipvs, &counters));

    EXPECT(LVS_ERR_NULL, lvs_ipvs_zero(NULL, WEB));
    BAD_TEXT(lvs_ipvs_zero(ipvs, text));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_zero(ipvs, "tcp 192.0.2"));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_flush(NULL));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_set_weight(NULL, WEB, "10.0.0.1:80", 1));
    BAD_OR_NULL(lvs_ipvs_set_weight(ipvs, text, "10.0.0.1:80", 1));
    BAD_OR_NULL(lvs_ipvs_set_weight(ipvs, WEB, text, 1));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_set_weight(ipvs, WEB, "10.0.0.1:80", UINT32_MAX));

    EXPECT(LVS_ERR_NULL, lvs_ipvs_timeouts(NULL, &timeouts));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_timeouts(ipvs, NULL));
    BAD_SIZE(timeouts, lvs_ipvs_timeouts(ipvs, &timeouts));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_set_timeouts(NULL, &timeouts));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_set_timeouts(ipvs, NULL));
    BAD_SIZE(timeouts, lvs_ipvs_set_timeouts(ipvs, &timeouts));
    timeouts.reserved = 1;
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_set_timeouts(ipvs, &timeouts));

    EXPECT(LVS_ERR_NULL, lvs_ipvs_start_sync_daemon(NULL, &daemon));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_start_sync_daemon(ipvs, NULL));
    BAD_SIZE(daemon, lvs_ipvs_start_sync_daemon(ipvs, &daemon));
    BAD_OR_NULL((daemon.interface = text, lvs_ipvs_start_sync_daemon(ipvs, &daemon)));
    daemon.interface = "no-such-one";
    EXPECT(LVS_ERR_NO_INTERFACE, lvs_ipvs_start_sync_daemon(ipvs, &daemon));
    BAD_TEXT((daemon.group = text, lvs_ipvs_start_sync_daemon(ipvs, &daemon)));
    daemon.group = "192.0.2.1";
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_start_sync_daemon(ipvs, &daemon));
    daemon.role = 0;
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_start_sync_daemon(ipvs, &daemon));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_stop_sync_daemon(NULL, LVS_SYNC_BACKUP));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_stop_sync_daemon(ipvs, UINT32_MAX));
    EXPECT(LVS_ERR_NO_DAEMON, lvs_ipvs_stop_sync_daemon(ipvs, LVS_SYNC_BACKUP));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_sync_daemons(NULL, &daemons));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_sync_daemons(ipvs, NULL));
    CHECK(daemons == NULL && lvs_sync_daemons_count(NULL) == 0);
    EXPECT(LVS_OK, lvs_ipvs_sync_daemons(ipvs, &daemons));
    EXPECT(LVS_ERR_NULL, lvs_sync_daemons_get(NULL, 0, &daemon));
    EXPECT(LVS_ERR_NULL, lvs_sync_daemons_get(daemons, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_sync_daemons_get(daemons, 0, &daemon));
    lvs_sync_daemons_free(daemons);
    lvs_sync_daemons_free(NULL);

    EXPECT(LVS_ERR_NULL, lvs_ipvs_service(NULL, WEB, &one));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_service(ipvs, WEB, NULL));
    BAD_OR_NULL(lvs_ipvs_service(ipvs, text, &one));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_destination(NULL, WEB, "10.0.0.1:80", &server));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_destination(ipvs, WEB, "10.0.0.1:80", NULL));
    BAD_OR_NULL(lvs_ipvs_destination(ipvs, text, "10.0.0.1:80", &server));
    BAD_OR_NULL(lvs_ipvs_destination(ipvs, WEB, text, &server));
    CHECK(one == NULL && server == NULL);
    EXPECT(LVS_OK, lvs_ipvs_service(ipvs, WEB, &one));
    EXPECT(LVS_OK, lvs_ipvs_destination(ipvs, WEB, "10.0.0.1:80", &server));
    CHECK(lvs_services_count(one) == 1 && lvs_destinations_count(server) == 1);
    lvs_services_free(one);
    lvs_destinations_free(server);
}

static void misuse_ipvs(void)
{
    lvs_ipvs *ipvs = (lvs_ipvs *)&ipvs, *untouched = ipvs;
    lvs_services *services = NULL;
    lvs_destinations *destinations = NULL;
    struct lvs_service service = { .size = sizeof service, .id = WEB, .scheduler = "wrr" }, found;
    struct lvs_destination destination = { .size = sizeof destination, .address = "10.0.0.1:80", .weight = 1 };
    struct lvs_destination seen = { .size = sizeof seen };
    struct { struct lvs_service known; size_t further; } newer = { service, 0 };
    char *text = NULL;

    EXPECT(LVS_ERR_NULL, lvs_ipvs_open(NULL, NULL));
    EXPECT(LVS_ERR_SYSTEM, lvs_ipvs_open("/nonexistent", &ipvs));
    CHECK(lvs_last_errno() == ENOENT);
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_open("/proc/self/status", &ipvs));
    EXPECT(LVS_ERR_TEXT, lvs_ipvs_open(bad_utf8, &ipvs));
    EXPECT(LVS_ERR_TEXT, lvs_ipvs_open(too_long, &ipvs));
    CHECK(ipvs == untouched);
    EXPECT(LVS_OK, lvs_ipvs_open("/proc/self/ns/net", &ipvs));

    EXPECT(LVS_ERR_NULL, lvs_ipvs_add_service(NULL, &service));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_add_service(ipvs, NULL));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_replace_service(NULL, &service));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_replace_service(ipvs, NULL));
    BAD_SIZE(service, lvs_ipvs_add_service(ipvs, &service));
    BAD_SIZE(service, lvs_ipvs_replace_service(ipvs, &service));
    BAD_OR_NULL((service.id = text, lvs_ipvs_add_service(ipvs, &service)));
    service.id = WEB;
    BAD_OR_NULL((service.scheduler = text, lvs_ipvs_add_service(ipvs, &service)));
    service.scheduler = "no-such-one";
    EXPECT(LVS_ERR_NO_MODULE, lvs_ipvs_add_service(ipvs, &service));
    CHECK(lvs_last_errno() == ENOENT);
    service.scheduler = "wrr";
    service.netmask = "255.255.255.0";
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_add_service(ipvs, &service));
    service.persistence = 60;
    BAD_TEXT((service.netmask = text, lvs_ipvs_add_service(ipvs, &service)));
    service.netmask = NULL;
    BAD_TEXT((service.engine = text, lvs_ipvs_add_service(ipvs, &service)));
    service.engine = NULL;
    service.persistence = 0;
    EXPECT(LVS_ERR_NO_SERVICE, lvs_ipvs_replace_service(ipvs, &service));

    /* A structure of a later version: refused with a field that is set, taken without. */
    newer.known.size = sizeof newer;
    newer.further = 1;
    EXPECT(LVS_ERR_SIZE, lvs_ipvs_add_service(ipvs, &newer.known));
    newer.further = 0;
    EXPECT(LVS_OK, lvs_ipvs_add_service(ipvs, &newer.known));
    EXPECT(LVS_ERR_SERVICE_EXISTS, lvs_ipvs_add_service(ipvs, &service));
    CHECK(lvs_last_errno() == EEXIST);

    EXPECT(LVS_ERR_NULL, lvs_ipvs_add_destination(NULL, WEB, &destination));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_add_destination(ipvs, WEB, NULL));
    BAD_OR_NULL(lvs_ipvs_add_destination(ipvs, text, &destination));
    BAD_SIZE(destination, lvs_ipvs_add_destination(ipvs, WEB, &destination));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_replace_destination(NULL, WEB, &destination));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_replace_destination(ipvs, WEB, NULL));
    BAD_OR_NULL(lvs_ipvs_replace_destination(ipvs, text, &destination));
    BAD_SIZE(destination, lvs_ipvs_replace_destination(ipvs, WEB, &destination));
    BAD_OR_NULL((destination.address = text, lvs_ipvs_add_destination(ipvs, WEB, &destination)));
    destination.address = "[2001:db8::1]:80";
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_add_destination(ipvs, WEB, &destination));
    destination.address = "10.0.0.1:80";
    destination.weight = 0x80000000u;
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_add_destination(ipvs, WEB, &destination));
    destination.weight = 1;
    destination.forward = 77;
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_add_destination(ipvs, WEB, &destination));
    destination.forward = LVS_FORWARD_DIRECT;
    EXPECT(LVS_ERR_NO_DESTINATION, lvs_ipvs_replace_destination(ipvs, WEB, &destination));
    EXPECT(LVS_ERR_NO_SERVICE, lvs_ipvs_add_destination(ipvs, "tcp 192.0.2.9:80", &destination));
    EXPECT(LVS_OK, lvs_ipvs_add_destination(ipvs, WEB, &destination));
    EXPECT(LVS_ERR_DESTINATION_EXISTS, lvs_ipvs_add_destination(ipvs, WEB, &destination));

    EXPECT(LVS_ERR_NULL, lvs_ipvs_services(NULL, &services));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_services(ipvs, NULL));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_destinations(NULL, WEB, &destinations));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_destinations(ipvs, WEB, NULL));
    BAD_OR_NULL(lvs_ipvs_destinations(ipvs, text, &destinations));
    EXPECT(LVS_ERR_NO_SERVICE, lvs_ipvs_destinations(ipvs, "tcp 192.0.2.9:80", &destinations));
    CHECK(services == NULL && destinations == NULL);
    EXPECT(LVS_OK, lvs_ipvs_services(ipvs, &services));
    EXPECT(LVS_OK, lvs_ipvs_destinations(ipvs, WEB, &destinations));
    CHECK(lvs_services_count(services) == 1 && lvs_destinations_count(destinations) == 1);

    memset(&found, 0x55, sizeof found);
    found.size = sizeof found;
    EXPECT(LVS_ERR_NULL, lvs_services_get(NULL, 0, &found));
    EXPECT(LVS_ERR_NULL, lvs_services_get(services, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_services_get(services, 1, &found));
    EXPECT(LVS_ERR_INDEX, lvs_services_get(services, SIZE_MAX, &found));
    BAD_SIZE(found, lvs_services_get(services, 0, &found));
    CHECK(found.flags == 0x55555555); /* not touched by what failed */
    memset(&newer, 0x55, sizeof newer);
    newer.known.size = sizeof newer;
    EXPECT(LVS_OK, lvs_services_get(services, 0, &newer.known));
    CHECK(newer.known.size == sizeof newer && newer.further == 0 && strcmp(newer.known.id, WEB) == 0);
    EXPECT(LVS_OK, lvs_services_get(services, 0, &found));
    EXPECT(LVS_ERR_NULL, lvs_destinations_get(NULL, 0, &seen));
    EXPECT(LVS_ERR_NULL, lvs_destinations_get(destinations, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_destinations_get(destinations, 1, &seen));
    BAD_SIZE(seen, lvs_destinations_get(destinations, 0, &seen));
    EXPECT(LVS_OK, lvs_destinations_get(destinations, 0, &seen));

    /* What was read can be given back as it is, with one thing changed. */
    seen.weight = 7;
    EXPECT(LVS_OK, lvs_ipvs_replace_destination(ipvs, WEB, &seen));
    EXPECT(LVS_OK, lvs_ipvs_replace_service(ipvs, &found));

    misuse_control(ipvs, services, destinations);

    EXPECT(LVS_ERR_NULL, lvs_ipvs_table(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_table(ipvs, NULL));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_plan(NULL, TABLE, NULL, NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_plan(ipvs, NULL, NULL, NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_plan(ipvs, TABLE, NULL, NULL, NULL));
    EXPECT(LVS_ERR_TEXT, lvs_ipvs_plan(ipvs, too_long, NULL, NULL, &text));
    EXPECT(LVS_ERR_TEXT, lvs_ipvs_plan(ipvs, bad_utf8, NULL, NULL, &text));
    EXPECT(LVS_ERR_PARSE, lvs_ipvs_plan(ipvs, "-A -t 192.0", NULL, NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_apply(NULL, TABLE, NULL, NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_apply(ipvs, NULL, NULL, NULL, &text));
    EXPECT(LVS_ERR_TEXT, lvs_ipvs_apply(ipvs, too_long, NULL, NULL, &text));
    EXPECT(LVS_ERR_NO_MODULE, lvs_ipvs_apply(ipvs, "-A -t 192.0.2.2:80 -s no-such-one\n", NULL, NULL, &text));
    CHECK(text == NULL);
    EXPECT(LVS_OK, lvs_ipvs_plan(ipvs, TABLE, NULL, NULL, &text));
    CHECK(strcmp(text, "-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1\n") == 0);
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_ipvs_apply(ipvs, TABLE, NULL, NULL, NULL));
    EXPECT(LVS_OK, lvs_ipvs_apply(ipvs, "-A -t 192.0.2.2:80 -s rr\n", NULL, NULL, NULL));
    EXPECT(LVS_OK, lvs_ipvs_plan(ipvs, TABLE, owns_mail, "192.0.2.3", &text)); /* the other is another program's */
    CHECK(text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_ipvs_apply(ipvs, TABLE, owns_mail, "192.0.2.2", &text));
    CHECK(strcmp(text, "-D -t 192.0.2.2:80\n") == 0);
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_ipvs_table(ipvs, &text));
    CHECK(strcmp(text, TABLE) == 0);
    lvs_text_free(text);

    EXPECT(LVS_ERR_NULL, lvs_ipvs_remove_destination(NULL, WEB, "10.0.0.1:80"));
    BAD_OR_NULL(lvs_ipvs_remove_destination(ipvs, text, "10.0.0.1:80"));
    BAD_OR_NULL(lvs_ipvs_remove_destination(ipvs, WEB, text));
    EXPECT(LVS_ERR_NO_DESTINATION, lvs_ipvs_remove_destination(ipvs, WEB, "10.0.0.9:80"));
    EXPECT(LVS_OK, lvs_ipvs_remove_destination(ipvs, WEB, "10.0.0.1:80"));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_remove_service(NULL, WEB));
    BAD_OR_NULL(lvs_ipvs_remove_service(ipvs, text));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_remove_service(ipvs, ""));
    EXPECT(LVS_OK, lvs_ipvs_remove_service(ipvs, WEB));
    EXPECT(LVS_ERR_NO_SERVICE, lvs_ipvs_remove_service(ipvs, WEB));

    /* Lists and their texts outlive the handle; a last error survives what succeeds. */
    lvs_ipvs_free(ipvs);
    CHECK(lvs_last_status() == LVS_ERR_NO_SERVICE);
    CHECK(strcmp(found.id, WEB) == 0 && strcmp(found.scheduler, "wrr") == 0 && strcmp(seen.address, "10.0.0.1:80") == 0);
    lvs_services_free(services);
    lvs_destinations_free(destinations);
}

static void misuse_vips(void)
{
    lvs_vips *vips = NULL;
    lvs_places *places = NULL;
    struct lvs_place place = { .size = sizeof place };
    int changed = 77;

    EXPECT(LVS_ERR_NULL, lvs_vips_open(NULL, NULL));
    BAD_TEXT(lvs_vips_open(text, &vips));
    CHECK(vips == NULL);
    EXPECT(LVS_OK, lvs_vips_open(NULL, &vips));

    EXPECT(LVS_ERR_NULL, lvs_vips_add(NULL, "192.0.2.1", "lo", &changed));
    BAD_OR_NULL(lvs_vips_add(vips, text, "lo", &changed));
    BAD_OR_NULL(lvs_vips_add(vips, "192.0.2.1", text, &changed));
    EXPECT(LVS_ERR_NULL, lvs_vips_remove(NULL, "192.0.2.1", "lo", &changed));
    BAD_OR_NULL(lvs_vips_remove(vips, text, "lo", &changed));
    BAD_OR_NULL(lvs_vips_remove(vips, "192.0.2.1", text, &changed));
    EXPECT(LVS_ERR_NULL, lvs_vips_relocate(NULL, "192.0.2.1", "lo", "eth0", &changed));
    BAD_OR_NULL(lvs_vips_relocate(vips, text, "lo", "eth0", &changed));
    BAD_OR_NULL(lvs_vips_relocate(vips, "192.0.2.1", text, "eth0", &changed));
    BAD_OR_NULL(lvs_vips_relocate(vips, "192.0.2.1", "lo", text, &changed));
    EXPECT(LVS_ERR_NULL, lvs_vips_withdraw(NULL, "192.0.2.1", NULL, &changed));
    BAD_OR_NULL(lvs_vips_withdraw(vips, text, NULL, &changed));
    BAD_TEXT(lvs_vips_withdraw(vips, "192.0.2.1", text, &changed));
    EXPECT(LVS_ERR_NULL, lvs_vips_announce(NULL, "192.0.2.1", "eth0", 1, &changed));
    BAD_OR_NULL(lvs_vips_announce(vips, text, "eth0", 1, &changed));
    BAD_OR_NULL(lvs_vips_announce(vips, "192.0.2.1", text, 1, &changed));
    EXPECT(LVS_ERR_NO_ADDRESS, lvs_vips_announce(vips, "192.0.2.1", "eth0", 1, &changed));
    EXPECT(LVS_ERR_NO_INTERFACE, lvs_vips_add(vips, "192.0.2.1", "no-such-one", &changed));
    EXPECT(LVS_ERR_INVALID, lvs_vips_add(vips, "192.0.2.1", "a name that is no interface's", &changed));
    EXPECT(LVS_ERR_INVALID, lvs_vips_add(vips, "192.0.2.1/24", "lo", &changed));
    EXPECT(LVS_ERR_INVALID, lvs_vips_add(vips, "127.0.0.1", "lo", &changed));
    EXPECT(LVS_ERR_FOREIGN, lvs_vips_add(vips, "192.168.0.11", "eth0", &changed)); /* the node's own */
    CHECK(changed == 77);

    EXPECT(LVS_OK, lvs_vips_add(vips, "192.0.2.1", "lo", &changed));
    CHECK(changed == 1);
    EXPECT(LVS_OK, lvs_vips_add(vips, "192.0.2.1", "lo", &changed));
    CHECK(changed == 0);
    EXPECT(LVS_OK, lvs_vips_relocate(vips, "192.0.2.1", "lo", "eth0", &changed));
    CHECK(changed == 1);
    EXPECT(LVS_OK, lvs_vips_announce(vips, "192.0.2.1", "eth0", 2, NULL));

    EXPECT(LVS_ERR_NULL, lvs_vips_locate(NULL, "192.0.2.1", &places));
    BAD_TEXT(lvs_vips_locate(vips, text, &places));
    EXPECT(LVS_ERR_NULL, lvs_vips_locate(vips, "192.0.2.1", NULL));
    CHECK(places == NULL);
    EXPECT(LVS_OK, lvs_vips_locate(vips, "192.0.2.1", &places));
    CHECK(lvs_places_count(places) == 1);
    EXPECT(LVS_ERR_NULL, lvs_places_get(NULL, 0, &place));
    EXPECT(LVS_ERR_NULL, lvs_places_get(places, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_places_get(places, 1, &place));
    BAD_SIZE(place, lvs_places_get(places, 0, &place));
    EXPECT(LVS_OK, lvs_places_get(places, 0, &place));

    EXPECT(LVS_OK, lvs_vips_remove(vips, "192.0.2.1", "eth0", NULL));
    EXPECT(LVS_OK, lvs_vips_withdraw(vips, "192.0.2.1", "eth0", &changed));
    CHECK(changed == 0);
    lvs_vips_free(vips);
    CHECK(strcmp(place.address, "192.0.2.1") == 0 && strcmp(place.interface, "eth0") == 0 && place.peer == NULL);
    CHECK(place.prefix == 32 && place.scope == 0 && place.flags == LVS_PLACE_PERMANENT && place.index > 1);
    lvs_places_free(places);
}

static void misuse_arp(void)
{
    lvs_arp *arp = NULL;
    struct lvs_arp_settings set = { sizeof set, 3, 2 }, before = { sizeof before, 77, 77 }, now = before;
    int kept = 77;

    EXPECT(LVS_ERR_NULL, lvs_arp_open(NULL, NULL));
    BAD_TEXT(lvs_arp_open(text, &arp));
    CHECK(arp == NULL);
    EXPECT(LVS_OK, lvs_arp_open(NULL, &arp));

    EXPECT(LVS_ERR_NULL, lvs_arp_get(NULL, "eth0", &now));
    BAD_OR_NULL(lvs_arp_get(arp, text, &now));
    EXPECT(LVS_ERR_NULL, lvs_arp_get(arp, "eth0", NULL));
    BAD_SIZE(now, lvs_arp_get(arp, "eth0", &now));
    EXPECT(LVS_ERR_INVALID, lvs_arp_get(arp, "../../x", &now));
    EXPECT(LVS_ERR_NO_INTERFACE, lvs_arp_get(arp, "no-such-one", &now));
    EXPECT(LVS_ERR_NULL, lvs_arp_effective(NULL, "eth0", &now));
    BAD_OR_NULL(lvs_arp_effective(arp, text, &now));
    EXPECT(LVS_ERR_NULL, lvs_arp_effective(arp, "eth0", NULL));
    BAD_SIZE(now, lvs_arp_effective(arp, "eth0", &now));
    EXPECT(LVS_ERR_NULL, lvs_arp_set(NULL, "eth0", &set, &before));
    BAD_OR_NULL(lvs_arp_set(arp, text, &set, &before));
    EXPECT(LVS_ERR_NULL, lvs_arp_set(arp, "eth0", NULL, &before));
    BAD_SIZE(set, lvs_arp_set(arp, "eth0", &set, &before));
    BAD_SIZE(before, lvs_arp_set(arp, "eth0", &set, &before));
    EXPECT(LVS_ERR_NULL, lvs_arp_plan(NULL, "eth0", &set, &before, &kept));
    BAD_OR_NULL(lvs_arp_plan(arp, text, &set, &before, &kept));
    EXPECT(LVS_ERR_NULL, lvs_arp_plan(arp, "eth0", NULL, &before, &kept));
    EXPECT(LVS_ERR_NULL, lvs_arp_plan(arp, "eth0", &set, NULL, &kept));
    BAD_SIZE(before, lvs_arp_plan(arp, "eth0", &set, &before, &kept));
    EXPECT(LVS_ERR_NULL, lvs_arp_hides_loopback_vip(NULL, "eth0", 1, &kept));
    BAD_OR_NULL(lvs_arp_hides_loopback_vip(arp, text, 1, &kept));
    EXPECT(LVS_ERR_NULL, lvs_arp_hides_loopback_vip(arp, "eth0", 1, NULL));
    /* What the kernel takes although it means nothing. */
    for (size_t i = 0; i < 4; i++) {
        struct lvs_arp_settings nonsense[] = { { sizeof set, -1, 2 }, { sizeof set, 9, 2 }, { sizeof set, 1, 3 }, { sizeof set, 99, -1 } };

        EXPECT(LVS_ERR_INVALID, lvs_arp_plan(arp, "eth0", &nonsense[i], &before, NULL));
        EXPECT(LVS_ERR_INVALID, lvs_arp_set(arp, "eth0", &nonsense[i], NULL));
    }
    CHECK(kept == 77);
    EXPECT(LVS_OK, lvs_arp_plan(arp, "eth0", &set, &before, &kept));
    CHECK(kept == 1 && before.ignore == 0 && before.announce == 0);
    before.ignore = before.announce = 77;
    EXPECT(LVS_OK, lvs_arp_hides_loopback_vip(arp, "eth0", 1, &kept));
    CHECK(kept == 0);
    kept = 77;
    EXPECT(LVS_ERR_NULL, lvs_arp_give_back(NULL, "eth0", &set, &before, &kept));
    BAD_OR_NULL(lvs_arp_give_back(arp, text, &set, &before, &kept));
    EXPECT(LVS_ERR_NULL, lvs_arp_give_back(arp, "eth0", NULL, &before, &kept));
    EXPECT(LVS_ERR_NULL, lvs_arp_give_back(arp, "eth0", &set, NULL, &kept));
    BAD_SIZE(set, lvs_arp_give_back(arp, "eth0", &set, &before, &kept));
    BAD_SIZE(before, lvs_arp_give_back(arp, "eth0", &set, &before, &kept));
    CHECK(before.ignore == 77 && now.announce == 77 && kept == 77);

    EXPECT(LVS_OK, lvs_arp_set(arp, "eth0", &set, &before));
    CHECK(before.size == sizeof before && before.ignore == 0 && before.announce == 0);
    EXPECT(LVS_OK, lvs_arp_effective(arp, "eth0", &now));
    CHECK(now.ignore == 3 && now.announce == 2);
    EXPECT(LVS_OK, lvs_arp_give_back(arp, "eth0", &set, &before, &kept));
    EXPECT(LVS_OK, lvs_arp_get(arp, "eth0", &now));
    CHECK(kept == 0 && now.ignore == 0 && now.announce == 0);
    now.announce = 1;
    EXPECT(LVS_OK, lvs_arp_set(arp, "eth0", &now, &now)); /* the same structure is both */
    CHECK(now.announce == 0);
    EXPECT(LVS_OK, lvs_arp_give_back(arp, "eth0", &set, &before, &kept));
    CHECK(kept == 1);
    set.ignore = 0;
    set.announce = 1;
    EXPECT(LVS_OK, lvs_arp_give_back(arp, "eth0", &set, &before, NULL));
    lvs_arp_free(arp);
}

static size_t steps;

/* The node is in use by the call that reports the step. */
static void log_step(const char *text, void *context)
{
    lvs_node *node = context;
    char *plan = NULL;

    CHECK(text[0] != '\0');
    EXPECT(LVS_ERR_BUSY, lvs_node_plan(node, LVS_ROLE_MASTER, &plan));
    CHECK(plan == NULL);
    steps++;
}

static struct lvs_node_status summary_of(lvs_node *node)
{
    struct lvs_node_status summary = { .size = sizeof summary };
    lvs_status *whole = NULL;

    EXPECT(LVS_OK, lvs_node_read_status(node, &whole));
    EXPECT(LVS_OK, lvs_status_summary(whole, &summary));
    lvs_status_free(whole);
    return summary;
}

static void misuse_node(void)
{
    const char *vips[] = { "192.0.2.1", NULL, NULL };
    const char *groups[] = { "web", NULL }, *macs[] = { NULL };
    const char *wrong[] = { "", "=", "192.168.0.12", "192.168.0.12=", "192.168.0.12=02:00:00:00:00", "=02:00:00:00:00:01" };
    lvs_node *node = NULL;
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = vips, .vip_count = 1,
                                      .state_dir = "/run/misuse", .services = NODE_TABLE,
                                      .fence = LVS_FENCE_CLEAR };
    struct lvs_node_config good = config;
    struct lvs_node_status status = { .size = sizeof status, .missing = 77 };
    struct lvs_finding finding = { .size = sizeof finding };
    lvs_status *whole = NULL;
    lvs_findings *findings = NULL;
    char *text = NULL;
    size_t count = 77;
    uint32_t role = 77;
    int owned = 77;

    EXPECT(LVS_ERR_NULL, lvs_role_from_text(NULL, &role));
    EXPECT(LVS_ERR_NULL, lvs_role_from_text("master", NULL));
    BAD_TEXT(lvs_role_from_text(text, &role));
    EXPECT(LVS_ERR_INVALID, lvs_role_from_text("director", &role));
    CHECK(role == 77);
    EXPECT(LVS_OK, lvs_role_from_text("MASTER", &role));
    CHECK(role == LVS_ROLE_MASTER);

    EXPECT(LVS_ERR_NULL, lvs_node_open(NULL, NULL, &node));
    EXPECT(LVS_ERR_NULL, lvs_node_open(NULL, &config, NULL));
    BAD_TEXT(lvs_node_open(text, &config, &node));
    BAD_SIZE(config, lvs_node_open(NULL, &config, &node));
    BAD_OR_NULL((config.interface = text, lvs_node_open(NULL, &config, &node)));
    config.interface = "no-such-one";
    EXPECT(LVS_ERR_NO_INTERFACE, lvs_node_open(NULL, &config, &node));
    config = good;
    config.vip_count = 2;
    EXPECT(LVS_ERR_NULL, lvs_node_open(NULL, &config, &node));
    BAD_TEXT((vips[1] = text, lvs_node_open(NULL, &config, &node)));
    vips[1] = vips[0];
    EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node));
    config.vip_count = 0;
    EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node));
    config.vip_count = SIZE_MAX;
    EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node));
    config.vips = NULL;
    config.vip_count = 1;
    EXPECT(LVS_ERR_NULL, lvs_node_open(NULL, &config, &node));
    config = good;
    BAD_TEXT((config.state_dir = text, lvs_node_open(NULL, &config, &node)));
    config = good;
    for (config.fence = 2; config.fence <= 4; config.fence++) { /* numbers of earlier versions */
        char words[300];

        EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node));
        lvs_last_error_message(words, sizeof words);
        CHECK(strstr(words, "pass LVS_FENCE_MARKS") != NULL);
    }
    config = good;
    BAD_TEXT((config.group = text, lvs_node_open(NULL, &config, &node)));
    config = good;
    config.group_count = 1;
    EXPECT(LVS_ERR_NULL, lvs_node_open(NULL, &config, &node));
    config.groups = groups;
    EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node)); /* `group` is not among them */
    config.group = "web";
    BAD_OR_NULL((groups[1] = text, config.group_count = 2, lvs_node_open(NULL, &config, &node)));
    groups[1] = groups[0];
    EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node));
    config.group_count = SIZE_MAX;
    EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node));
    config = good;
    config.peer_mac_count = 1;
    EXPECT(LVS_ERR_NULL, lvs_node_open(NULL, &config, &node));
    config.peer_macs = macs;
    BAD_OR_NULL((macs[0] = text, lvs_node_open(NULL, &config, &node)));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        EXPECT(LVS_ERR_INVALID, (macs[0] = wrong[i], lvs_node_open(NULL, &config, &node)));
    config = good;
    config.marks_base = UINT32_MAX;
    EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node));
    config = good;
    config.own_requests = 2;
    EXPECT(LVS_ERR_INVALID, lvs_node_open(NULL, &config, &node));
    config = good;
    EXPECT(LVS_ERR_TEXT, (config.services = too_long, lvs_node_open(NULL, &config, &node)));
    EXPECT(LVS_ERR_PARSE, (config.services = "-A", lvs_node_open(NULL, &config, &node)));
    CHECK(node == NULL);
    EXPECT(LVS_OK, lvs_node_open(NULL, &good, &node));

    EXPECT(LVS_ERR_NULL, lvs_node_plan(NULL, role, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan(node, role, NULL));
    EXPECT(LVS_ERR_INVALID, lvs_node_plan(node, LVS_ROLE_NONE, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_plan(node, 77, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_become_role(NULL, role, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_become_role(node, LVS_ROLE_NONE, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_apply(NULL, 0, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_apply(node, 0, NULL));
    EXPECT(LVS_ERR_INVALID, lvs_node_plan_apply(node, 2, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_plan_apply(node, LVS_NODE_APPLY_ALL, &text)); /* no role yet */
    EXPECT(LVS_ERR_NULL, lvs_node_apply(NULL, 0, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_apply(node, 2, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_apply(node, LVS_NODE_APPLY_CHANGES, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_repair(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_repair(node, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_repair(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_restart_sync_daemons(NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_set_director(NULL, NULL));
    BAD_TEXT(lvs_node_set_director(node, text));
    EXPECT(LVS_ERR_INVALID, lvs_node_set_director(node, "192.168.0.12/24"));
    EXPECT(LVS_ERR_NULL, lvs_node_resync(NULL, &count));
    EXPECT(LVS_ERR_NULL, lvs_node_known_connections(NULL, &count));
    EXPECT(LVS_ERR_NULL, lvs_node_known_connections(node, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_audit(NULL, NULL, &findings));
    EXPECT(LVS_ERR_NULL, lvs_node_audit(node, NULL, NULL));
    BAD_TEXT(lvs_node_audit(node, text, &findings));
    EXPECT(LVS_ERR_SYSTEM, lvs_node_audit(node, "/nonexistent", &findings));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_fix(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_fix(node, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_fix(NULL, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_fix(node, NULL)); /* no role yet */
    EXPECT(LVS_ERR_NULL, lvs_node_set_log(NULL, NULL, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_announce_again(NULL));
    CHECK(count == 77 && findings == NULL);
    EXPECT(LVS_ERR_NULL, lvs_node_plan_release(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_release(node, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_release(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_read_status(NULL, &whole));
    EXPECT(LVS_ERR_NULL, lvs_node_read_status(node, NULL));
    CHECK(text == NULL && whole == NULL);
    EXPECT(LVS_OK, lvs_node_read_status(node, &whole));
    EXPECT(LVS_ERR_NULL, lvs_status_summary(NULL, &status));
    EXPECT(LVS_ERR_NULL, lvs_status_summary(whole, NULL));
    BAD_SIZE(status, lvs_status_summary(whole, &status));
    CHECK(status.missing == 77);
    EXPECT(LVS_ERR_NULL, lvs_status_owns(NULL, WEB, &owned));
    EXPECT(LVS_ERR_NULL, lvs_status_owns(whole, WEB, NULL));
    BAD_OR_NULL(lvs_status_owns(whole, text, &owned));
    CHECK(lvs_texts_get(lvs_status_missing(whole), 0) == NULL && lvs_status_destinations(whole, SIZE_MAX) == NULL);
    lvs_status_free(whole);

    status = summary_of(node);
    CHECK(status.role == LVS_ROLE_NONE && status.reached == 0 && status.generation == 0);
    CHECK(status.director[0] == '\0');
    EXPECT(LVS_OK, lvs_node_repair(node, &text)); /* there is no role to repair */
    CHECK(text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_restart_sync_daemons(node));
    EXPECT(LVS_OK, lvs_node_set_director(node, "192.168.0.12"));
    EXPECT(LVS_OK, lvs_node_plan(node, LVS_ROLE_MASTER, &text));
    CHECK(strstr(text, "192.0.2.1") != NULL);
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_become_role(node, LVS_ROLE_MASTER, &text));
    CHECK(text[0] != '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_become_role(node, LVS_ROLE_MASTER, &text));
    CHECK(text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_plan_apply(node, LVS_NODE_APPLY_ALL, &text));
    CHECK(text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_plan_repair(node, &text));
    CHECK(text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_set_log(node, log_step, node));
    EXPECT(LVS_OK, lvs_node_become_role(node, LVS_ROLE_BACKUP, NULL));
    CHECK(steps > 0);
    EXPECT(LVS_OK, lvs_node_set_log(node, NULL, NULL));
    EXPECT(LVS_OK, lvs_node_audit(node, NULL, &findings));
    EXPECT(LVS_ERR_NULL, lvs_findings_get(NULL, 0, &finding));
    EXPECT(LVS_ERR_NULL, lvs_findings_get(findings, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_findings_get(findings, lvs_findings_count(findings), &finding));
    BAD_SIZE(finding, lvs_findings_get(findings, 0, &finding));
    for (size_t i = 0; i < lvs_findings_count(findings); i++) {
        EXPECT(LVS_OK, lvs_findings_get(findings, i, &finding));
        CHECK(finding.severity >= LVS_SEVERITY_NOTICE && finding.severity <= LVS_SEVERITY_ERROR);
        CHECK(finding.kind[0] && finding.reason[0] && finding.remedy[0]);
    }
    lvs_findings_free(findings);
    EXPECT(LVS_OK, lvs_node_plan_fix(node, &text));
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_read_status(node, &whole));
    CHECK(lvs_rules_count(lvs_status_rules(whole)) == 0); /* LVS_FENCE_CLEAR has none */
    EXPECT(LVS_OK, lvs_status_owns(whole, WEB, &owned));
    CHECK(owned == 1);
    EXPECT(LVS_OK, lvs_status_owns(whole, "tcp 192.0.2.9:80", &owned));
    CHECK(owned == 0 && lvs_places_count(lvs_status_places(whole)) == 1);
    EXPECT(LVS_OK, lvs_status_summary(whole, &status));
    lvs_status_free(whole);
    CHECK(status.arp_ignore == 1 && status.arp_announce == 2);
    CHECK(status.role == LVS_ROLE_BACKUP && status.reached == 1 && status.hidden == 1 && status.generation == 3);
    CHECK(status.size == sizeof status && status.missing == 0 && status.drift == 0 && status.services == 0);
    EXPECT(LVS_OK, lvs_node_plan_release(node, &text));
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_release(node, NULL));
    status = summary_of(node);
    CHECK(status.role == LVS_ROLE_NONE);
    lvs_node_free(node);
}

/* LVS_FENCE_MARKS: lists of rules and peers, a table that its editors change, and a release. */
static void misuse_own_rules(void)
{
    struct lvs_rule good = { .size = sizeof good, .interface = "eth0", .vip = "192.0.2.1", .packets = LVS_PACKETS_OPENING, .mark = 7 };
    struct lvs_rule wrong[9];
    lvs_marks *marks = NULL;
    lvs_rules *rules = NULL;
    int done = 77;

    EXPECT(LVS_ERR_NULL, lvs_marks_open(NULL, 7, NULL));
    BAD_TEXT(lvs_marks_open(text, 7, &marks));
    CHECK(marks == NULL);
    EXPECT(LVS_OK, lvs_marks_open(NULL, 7, &marks));
    EXPECT(LVS_ERR_NULL, lvs_marks_rules(NULL, "eth0", &rules));
    EXPECT(LVS_ERR_NULL, lvs_marks_rules(marks, "eth0", NULL));
    BAD_OR_NULL(lvs_marks_rules(marks, text, &rules));
    CHECK(rules == NULL);
    EXPECT(LVS_OK, lvs_marks_rules(marks, "no-such-one", &rules));
    CHECK(lvs_rules_count(rules) == 0);
    lvs_rules_free(rules);
    EXPECT(LVS_ERR_NULL, lvs_marks_add(NULL, &good, &done));
    EXPECT(LVS_ERR_NULL, lvs_marks_add(marks, NULL, &done));
    EXPECT(LVS_ERR_NULL, lvs_marks_remove(NULL, &good, &done));
    EXPECT(LVS_ERR_NULL, lvs_marks_remove(marks, NULL, &done));
    EXPECT(LVS_ERR_NULL, lvs_marks_clear(NULL, "eth0", 0));
    BAD_OR_NULL(lvs_marks_clear(marks, text, 0));
    BAD_SIZE(good, lvs_marks_add(marks, &good, &done));
    BAD_SIZE(good, lvs_marks_remove(marks, &good, &done));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        wrong[i] = good;
    wrong[0].packets = 3;
    wrong[1].packets = LVS_PACKETS_FROM;
    wrong[2].mac = "02:00:00:00:00:02";
    wrong[3].port = 80;
    wrong[4].mark = 0;
    wrong[5].packets = LVS_PACKETS_LATER;
    wrong[5].port = 65536;
    wrong[6].vip = "192.0.2.1/32";
    wrong[7].interface = "../x";
    wrong[8].reserved = 1;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        EXPECT(LVS_ERR_INVALID, lvs_marks_add(marks, &wrong[i], &done));
        EXPECT(LVS_ERR_INVALID, lvs_marks_remove(marks, &wrong[i], &done));
    }
    CHECK(done == 77);
    lvs_marks_free(marks);
}

static void misuse_link(void)
{
    struct lvs_event event = { .size = sizeof event };
    struct lvs_neighbour neighbour = { .size = sizeof neighbour };
    lvs_monitor *monitor = NULL;
    lvs_neighbours *neighbours = NULL;
    lvs_texts *list = NULL;
    lvs_vips *vips = NULL;
    lvs_marks *marks = NULL;
    char *interface = NULL, *gateway = NULL;
    int changed = 77;

    EXPECT(LVS_ERR_NULL, lvs_monitor_open(NULL, NULL));
    BAD_TEXT(lvs_monitor_open(text, &monitor));
    CHECK(monitor == NULL);
    EXPECT(LVS_OK, lvs_monitor_open(NULL, &monitor));
    EXPECT(LVS_ERR_NULL, lvs_monitor_next(NULL, &event));
    EXPECT(LVS_ERR_NULL, lvs_monitor_next(monitor, NULL));
    BAD_SIZE(event, lvs_monitor_next(monitor, &event));
    EXPECT(LVS_OK, lvs_monitor_next(monitor, &event));
    CHECK(event.kind == LVS_EVENT_NONE && event.index == 0 && event.interface[0] == '\0' && event.address[0] == '\0');
    lvs_monitor_free(monitor);

    EXPECT(LVS_OK, lvs_marks_open(NULL, 7, &marks));
    EXPECT(LVS_ERR_NULL, lvs_marks_neighbours(NULL, &neighbours));
    EXPECT(LVS_ERR_NULL, lvs_marks_neighbours(marks, NULL));
    CHECK(neighbours == NULL);
    EXPECT(LVS_OK, lvs_marks_neighbours(marks, &neighbours));
    CHECK(lvs_neighbours_count(neighbours) > 0);
    EXPECT(LVS_ERR_NULL, lvs_neighbours_get(NULL, 0, &neighbour));
    EXPECT(LVS_ERR_NULL, lvs_neighbours_get(neighbours, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_neighbours_get(neighbours, SIZE_MAX, &neighbour));
    BAD_SIZE(neighbour, lvs_neighbours_get(neighbours, 0, &neighbour));
    lvs_neighbours_free(neighbours);
    EXPECT(LVS_ERR_NULL, lvs_marks_resolve(NULL, "192.168.0.12", "eth0"));
    BAD_OR_NULL(lvs_marks_resolve(marks, text, "eth0"));
    BAD_OR_NULL(lvs_marks_resolve(marks, "192.168.0.12", text));
    EXPECT(LVS_ERR_INVALID, lvs_marks_resolve(marks, "224.0.0.1", "eth0"));
    EXPECT(LVS_ERR_INVALID, lvs_marks_resolve(marks, "192.168.0.12", "../x"));
    EXPECT(LVS_ERR_NULL, lvs_marks_macs(NULL, "eth0", &list));
    EXPECT(LVS_ERR_NULL, lvs_marks_macs(marks, "eth0", NULL));
    BAD_OR_NULL(lvs_marks_macs(marks, text, &list));
    EXPECT(LVS_ERR_NO_INTERFACE, lvs_marks_macs(marks, "no-such-one", &list));
    EXPECT(LVS_ERR_NULL, lvs_marks_gateways(NULL, &list));
    EXPECT(LVS_ERR_NULL, lvs_marks_gateways(marks, NULL));
    EXPECT(LVS_ERR_NULL, lvs_marks_route_to(NULL, "192.168.0.12", &interface, &gateway));
    EXPECT(LVS_ERR_NULL, lvs_marks_route_to(marks, "192.168.0.12", NULL, &gateway));
    BAD_OR_NULL(lvs_marks_route_to(marks, text, &interface, &gateway));
    EXPECT(LVS_ERR_NULL, lvs_who_has(NULL, "eth0", "192.168.0.99", 1, 0, NULL));
    BAD_TEXT(lvs_who_has(text, "eth0", "192.168.0.99", 1, 0, &list));
    BAD_OR_NULL(lvs_who_has(NULL, text, "192.168.0.99", 1, 0, &list));
    BAD_OR_NULL(lvs_who_has(NULL, "eth0", text, 1, 0, &list));
    EXPECT(LVS_ERR_INVALID, lvs_who_has(NULL, "lo", "192.168.0.99", UINT32_MAX, UINT32_MAX, &list));
    EXPECT(LVS_ERR_INVALID, lvs_who_has(NULL, "eth0", "127.0.0.1", UINT32_MAX, 0, &list));
    EXPECT(LVS_ERR_NO_INTERFACE, lvs_who_has(NULL, "no-such-one", "192.168.0.99", 1, 0, &list));
    CHECK(list == NULL && interface == NULL && gateway == NULL);
    EXPECT(LVS_OK, lvs_marks_route_to(marks, "192.168.0.12", &interface, NULL));
    CHECK(strcmp(interface, "eth0") == 0);
    lvs_text_free(interface);
    EXPECT(LVS_OK, lvs_marks_macs(marks, "eth0", &list));
    lvs_marks_free(marks);
    CHECK(lvs_texts_count(list) == 1 && strlen(lvs_texts_get(list, 0)) == 17 && lvs_texts_get(list, 1) == NULL);
    lvs_texts_free(list);
    list = NULL;

    EXPECT(LVS_OK, lvs_vips_open(NULL, &vips));
    EXPECT(LVS_ERR_NULL, lvs_vips_place(NULL, "192.0.2.1", "lo", &changed));
    BAD_OR_NULL(lvs_vips_place(vips, text, "lo", &changed));
    BAD_OR_NULL(lvs_vips_place(vips, "192.0.2.1", text, &changed));
    EXPECT(LVS_ERR_NULL, lvs_vips_advertise(NULL, "192.0.2.1"));
    BAD_OR_NULL(lvs_vips_advertise(vips, text));
    EXPECT(LVS_ERR_INVALID, lvs_vips_advertise(vips, "192.0.2.1/32"));
    EXPECT(LVS_ERR_INVALID, lvs_vips_advertise(vips, "127.0.0.1"));
    EXPECT(LVS_ERR_NULL, lvs_vips_unadvertise(NULL, "192.0.2.1"));
    BAD_OR_NULL(lvs_vips_unadvertise(vips, text));
    EXPECT(LVS_ERR_NULL, lvs_vips_advertised(NULL, &list));
    EXPECT(LVS_ERR_NULL, lvs_vips_advertised(vips, NULL));
    CHECK(changed == 77 && list == NULL);
    EXPECT(LVS_OK, lvs_vips_place(vips, "192.0.2.1", "lo", &changed));
    CHECK(changed == 1);
    EXPECT(LVS_OK, lvs_vips_withdraw(vips, "192.0.2.1", NULL, NULL));
    lvs_vips_free(vips);
}

static void misuse_local_marks(void)
{
    struct lvs_local_mark wanted[2] = { { .size = sizeof *wanted, .vip = "192.0.2.1", .mark = 7 },
                                        { .size = sizeof *wanted, .vip = "192.0.2.2", .mark = 7 } };
    /* A later version's, one behind the other. */
    struct { struct lvs_local_mark known; size_t further; } newer[2];
    lvs_local_marks *marks = NULL;
    lvs_marked *found = NULL;
    int removed = 77;

    EXPECT(LVS_ERR_NULL, lvs_local_marks_open(NULL, NULL));
    BAD_TEXT(lvs_local_marks_open(text, &marks));
    CHECK(marks == NULL);
    EXPECT(LVS_OK, lvs_local_marks_open(NULL, &marks));
    EXPECT(LVS_ERR_NULL, lvs_local_marks_observe(NULL, &found));
    EXPECT(LVS_ERR_NULL, lvs_local_marks_observe(marks, NULL));
    EXPECT(LVS_ERR_NULL, lvs_local_marks_remove(NULL, &removed));
    EXPECT(LVS_ERR_NULL, lvs_local_marks_apply(NULL, wanted, 2, &found));
    EXPECT(LVS_ERR_NULL, lvs_local_marks_apply(marks, NULL, 1, &found));
    EXPECT(LVS_ERR_INVALID, lvs_local_marks_apply(marks, wanted, SIZE_MAX, &found));
    BAD_SIZE(wanted[0], lvs_local_marks_apply(marks, wanted, 2, &found));
    BAD_SIZE(wanted[1], lvs_local_marks_apply(marks, wanted, 2, &found));
    BAD_OR_NULL((wanted[1].vip = text, lvs_local_marks_apply(marks, wanted, 2, &found)));
    wanted[1].vip = "224.0.0.1";
    EXPECT(LVS_ERR_INVALID, lvs_local_marks_apply(marks, wanted, 2, &found));
    wanted[1].vip = "192.0.2.1";
    wanted[1].mark = 8; /* two marks for one address */
    EXPECT(LVS_ERR_INVALID, lvs_local_marks_apply(marks, wanted, 2, &found));
    wanted[1].mark = 0;
    EXPECT(LVS_ERR_INVALID, lvs_local_marks_apply(marks, wanted, 2, &found));
    wanted[1].mark = 7;
    wanted[1].reserved = 1;
    EXPECT(LVS_ERR_INVALID, lvs_local_marks_apply(marks, wanted, 2, &found));
    wanted[1].reserved = 0;
    for (size_t i = 0; i < 2; i++) {
        newer[i].known = wanted[0];
        newer[i].known.size = sizeof newer[i];
        newer[i].further = 0;
    }
    newer[1].further = 1;
    EXPECT(LVS_ERR_SIZE, lvs_local_marks_apply(marks, &newer[0].known, 2, &found));
    newer[1].further = 0;
    newer[1].known.mark = 0; /* the second is read where it is */
    EXPECT(LVS_ERR_INVALID, lvs_local_marks_apply(marks, &newer[0].known, 2, &found));
    CHECK(found == NULL && removed == 77);
    EXPECT(LVS_OK, lvs_local_marks_apply(marks, NULL, 0, &found));
    CHECK(lvs_marked_count(found) == 0);
    EXPECT(LVS_ERR_NULL, lvs_marked_get(NULL, 0, wanted));
    EXPECT(LVS_ERR_NULL, lvs_marked_get(found, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_marked_get(found, 0, wanted));
    BAD_SIZE(wanted[0], lvs_marked_get(found, 0, wanted));
    lvs_marked_free(found);
    lvs_local_marks_free(marks);
}

static void misuse_classifier(void)
{
    struct lvs_classified good = { .size = sizeof good, .service = "192.0.2.1:80", .local = 7 }, wrong[6];
    struct lvs_classifier_peer peer = { .size = sizeof peer, .mac = "02:00:00:00:00:02", .number = 1 }, odd[4];
    struct lvs_attached attached = { .size = sizeof attached };
    lvs_classifier *classifier = NULL;
    lvs_classifiers *found = NULL;

    EXPECT(LVS_ERR_NULL, lvs_classifier_open(NULL, 7, NULL));
    BAD_TEXT(lvs_classifier_open(text, 7, &classifier));
    CHECK(classifier == NULL);
    EXPECT(LVS_OK, lvs_classifier_open(NULL, 7, &classifier));
    EXPECT(LVS_ERR_NULL, lvs_classifier_observe(NULL, "eth0", &found));
    EXPECT(LVS_ERR_NULL, lvs_classifier_observe(classifier, "eth0", NULL));
    BAD_OR_NULL(lvs_classifier_observe(classifier, text, &found));
    EXPECT(LVS_ERR_NULL, lvs_classifier_remove(NULL, "eth0"));
    BAD_OR_NULL(lvs_classifier_remove(classifier, text));
    EXPECT(LVS_ERR_NULL, lvs_classifier_apply(NULL, "eth0", &good, 1, &peer, 1));
    BAD_OR_NULL(lvs_classifier_apply(classifier, text, &good, 1, &peer, 1));
    EXPECT(LVS_ERR_NULL, lvs_classifier_apply(classifier, "eth0", NULL, 1, &peer, 1));
    EXPECT(LVS_ERR_NULL, lvs_classifier_apply(classifier, "eth0", &good, 1, NULL, 1));
    EXPECT(LVS_ERR_INVALID, lvs_classifier_apply(classifier, "eth0", &good, SIZE_MAX, &peer, 1));
    EXPECT(LVS_ERR_INVALID, lvs_classifier_apply(classifier, "eth0", &good, 1, &peer, SIZE_MAX));
    BAD_SIZE(good, lvs_classifier_apply(classifier, "eth0", &good, 1, &peer, 1));
    BAD_SIZE(peer, lvs_classifier_apply(classifier, "eth0", &good, 1, &peer, 1));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        wrong[i] = good;
    wrong[0].service = "192.0.2.1";
    wrong[1].service = "192.0.2.1:0";
    wrong[2].service = "224.0.0.1:80";
    wrong[3].local = 0;
    wrong[4].before = UINT32_MAX; /* and the number of the peer */
    wrong[5].reserved = 1;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        EXPECT(LVS_ERR_INVALID, lvs_classifier_apply(classifier, "eth0", &wrong[i], 1, &peer, 1));
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        odd[i] = peer;
    odd[0].mac = "02:00:00:00:00";
    odd[1].mac = "ff:ff:ff:ff:ff:ff";
    odd[2].number = 256;
    odd[3].reserved = 1;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        EXPECT(LVS_ERR_INVALID, lvs_classifier_apply(classifier, "eth0", &good, 1, &odd[i], 1));
    CHECK(found == NULL);
    EXPECT(LVS_OK, lvs_classifier_observe(classifier, "no-such-one", &found));
    lvs_classifier_free(classifier);
    CHECK(lvs_classifiers_count(found) == 0);
    EXPECT(LVS_ERR_NULL, lvs_classifiers_get(NULL, 0, &attached));
    EXPECT(LVS_ERR_NULL, lvs_classifiers_get(found, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_classifiers_get(found, 0, &attached));
    BAD_SIZE(attached, lvs_classifiers_get(found, 0, &attached));
    EXPECT(LVS_ERR_NULL, lvs_classifiers_service(NULL, 0, 0, &good));
    EXPECT(LVS_ERR_NULL, lvs_classifiers_service(found, 0, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_classifiers_service(found, 0, SIZE_MAX, &good));
    BAD_SIZE(good, lvs_classifiers_service(found, 0, 0, &good));
    EXPECT(LVS_ERR_NULL, lvs_classifiers_peer(NULL, 0, 0, &peer));
    EXPECT(LVS_ERR_NULL, lvs_classifiers_peer(found, 0, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_classifiers_peer(found, SIZE_MAX, 0, &peer));
    BAD_SIZE(peer, lvs_classifiers_peer(found, 0, 0, &peer));
    lvs_classifiers_free(found);
}

/* What was added to a node and its status. */
static void misuse_status(lvs_node *node, const lvs_status *whole)
{
    struct lvs_failure failure = { .size = sizeof failure };
    uint64_t table = 77, order = 77, known = 77;
    uint32_t weight = 77, role = 77, answer = 77;
    char *text = NULL;
    int drained = 77;

    EXPECT(LVS_ERR_NULL, lvs_status_drained(NULL, WEB, "192.168.0.12:80", &drained, &weight));
    EXPECT(LVS_ERR_NULL, lvs_status_drained(whole, WEB, "192.168.0.12:80", NULL, &weight));
    BAD_OR_NULL(lvs_status_drained(whole, text, "192.168.0.12:80", &drained, &weight));
    BAD_OR_NULL(lvs_status_drained(whole, WEB, text, &drained, &weight));
    EXPECT(LVS_ERR_INVALID, lvs_status_drained(whole, WEB, "192.168.0.12", &drained, &weight));
    CHECK(drained == 77 && weight == 77);
    EXPECT(LVS_OK, lvs_status_drained(whole, WEB, "192.168.0.12:80", &drained, &weight));
    CHECK(drained == 0 && weight == 0);
    EXPECT(LVS_ERR_NULL, lvs_status_digest(NULL, &table, &order));
    EXPECT(LVS_OK, lvs_status_digest(whole, NULL, NULL));
    EXPECT(LVS_ERR_NULL, lvs_status_failure(NULL, &failure));
    EXPECT(LVS_ERR_NULL, lvs_status_failure(whole, NULL));
    BAD_SIZE(failure, lvs_status_failure(whole, &failure));
    EXPECT(LVS_OK, lvs_status_failure(whole, &failure));
    CHECK(failure.task == NULL && failure.reason == NULL && failure.time == 0);
    CHECK(lvs_classifiers_count(lvs_status_classifiers(whole)) == 0 && lvs_texts_count(lvs_status_advertised(whole)) == 0);
    CHECK(strcmp(lvs_texts_get(lvs_status_interfaces(whole), 0), "eth0") == 0);

    EXPECT(LVS_ERR_NULL, lvs_node_restore_vips(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_shown_role(NULL, &role));
    EXPECT(LVS_ERR_NULL, lvs_node_shown_role(node, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_still_used(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_still_used(node, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_ask_for_connections(NULL, 1, &answer, &known, &known));
    EXPECT(LVS_ERR_NULL, lvs_node_ask_for_connections(node, 1, NULL, &known, &known));
    CHECK(text == NULL && role == 77 && answer == 77 && known == 77);
    EXPECT(LVS_OK, lvs_node_shown_role(node, &role));
    CHECK(role == LVS_ROLE_NONE); /* the node moves its VIPs */
    EXPECT(LVS_OK, lvs_node_restore_vips(node, &text));
    CHECK(text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_still_used(node, &text));
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_ask_for_connections(node, 50, &answer, &known, NULL));
    CHECK(answer == LVS_ASKED_NO_DIRECTOR && known == 0);
}

static void misuse_marks(void)
{
    const char *vip = "192.0.2.1", *mac = "192.168.0.12=02:00:00:00:00:02";
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = &vip, .vip_count = 1,
                                      .state_dir = "/run/misuse", .services = NODE_TABLE, .fence = LVS_FENCE_MARKS,
                                      .peer_macs = &mac, .peer_mac_count = 1 };
    struct lvs_node_status status = { .size = sizeof status };
    struct lvs_rule rule = { .size = sizeof rule }, each = rule;
    struct lvs_peer peer = { .size = sizeof peer };
    struct lvs_destination checked = {
        .size = sizeof checked, .address = "192.168.0.12:80", .forward = LVS_FORWARD_DIRECT, .weight = 0
    };
    struct lvs_sessions sessions = { .size = sizeof sessions };
    lvs_ipvs *ipvs = NULL;
    lvs_node *node = NULL;
    lvs_status *whole = NULL;
    const lvs_rules *rules;
    const lvs_peers *peers;
    char *text = NULL;
    size_t found = 0;

    EXPECT(LVS_OK, lvs_ipvs_open(NULL, &ipvs));
    EXPECT(LVS_OK, lvs_node_open(NULL, &config, &node));
    EXPECT(LVS_OK, lvs_node_become_role(node, LVS_ROLE_BACKUP, NULL));
    EXPECT(LVS_OK, lvs_node_read_status(node, &whole));
    EXPECT(LVS_OK, lvs_status_summary(whole, &status));
    CHECK(status.role == LVS_ROLE_BACKUP && status.reached == 1 && status.missing == 0 && status.services == 1);
    CHECK(status.director[0] == '\0');
    CHECK(lvs_services_count(lvs_status_services(whole)) == 1);
    CHECK(lvs_destinations_count(lvs_status_destinations(whole, 0)) == 2);
    CHECK(lvs_sync_daemons_count(lvs_status_sync_daemons(whole)) >= 1);

    rules = lvs_status_rules(whole);
    CHECK(lvs_rules_count(rules) > 0);
    EXPECT(LVS_ERR_NULL, lvs_rules_get(NULL, 0, &rule));
    EXPECT(LVS_ERR_NULL, lvs_rules_get(rules, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_rules_get(rules, lvs_rules_count(rules), &rule));
    BAD_SIZE(rule, lvs_rules_get(rules, 0, &rule));
    for (size_t i = 0; i < lvs_rules_count(rules); i++) {
        EXPECT(LVS_OK, lvs_rules_get(rules, i, &each));
        CHECK(strcmp(each.interface, "eth0") == 0 && strcmp(each.vip, vip) == 0 && each.mark >= 0x4c565300u);
        CHECK((each.packets == LVS_PACKETS_FROM) == (each.mac != NULL));
        if (each.packets == LVS_PACKETS_FROM && strcmp(each.mac, "02:00:00:00:00:02") == 0) {
            rule = each;
            found++;
        }
    }
    CHECK(found == 1);
    peers = lvs_status_peers(whole);
    EXPECT(LVS_ERR_NULL, lvs_peers_get(NULL, 0, &peer));
    EXPECT(LVS_ERR_NULL, lvs_peers_get(peers, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_peers_get(peers, 2, &peer));
    BAD_SIZE(peer, lvs_peers_get(peers, 0, &peer));
    CHECK(lvs_peers_count(peers) == 2); /* one is configured, one a neighbour of the test's */
    EXPECT(LVS_OK, lvs_peers_get(peers, 1, &peer));
    CHECK(strcmp(peer.address, "192.168.0.12") == 0 && strcmp(peer.mac, "02:00:00:00:00:12") == 0);
    EXPECT(LVS_OK, lvs_peers_get(peers, 0, &peer));

    misuse_status(node, whole);

    /* The director is set, and cleared. */
    EXPECT(LVS_OK, lvs_node_set_director(node, "192.168.0.12"));
    status = summary_of(node);
    CHECK(strcmp(status.director, "192.168.0.12") == 0 && status.missing == 0);
    EXPECT(LVS_OK, lvs_node_set_director(node, NULL));
    status = summary_of(node);
    CHECK(status.director[0] == '\0' && status.missing == 0);

    /* What a health check did stays, until all of the configuration is applied. */
    EXPECT(LVS_OK, lvs_ipvs_replace_destination(ipvs, WEB, &checked));
    EXPECT(LVS_OK, lvs_node_repair(node, &text));
    CHECK(text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_plan_apply(node, LVS_NODE_APPLY_CHANGES, &text));
    CHECK(text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_apply(node, LVS_NODE_APPLY_ALL, &text));
    CHECK(strstr(text, "192.168.0.12:80") != NULL);
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_ipvs_table(ipvs, &text));
    CHECK(strstr(text, "-r 192.168.0.12:80 -g -w 1") != NULL);
    lvs_text_free(text);

    /* A server is drained, and put back. */
    EXPECT(LVS_ERR_NULL, lvs_node_weigh(NULL, NULL, LVS_WEIGH_DRAIN, 0, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_weigh(node, NULL, LVS_WEIGH_DRAIN, 0, NULL));
    EXPECT(LVS_ERR_INVALID, lvs_node_weigh(node, NULL, 0, 0, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_weigh(node, NULL, LVS_WEIGH_DRAIN, 1, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_weigh(node, NULL, LVS_WEIGH_SET, 0x80000000u, &text));
    EXPECT(LVS_ERR_INVALID, lvs_node_weigh(node, "192.168.0.12:80", LVS_WEIGH_DRAIN, 0, &text));
    EXPECT(LVS_ERR_NO_DESTINATION, lvs_node_weigh(node, "192.168.0.99", LVS_WEIGH_DRAIN, 0, &text));
    EXPECT(LVS_OK, lvs_node_plan_weigh(node, "192.168.0.12", LVS_WEIGH_DRAIN, 0, &text));
    CHECK(strstr(text, "192.168.0.12:80 -g -w 0") != NULL);
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_weigh(node, "192.168.0.12", LVS_WEIGH_DRAIN, 0, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_sessions(NULL, NULL, &sessions));
    EXPECT(LVS_ERR_NULL, lvs_node_sessions(node, NULL, NULL));
    BAD_SIZE(sessions, lvs_node_sessions(node, NULL, &sessions));
    BAD_TEXT(lvs_node_sessions(node, text, &sessions));
    EXPECT(LVS_OK, lvs_node_sessions(node, "192.168.0.12", &sessions));
    CHECK(sessions.active == 0 && sessions.ending == 0 && sessions.templates == 0);
    EXPECT(LVS_OK, lvs_node_weigh(node, "192.168.0.12", LVS_WEIGH_UNDRAIN, 0, &text));
    CHECK(strstr(text, "192.168.0.12:80 -g -w 1") != NULL);
    lvs_text_free(text);

    /* Another configuration: what can change while it lives, and what cannot. */
    EXPECT(LVS_ERR_NULL, lvs_node_reconfigure(NULL, &config));
    EXPECT(LVS_ERR_NULL, lvs_node_reconfigure(node, NULL));
    config.state_dir = "/run/elsewhere";
    EXPECT(LVS_ERR_INVALID, lvs_node_reconfigure(node, &config));
    config.state_dir = "/run/misuse";
    config.services = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 192.168.0.12:80 -g -w 4\n";
    EXPECT(LVS_OK, lvs_node_reconfigure(node, &config));
    EXPECT(LVS_OK, lvs_node_apply(node, LVS_NODE_APPLY_CHANGES, &text));
    CHECK(strstr(text, "192.168.0.12:80 -g -w 4") != NULL && strstr(text, "-d -t 192.0.2.1:80 -r 192.168.0.11:80") != NULL);
    lvs_text_free(text);

    EXPECT(LVS_OK, lvs_node_restart_sync_daemons(node));
    EXPECT(LVS_OK, lvs_node_become_role(node, LVS_ROLE_MASTER, NULL));
    EXPECT(LVS_OK, lvs_node_release(node, NULL));
    lvs_node_free(node);
    lvs_ipvs_free(ipvs);
    CHECK(strcmp(rule.vip, vip) == 0 && rule.mark >= 0x4c565300u); /* the status outlives its node */
    CHECK(strcmp(peer.address, "192.168.0.12") == 0 && strcmp(peer.mac, "02:00:00:00:00:02") == 0);
    lvs_status_free(whole);
}

/* A program with a loop: what a driver and a supervisor refuse, and what a forked child may do with them. */
static void misuse_loops(void)
{
    const char *vip = "192.0.2.1";
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = &vip, .vip_count = 1,
                                      .state_dir = "/run/misuse", .fence = LVS_FENCE_CLEAR };
    struct lvs_supervisor_config over = { .size = sizeof over }, bad;
    struct lvs_report report = { .size = sizeof report };
    struct lvs_notice notice = { .size = sizeof notice };
    struct lvs_supervisor_counts counts = { .size = sizeof counts };
    struct lvs_other_node other = { .size = sizeof other };
    lvs_other_nodes *others = NULL;
    lvs_texts *unequal = NULL;
    struct lvs_node_config two[2] = { config, config };
    lvs_supervisor *supervisor = NULL;
    lvs_driver *driver = NULL;
    lvs_node *node = NULL;
    lvs_status *whole = NULL;
    char *text = NULL;
    int status = 0;
    pid_t child;

    EXPECT(LVS_ERR_NULL, lvs_driver_open(NULL, NULL, &driver));
    EXPECT(LVS_ERR_NULL, lvs_driver_open(NULL, &config, NULL));
    EXPECT(LVS_ERR_NULL, lvs_driver_reconfigure(NULL, &config));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_reconfigure(NULL, two, 1));
    BAD_SIZE(config, lvs_driver_open(NULL, &config, &driver));
    EXPECT(LVS_ERR_NULL, lvs_driver_request(NULL, LVS_TASK_REPAIR, 0));
    EXPECT(LVS_ERR_NULL, lvs_driver_dispatch(NULL));
    EXPECT(LVS_ERR_NULL, lvs_driver_next_report(NULL, &report, &text));
    CHECK(driver == NULL);
    EXPECT(LVS_OK, lvs_driver_open(NULL, &config, &driver));
    EXPECT(LVS_ERR_INVALID, lvs_driver_request(driver, LVS_TASK_ROLE, 0));
    EXPECT(LVS_ERR_INVALID, lvs_driver_request(driver, LVS_TASK_ROLE, 2)); /* a state of keepalived's */
    EXPECT(LVS_ERR_INVALID, lvs_driver_request(driver, LVS_TASK_REPAIR, LVS_ROLE_MASTER));
    EXPECT(LVS_ERR_INVALID, lvs_driver_request(driver, 9, 0));
    EXPECT(LVS_ERR_INVALID, lvs_driver_request(driver, LVS_TASK_WEIGH, 0)); /* whose, and what weight? */
    EXPECT(LVS_ERR_NULL, lvs_driver_request_weigh(NULL, NULL, LVS_WEIGH_DRAIN, 0));
    EXPECT(LVS_ERR_INVALID, lvs_driver_request_weigh(driver, NULL, 0, 0));
    EXPECT(LVS_ERR_INVALID, lvs_driver_request_weigh(driver, NULL, LVS_WEIGH_DRAIN, 1));
    BAD_TEXT(lvs_driver_request_weigh(driver, text, LVS_WEIGH_DRAIN, 0));
    EXPECT(LVS_ERR_INVALID, lvs_driver_request_weigh(driver, "192.168.0.12:80", LVS_WEIGH_DRAIN, 0));
    EXPECT(LVS_ERR_NULL, lvs_driver_next_report(driver, NULL, &text));
    BAD_SIZE(report, lvs_driver_next_report(driver, &report, &text));
    EXPECT(LVS_OK, lvs_driver_next_report(driver, &report, &text));
    CHECK(report.kind == LVS_REPORT_NONE && text == NULL);

    EXPECT(LVS_ERR_NULL, lvs_driver_cancel(NULL));
    EXPECT(LVS_ERR_NULL, lvs_driver_set_director(NULL, NULL));
    BAD_TEXT(lvs_driver_set_director(driver, text));
    EXPECT(LVS_ERR_INVALID, lvs_driver_set_director(driver, "localhost"));
    EXPECT(LVS_OK, lvs_driver_set_director(driver, NULL));
    EXPECT(LVS_ERR_NULL, lvs_driver_read_status(NULL, &whole));
    EXPECT(LVS_ERR_NULL, lvs_driver_read_status(driver, NULL));
    EXPECT(LVS_OK, lvs_driver_read_status(driver, &whole));
    lvs_status_free(whole);
    EXPECT(LVS_OK, lvs_driver_request(driver, LVS_TASK_ROLE, LVS_ROLE_MASTER));
    CHECK(lvs_driver_is_busy(driver) == 1);
    EXPECT(LVS_OK, lvs_driver_cancel(driver));
    CHECK(lvs_driver_is_busy(driver) == 0);

    /* The request is the parent's, whatever the child frees. */
    EXPECT(LVS_OK, lvs_driver_request(driver, LVS_TASK_ROLE, LVS_ROLE_BACKUP));
    child = fork();
    if (child == 0) {
        EXPECT(LVS_ERR_FORKED, lvs_driver_dispatch(driver));
        EXPECT(LVS_ERR_FORKED, lvs_driver_request(driver, LVS_TASK_RELEASE, 0));
        lvs_driver_free(driver);
        free(too_long);
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    while (report.kind != LVS_REPORT_ENDED) {
        struct pollfd wait = { .fd = lvs_driver_fd(driver), .events = POLLIN };

        CHECK(poll(&wait, 1, 10000) == 1 && wait.revents == POLLIN);
        EXPECT(LVS_OK, lvs_driver_dispatch(driver));
        do {
            EXPECT(LVS_OK, lvs_driver_next_report(driver, &report, NULL));
        } while (report.kind == LVS_REPORT_STEP);
    }
    CHECK(report.status == LVS_OK && report.role == LVS_ROLE_BACKUP);
    lvs_driver_free(driver);

    EXPECT(LVS_ERR_NULL, lvs_supervisor_open(NULL, NULL, 1, &over, &supervisor));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_open(NULL, two, 1, &over, NULL));
    EXPECT(LVS_ERR_INVALID, lvs_supervisor_open(NULL, two, 0, &over, &supervisor));
    EXPECT(LVS_ERR_INVALID, lvs_supervisor_open(NULL, two, SIZE_MAX, &over, &supervisor));
    BAD_SIZE(over, lvs_supervisor_open(NULL, two, 2, &over, &supervisor));
    BAD_SIZE(two[1], lvs_supervisor_open(NULL, two, 2, &over, &supervisor));
    bad = over;
    bad.flags = 2;
    EXPECT(LVS_ERR_INVALID, lvs_supervisor_open(NULL, two, 1, &bad, &supervisor));
    bad = over;
    bad.reserved = 1;
    EXPECT(LVS_ERR_INVALID, lvs_supervisor_open(NULL, two, 1, &bad, &supervisor));
    bad = over;
    BAD_TEXT((bad.fifo = text, lvs_supervisor_open(NULL, two, 1, &bad, &supervisor)));
    CHECK(supervisor == NULL);
    EXPECT(LVS_OK, lvs_supervisor_open(NULL, two, 1, NULL, &supervisor));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_reconfigure(supervisor, NULL, 1));
    EXPECT(LVS_ERR_INVALID, lvs_supervisor_reconfigure(supervisor, two, 0));
    EXPECT(LVS_ERR_INVALID, lvs_supervisor_reconfigure(supervisor, two, 2));
    EXPECT(LVS_OK, lvs_supervisor_reconfigure(supervisor, two, 1));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_request(NULL, "", LVS_ROLE_STOP));
    BAD_OR_NULL(lvs_supervisor_request(supervisor, text, LVS_ROLE_STOP));
    EXPECT(LVS_ERR_INVALID, lvs_supervisor_request(supervisor, "mail", LVS_ROLE_STOP));
    EXPECT(LVS_ERR_INVALID, lvs_supervisor_request(supervisor, "", 1));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_dispatch(NULL));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_next_notice(NULL, &notice, &text));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_next_notice(supervisor, NULL, &text));
    BAD_SIZE(notice, lvs_supervisor_next_notice(supervisor, &notice, &text));
    EXPECT(LVS_OK, lvs_supervisor_next_notice(supervisor, &notice, &text));
    CHECK(notice.kind == LVS_NOTICE_NONE && notice.group == LVS_NO_GROUP && text == NULL);
    EXPECT(LVS_ERR_NULL, lvs_supervisor_read_counts(NULL, &counts));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_read_counts(supervisor, NULL));
    BAD_SIZE(counts, lvs_supervisor_read_counts(supervisor, &counts));
    EXPECT(LVS_OK, lvs_supervisor_read_counts(supervisor, &counts));
    CHECK(counts.role_changes == 0 && counts.role_changed_ms == UINT64_MAX && counts.failed_ms == UINT64_MAX);
    EXPECT(LVS_ERR_NULL, lvs_supervisor_unequal(NULL, &unequal));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_unequal(supervisor, NULL));
    EXPECT(LVS_OK, lvs_supervisor_unequal(supervisor, &unequal));
    CHECK(lvs_texts_count(unequal) == 0);
    lvs_texts_free(unequal);
    EXPECT(LVS_ERR_NULL, lvs_supervisor_others(NULL, &others));
    EXPECT(LVS_ERR_NULL, lvs_supervisor_others(supervisor, NULL));
    EXPECT(LVS_OK, lvs_supervisor_others(supervisor, &others));
    EXPECT(LVS_ERR_NULL, lvs_other_nodes_get(NULL, 0, &other));
    EXPECT(LVS_ERR_NULL, lvs_other_nodes_get(others, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_other_nodes_get(others, 0, &other));
    BAD_SIZE(other, lvs_other_nodes_get(others, 0, &other));
    lvs_other_nodes_free(others);
    EXPECT(LVS_OK, lvs_supervisor_request(supervisor, "", LVS_ROLE_STOP));
    EXPECT(LVS_OK, lvs_node_open(NULL, &config, &node));
    do {
        struct pollfd wait = { .fd = lvs_supervisor_fd(supervisor), .events = POLLIN };

        CHECK(poll(&wait, 1, 10000) == 1 && wait.revents == POLLIN);
        EXPECT(LVS_OK, lvs_supervisor_dispatch(supervisor));
        do {
            EXPECT(LVS_OK, lvs_supervisor_next_notice(supervisor, &notice, &text));
            CHECK((text == NULL) == (notice.kind == LVS_NOTICE_NONE) && notice.kind <= LVS_NOTICE_OTHER);
            lvs_text_free(text);
        } while (notice.kind != LVS_NOTICE_NONE);
    } while (summary_of(node).role != LVS_ROLE_STOP);
    EXPECT(LVS_OK, lvs_supervisor_read_counts(supervisor, &counts));
    CHECK(counts.directs == 0 && counts.busy_us > 0);
    lvs_node_free(node);
    lvs_supervisor_free(supervisor);
}

/* Another thread has its own last error, and may use and free what this one made. */
static void *elsewhere(void *given)
{
    lvs_vips *vips = given;
    lvs_places *places = NULL;

    CHECK(lvs_last_status() == LVS_OK && lvs_last_error_message(NULL, 0) == 0);
    EXPECT(LVS_OK, lvs_vips_locate(vips, "192.168.0.11", &places));
    EXPECT(LVS_ERR_INVALID, lvs_vips_locate(vips, "localhost", &places));
    lvs_vips_free(vips);
    return places;
}

static void *drains(void *ipvs)
{
    struct lvs_drained drained = { .size = sizeof drained };

    EXPECT(LVS_OK, lvs_ipvs_drain(ipvs, WEB, "10.0.0.1:80", 1000, &drained));
    CHECK(drained.weight == 1 && drained.empty == 1);
    return NULL;
}

static void *adds_and_removes(void *ipvs)
{
    struct lvs_service service = { .size = sizeof service, .id = "tcp 192.0.2.77:80", .scheduler = "rr" };
    size_t *busy = calloc(1, sizeof *busy);

    CHECK(busy != NULL);
    for (size_t i = 0; i < 300; i++) {
        int status = lvs_ipvs_add_service(ipvs, &service);

        CHECK(status == LVS_OK || status == LVS_ERR_BUSY || status == LVS_ERR_SERVICE_EXISTS);
        *busy += status == LVS_ERR_BUSY;
        status = lvs_ipvs_remove_service(ipvs, service.id);
        CHECK(status == LVS_OK || status == LVS_ERR_BUSY || status == LVS_ERR_NO_SERVICE);
        *busy += status == LVS_ERR_BUSY;
    }
    return busy;
}

/* Two threads in one handle: one gets LVS_ERR_BUSY, and nothing is mixed up. */
static void one_handle(void)
{
    pthread_t threads[2];
    lvs_ipvs *ipvs = NULL;
    char *table = NULL;

    EXPECT(LVS_OK, lvs_ipvs_open(NULL, &ipvs));
    EXPECT(LVS_OK, lvs_ipvs_apply(ipvs, TABLE, NULL, NULL, NULL));
    CHECK(pthread_create(&threads[0], NULL, drains, ipvs) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0);
    EXPECT(LVS_OK, lvs_ipvs_set_weight(ipvs, WEB, "10.0.0.1:80", 1));
    for (size_t i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, adds_and_removes, ipvs) == 0);
    for (size_t i = 0; i < 2; i++) {
        void *busy = NULL;

        CHECK(pthread_join(threads[i], &busy) == 0);
        free(busy);
    }
    EXPECT(LVS_OK, lvs_ipvs_apply(ipvs, TABLE, owns_mail, "192.0.2.77", NULL));
    EXPECT(LVS_OK, lvs_ipvs_table(ipvs, &table));
    CHECK(strcmp(table, TABLE) == 0);
    lvs_text_free(table);
    EXPECT(LVS_OK, lvs_ipvs_flush(ipvs));
    lvs_ipvs_free(ipvs);
}

static void two_threads(void)
{
    lvs_vips *vips = NULL;
    void *places = NULL;
    pthread_t thread;

    EXPECT(LVS_OK, lvs_vips_open(NULL, &vips));
    EXPECT(LVS_ERR_NULL, lvs_vips_open(NULL, NULL));
    CHECK(pthread_create(&thread, NULL, elsewhere, vips) == 0);
    CHECK(pthread_join(thread, &places) == 0);
    CHECK(lvs_last_status() == LVS_ERR_NULL);
    CHECK(lvs_places_count(places) == 1);
    lvs_places_free(places);
}

int main(void)
{
    size_t length = 17u << 20;

    CHECK(lvs_last_status() == LVS_OK && lvs_last_errno() == 0 && lvs_last_error_message(NULL, 0) == 0);
    too_long = malloc(length + 1);
    CHECK(too_long != NULL);
    memset(too_long, 'x', length);
    too_long[length] = '\0';
    free_nothing();
    misuse_addresses();
    misuse_ipvs();
    misuse_vips();
    misuse_arp();
    misuse_node();
    misuse_own_rules();
    misuse_link();
    misuse_local_marks();
    misuse_classifier();
    misuse_marks();
    misuse_loops();
    one_handle();
    two_threads();
    free(too_long);
    return 0;
}
