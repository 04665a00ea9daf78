/*
 * What IPVS has beside its services: counters, timeouts, sync daemons, settings, connections. Each argument is one step, and tests/kernel/capi.rs
 * judges with ipvsadm what it has done.
 */
#include <errno.h>
#include <lvs_dr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "expect.h"

#define WEB "tcp 192.0.2.254:80"
#define SERVER "192.0.2.12:80"

static void show(const char *what, const struct lvs_counters *found)
{
    printf("%s: %llu connections, %llu active, %llu inactive, %llu templates\n", what, (unsigned long long)found->connections,
           (unsigned long long)found->active, (unsigned long long)found->inactive, (unsigned long long)found->persistent);
}

static void counters(lvs_ipvs *ipvs)
{
    struct lvs_counters found = { .size = sizeof found };
    lvs_services *services;
    lvs_destinations *destinations;

    EXPECT(LVS_OK, lvs_ipvs_totals(ipvs, &found));
    show("all", &found);
    EXPECT(LVS_OK, lvs_ipvs_service(ipvs, WEB, &services));
    EXPECT(LVS_OK, lvs_services_counters(services, 0, &found));
    EXPECT(LVS_ERR_INDEX, lvs_services_counters(services, 1, &found));
    show(WEB, &found);
    lvs_services_free(services);
    EXPECT(LVS_OK, lvs_ipvs_destination(ipvs, WEB, SERVER, &destinations));
    EXPECT(LVS_OK, lvs_destinations_counters(destinations, 0, &found));
    show(SERVER, &found);
    lvs_destinations_free(destinations);
    EXPECT(LVS_ERR_NO_SERVICE, lvs_ipvs_service(ipvs, "tcp 192.0.2.9:80", &services));
    EXPECT(LVS_ERR_NO_DESTINATION, lvs_ipvs_destination(ipvs, WEB, "192.0.2.9:80", &destinations));
}

static void daemons(lvs_ipvs *ipvs)
{
    struct lvs_sync_daemon found = { .size = sizeof found };
    lvs_sync_daemons *list;

    EXPECT(LVS_OK, lvs_ipvs_sync_daemons(ipvs, &list));
    for (size_t i = 0; i < lvs_sync_daemons_count(list); i++) {
        EXPECT(LVS_OK, lvs_sync_daemons_get(list, i, &found));
        printf("%u on %s, id %u, group %s, port %u, ttl %u\n", (unsigned)found.role, found.interface, (unsigned)found.sync_id,
               found.group, (unsigned)found.port, (unsigned)found.ttl);
    }
    EXPECT(LVS_ERR_INDEX, lvs_sync_daemons_get(list, 9, &found));
    lvs_sync_daemons_free(list);
}

static void connections(lvs_ipvs *ipvs)
{
    struct lvs_connection found = { .size = sizeof found };
    lvs_connections *list;

    EXPECT(LVS_OK, lvs_ipvs_connections(ipvs, &list));
    for (size_t i = 0; i < lvs_connections_count(list); i++) {
        EXPECT(LVS_OK, lvs_connections_get(list, i, &found));
        printf("%u %s -> %s -> %s %s, origin %u, template %u\n", (unsigned)found.protocol, found.client, found.service,
               found.destination, found.state, (unsigned)found.origin, (unsigned)found.is_template);
    }
    lvs_connections_free(list);
}

/* What is said of the rules of an owner on eth0. */
static void rules(lvs_marks *marks)
{
    struct lvs_rule found = { .size = sizeof found };
    lvs_rules *list;

    EXPECT(LVS_OK, lvs_marks_rules(marks, "eth0", &list));
    for (size_t i = 0; i < lvs_rules_count(list); i++) {
        EXPECT(LVS_OK, lvs_rules_get(list, i, &found));
        printf("%s %s %u %s %u %u\n", found.interface, found.vip, (unsigned)found.packets, found.mac ? found.mac : "-",
               (unsigned)found.port, (unsigned)found.mark);
    }
    lvs_rules_free(list);
}

static void mark(void)
{
    struct lvs_rule peer = { .size = sizeof peer, .interface = "eth0", .vip = "192.0.2.254", .packets = LVS_PACKETS_FROM,
                             .mac = "02:00:00:00:00:12", .mark = 7 };
    struct lvs_rule later = { .size = sizeof later, .interface = "eth0", .vip = "192.0.2.254", .packets = LVS_PACKETS_LATER,
                              .port = 80, .mark = 8 };
    struct lvs_rule wrong = peer;
    lvs_marks *marks, *other;
    int made = 7, removed = 7;

    EXPECT(LVS_OK, lvs_marks_supported());
    EXPECT(LVS_OK, lvs_marks_open(NULL, 71, &marks));
    EXPECT(LVS_OK, lvs_marks_open(NULL, 72, &other));
    EXPECT(LVS_OK, lvs_marks_add(marks, &peer, &made));
    if (made != 1)
        exit(5);
    EXPECT(LVS_OK, lvs_marks_add(marks, &later, &made));
    EXPECT(LVS_OK, lvs_marks_add(marks, &later, &made));
    if (made != 0)
        exit(6);
    rules(marks);
    rules(other);
    EXPECT(LVS_OK, lvs_marks_remove(other, &peer, &removed));
    if (removed != 0)
        exit(7);
    peer.mark = 9;
    EXPECT(LVS_OK, lvs_marks_add(marks, &peer, NULL));
    EXPECT(LVS_OK, lvs_marks_remove(marks, &later, &removed));
    if (removed != 1)
        exit(8);
    rules(marks);
    wrong.interface = "eth9";
    EXPECT(LVS_ERR_NO_INTERFACE, lvs_marks_add(marks, &wrong, NULL));
    EXPECT(LVS_OK, lvs_marks_clear(other, "eth0", 1));
    lvs_marks_free(other);
    lvs_marks_free(marks);
}

