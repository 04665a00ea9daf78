/*
 * A caller that does everything wrong: NULL for each pointer, wrong sizes, texts that are too long or no UTF-8, small
 * buffers, errors read twice, lists that outlive their handle. Built with -fsanitize=undefined, run under valgrind
 * in the lab by tests/kernel/capi.rs. Says nothing and returns 0 if every call did what lvs_dr.h says.
 */
#include <errno.h>
#include <lvs_dr.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
#define MARKS_TABLE                                                                        \
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
    lvs_node_free(NULL);
    lvs_rules_free(NULL);
    lvs_peers_free(NULL);
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

static void misuse_control(lvs_ipvs *ipvs, const lvs_services *services, const lvs_destinations *destinations)
{
    struct lvs_counters counters = { .size = sizeof counters };
    struct lvs_timeouts timeouts = { .size = sizeof timeouts };
    struct lvs_sync_daemon daemon = { .size = sizeof daemon, .role = LVS_SYNC_BACKUP, .interface = "lo" };
    lvs_sync_daemons *daemons = NULL;
    lvs_services *one = NULL;
    lvs_destinations *server = NULL;

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
    EXPECT(LVS_ERR_NULL, lvs_ipvs_plan(NULL, TABLE, 0, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_plan(ipvs, NULL, 0, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_plan(ipvs, TABLE, 0, NULL));
    EXPECT(LVS_ERR_TEXT, lvs_ipvs_plan(ipvs, too_long, 0, &text));
    EXPECT(LVS_ERR_TEXT, lvs_ipvs_plan(ipvs, bad_utf8, 0, &text));
    EXPECT(LVS_ERR_PARSE, lvs_ipvs_plan(ipvs, "-A -t 192.0", 0, &text));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_plan(ipvs, TABLE, 2, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_apply(NULL, TABLE, 0, &text));
    EXPECT(LVS_ERR_NULL, lvs_ipvs_apply(ipvs, NULL, 0, &text));
    EXPECT(LVS_ERR_TEXT, lvs_ipvs_apply(ipvs, too_long, 0, &text));
    EXPECT(LVS_ERR_INVALID, lvs_ipvs_apply(ipvs, TABLE, ~0u, &text));
    EXPECT(LVS_ERR_NO_MODULE, lvs_ipvs_apply(ipvs, "-A -t 192.0.2.2:80 -s no-such-one\n", 0, &text));
    CHECK(text == NULL);
    EXPECT(LVS_OK, lvs_ipvs_plan(ipvs, TABLE, 0, &text));
    CHECK(strcmp(text, "-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1\n") == 0);
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_ipvs_apply(ipvs, TABLE, 0, NULL));
    EXPECT(LVS_OK, lvs_ipvs_apply(ipvs, "-A -t 192.0.2.2:80 -s rr\n", 0, NULL));
    EXPECT(LVS_OK, lvs_ipvs_apply(ipvs, TABLE, LVS_APPLY_REMOVE_OTHERS, &text));
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
    BAD_OR_NULL(lvs_vips_locate(vips, text, &places));
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

static void misuse_node(void)
{
    const char *vips[] = { "192.0.2.1", NULL, NULL };
    const char *groups[] = { "web", NULL }, *macs[] = { NULL };
    const char *wrong[] = { "", "=", "192.168.0.12", "192.168.0.12=", "192.168.0.12=02:00:00:00:00", "=02:00:00:00:00:01" };
    lvs_node *node = NULL;
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = vips, .vip_count = 1,
                                      .state_dir = "/run/misuse", .services = TABLE,
                                      .fence = LVS_FENCE_CLEAR };
    struct lvs_node_config good = config;
    struct lvs_node_status status = { .size = sizeof status, .missing = 77 };
    lvs_rules *rules = NULL;
    lvs_peers *peers = NULL;
    char *text = NULL;
    size_t count = 77;
    uint32_t role = 77;

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
    EXPECT(LVS_ERR_NULL, lvs_node_audit(NULL, NULL, &count, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_audit(node, NULL, NULL, &text));
    BAD_TEXT(lvs_node_audit(node, text, &count, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_announce_again(NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_rules(NULL, &rules));
    EXPECT(LVS_ERR_NULL, lvs_node_rules(node, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_peers(NULL, &peers));
    EXPECT(LVS_ERR_NULL, lvs_node_peers(node, NULL));
    CHECK(count == 77 && rules == NULL && peers == NULL);
    EXPECT(LVS_ERR_NULL, lvs_node_plan_release(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_plan_release(node, NULL));
    EXPECT(LVS_ERR_NULL, lvs_node_release(NULL, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_get_status(NULL, &status, &text));
    EXPECT(LVS_ERR_NULL, lvs_node_get_status(node, NULL, &text));
    BAD_SIZE(status, lvs_node_get_status(node, &status, &text));
    CHECK(text == NULL && status.missing == 77);

    EXPECT(LVS_OK, lvs_node_get_status(node, &status, NULL));
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
    EXPECT(LVS_OK, lvs_node_rules(node, &rules)); /* LVS_FENCE_CLEAR has none */
    CHECK(lvs_rules_count(rules) == 0);
    lvs_rules_free(rules);
    EXPECT(LVS_OK, lvs_node_become_role(node, LVS_ROLE_BACKUP, NULL));
    EXPECT(LVS_OK, lvs_node_get_status(node, &status, &text));
    CHECK(status.role == LVS_ROLE_BACKUP && status.reached == 1 && status.hidden == 1 && status.generation == 3);
    CHECK(status.size == sizeof status && status.missing == 0 && status.drift == 0 && status.services == 0 && text[0] == '\0');
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_plan_release(node, &text));
    lvs_text_free(text);
    EXPECT(LVS_OK, lvs_node_release(node, NULL));
    EXPECT(LVS_OK, lvs_node_get_status(node, &status, NULL));
    CHECK(status.role == LVS_ROLE_NONE);
    lvs_node_free(node);
}

/* LVS_FENCE_MARKS: lists of rules and peers, a table that its editors change, and a release. */
static void misuse_marks(void)
{
    const char *vip = "192.0.2.1", *mac = "192.168.0.12=02:00:00:00:00:02";
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = &vip, .vip_count = 1,
                                      .state_dir = "/run/misuse", .services = MARKS_TABLE, .fence = LVS_FENCE_MARKS,
                                      .peer_macs = &mac, .peer_mac_count = 1 };
    struct lvs_node_status status = { .size = sizeof status };
    struct lvs_rule rule = { .size = sizeof rule }, each = rule;
    struct lvs_peer peer = { .size = sizeof peer };
    struct lvs_destination checked = { .size = sizeof checked, .address = "192.168.0.12:80", .weight = 0 };
    lvs_ipvs *ipvs = NULL;
    lvs_node *node = NULL;
    lvs_rules *rules = NULL;
    lvs_peers *peers = NULL;
    char *text = NULL;
    size_t found = 0;

    EXPECT(LVS_OK, lvs_ipvs_open(NULL, &ipvs));
    EXPECT(LVS_OK, lvs_node_open(NULL, &config, &node));
    EXPECT(LVS_OK, lvs_node_become_role(node, LVS_ROLE_BACKUP, NULL));
    EXPECT(LVS_OK, lvs_node_get_status(node, &status, &text));
    CHECK(status.role == LVS_ROLE_BACKUP && status.reached == 1 && status.missing == 0 && status.services == 1);
    CHECK(status.director[0] == '\0');
    lvs_text_free(text);

    EXPECT(LVS_OK, lvs_node_rules(node, &rules));
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
    EXPECT(LVS_OK, lvs_node_peers(node, &peers));
    EXPECT(LVS_ERR_NULL, lvs_peers_get(NULL, 0, &peer));
    EXPECT(LVS_ERR_NULL, lvs_peers_get(peers, 0, NULL));
    EXPECT(LVS_ERR_INDEX, lvs_peers_get(peers, 2, &peer));
    BAD_SIZE(peer, lvs_peers_get(peers, 0, &peer));
    CHECK(lvs_peers_count(peers) == 2); /* one is configured, one a neighbour of the test's */
    EXPECT(LVS_OK, lvs_peers_get(peers, 1, &peer));
    CHECK(strcmp(peer.address, "192.168.0.12") == 0 && strcmp(peer.mac, "02:00:00:00:00:12") == 0);
    EXPECT(LVS_OK, lvs_peers_get(peers, 0, &peer));

    /* The director is set, and cleared. */
    EXPECT(LVS_OK, lvs_node_set_director(node, "192.168.0.12"));
    EXPECT(LVS_OK, lvs_node_get_status(node, &status, NULL));
    CHECK(strcmp(status.director, "192.168.0.12") == 0 && status.missing == 0);
    EXPECT(LVS_OK, lvs_node_set_director(node, NULL));
    EXPECT(LVS_OK, lvs_node_get_status(node, &status, NULL));
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

    EXPECT(LVS_OK, lvs_node_restart_sync_daemons(node));
    EXPECT(LVS_OK, lvs_node_become_role(node, LVS_ROLE_MASTER, NULL));
    EXPECT(LVS_OK, lvs_node_release(node, NULL));
    lvs_rules_free(rules);
    EXPECT(LVS_OK, lvs_node_rules(node, &rules));
    CHECK(lvs_rules_count(rules) == 0);
    lvs_rules_free(rules);
    lvs_node_free(node);
    lvs_ipvs_free(ipvs);
    CHECK(strcmp(peer.address, "192.168.0.12") == 0 && strcmp(peer.mac, "02:00:00:00:00:02") == 0);
    lvs_peers_free(peers);
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
    misuse_ipvs();
    misuse_vips();
    misuse_arp();
    misuse_node();
    misuse_marks();
    two_threads();
    free(too_long);
    return 0;
}