static void unmark(void)
{
    lvs_marks *marks;

    EXPECT(LVS_OK, lvs_marks_open(NULL, 71, &marks));
    EXPECT(LVS_OK, lvs_marks_clear(marks, "eth0", 1));
    rules(marks);
    lvs_marks_free(marks);
}

int main(int argc, char **argv)
{
    struct lvs_sync_daemon master = {
        .size = sizeof master, .role = LVS_SYNC_MASTER, .interface = "eth0", .sync_id = 7, .group = "224.0.0.99", .port = 8850, .ttl = 2
    };
    struct lvs_timeouts timeouts = { .size = sizeof timeouts, .tcp = 901, .udp = 302 };
    lvs_ipvs *ipvs;

    EXPECT(LVS_OK, lvs_ipvs_open(NULL, &ipvs));
    for (int i = 1; i < argc; i++) {
        const char *step = argv[i];

        if (!strcmp(step, "start"))
            EXPECT(LVS_OK, lvs_ipvs_start_sync_daemon(ipvs, &master));
        else if (!strcmp(step, "start-again")) {
            EXPECT(LVS_ERR_DAEMON_RUNS, lvs_ipvs_start_sync_daemon(ipvs, &master));
            if (lvs_last_errno() != EEXIST)
                return 2;
        } else if (!strcmp(step, "stop"))
            EXPECT(LVS_OK, lvs_ipvs_stop_sync_daemon(ipvs, LVS_SYNC_MASTER));
        else if (!strcmp(step, "stop-again")) {
            EXPECT(LVS_ERR_NO_DAEMON, lvs_ipvs_stop_sync_daemon(ipvs, LVS_SYNC_MASTER));
            if (lvs_last_errno() != ESRCH)
                return 3;
            EXPECT(LVS_ERR_INVALID, lvs_ipvs_stop_sync_daemon(ipvs, 3));
        } else if (!strcmp(step, "daemons"))
            daemons(ipvs);
        else if (!strcmp(step, "timeouts")) {
            EXPECT(LVS_OK, lvs_ipvs_set_timeouts(ipvs, &timeouts));
            EXPECT(LVS_OK, lvs_ipvs_timeouts(ipvs, &timeouts));
            printf("%u %u %u\n", (unsigned)timeouts.tcp, (unsigned)timeouts.tcp_fin, (unsigned)timeouts.udp);
            timeouts.tcp = 2678401;
            EXPECT(LVS_ERR_INVALID, lvs_ipvs_set_timeouts(ipvs, &timeouts));
        } else if (!strcmp(step, "weight")) {
            EXPECT(LVS_OK, lvs_ipvs_set_weight(ipvs, WEB, SERVER, 9));
            EXPECT(LVS_ERR_NO_DESTINATION, lvs_ipvs_set_weight(ipvs, WEB, "192.0.2.9:80", 9));
            EXPECT(LVS_ERR_INVALID, lvs_ipvs_set_weight(ipvs, WEB, SERVER, 0x80000000u));
        } else if (!strcmp(step, "drain")) {
            struct lvs_drained drained = { .size = sizeof drained };

            EXPECT(LVS_OK, lvs_ipvs_drain(ipvs, WEB, SERVER, 300, &drained));
            printf("had weight %u, %u active, empty %u\n", (unsigned)drained.weight, (unsigned)drained.active, (unsigned)drained.empty);
        } else if (!strcmp(step, "settings")) {
            char *value;

            EXPECT(LVS_OK, lvs_ipvs_set_setting(ipvs, "sloppy_tcp", "1"));
            EXPECT(LVS_OK, lvs_ipvs_set_setting(ipvs, "sync_threshold", "2 50"));
            EXPECT(LVS_OK, lvs_ipvs_setting(ipvs, "sync_threshold", &value));
            printf("%s\n", value);
            lvs_text_free(value);
        } else if (!strcmp(step, "connections"))
            connections(ipvs);
        else if (!strcmp(step, "counters"))
            counters(ipvs);
        else if (!strcmp(step, "zero")) {
            EXPECT(LVS_OK, lvs_ipvs_zero(ipvs, WEB));
            EXPECT(LVS_OK, lvs_ipvs_zero(ipvs, NULL));
            EXPECT(LVS_ERR_NO_SERVICE, lvs_ipvs_zero(ipvs, "tcp 192.0.2.9:80"));
        } else if (!strcmp(step, "mark"))
            mark();
        else if (!strcmp(step, "unmark"))
            unmark();
        else if (!strcmp(step, "flush"))
            EXPECT(LVS_OK, lvs_ipvs_flush(ipvs));
        else
            return 4;
    }
    lvs_ipvs_free(ipvs);
    return EXIT_SUCCESS;
}
