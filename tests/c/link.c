/*
 * What is beside IPVS: neighbours, notifications, marks of the node's own requests, classifiers, routes that are advertised, and a
 * driver's tasks. Each argument is one step, and tests/kernel/capi.rs judges with ip, tc, iptables and ipvsadm what it has done.
 */
#include <lvs_dr.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "expect.h"

#define VIP "192.168.0.254"
#define SERVICES                                                                           \
    "-A -t " VIP ":80 -s mh -b mh-fallback,mh-port\n-a -t " VIP ":80 -r 192.168.0.11:80 -g -w 1\n" \
    "-a -t " VIP ":80 -r 192.168.0.12:80 -g -w 1\n"

static void change(const char *command)
{
    if (system(command) != 0) {
        fprintf(stderr, "%s failed\n", command);
        exit(EXIT_FAILURE);
    }
}

/* Reads what there is, and waits for what is to come. */
static void monitor(void)
{
    struct lvs_event event = { .size = sizeof event };
    lvs_monitor *monitor;
    int more = 1;

    EXPECT(LVS_OK, lvs_monitor_open(NULL, &monitor));
    EXPECT(LVS_OK, lvs_monitor_next(monitor, &event));
    if (event.kind != LVS_EVENT_NONE)
        exit(5);
    change("ip neigh replace 192.168.0.77 lladdr 02:00:00:00:00:77 nud permanent dev eth0");
    change("ip neigh del 192.168.0.77 dev eth0");
    change("ip addr add 2001:db8::78/64 dev eth0 nodad");
    change("ip addr del 2001:db8::78/64 dev eth0");
    change("ip link add early type dummy");
    change("ip link set early name seen");
    change("ip link del seen");
    while (more) {
        struct pollfd wait = { .fd = lvs_monitor_fd(monitor), .events = POLLIN };

        if (poll(&wait, 1, 10000) != 1)
            exit(6);
        for (;;) {
            EXPECT(LVS_OK, lvs_monitor_next(monitor, &event));
            if (event.kind == LVS_EVENT_NONE)
                break;
            if (strcmp(event.interface, "lo"))
                printf("%u %u %#x %s %s %s\n", (unsigned)event.kind, (unsigned)(event.index != 0), (unsigned)event.state, event.interface,
                       event.mac, event.address);
            if (event.kind == LVS_EVENT_INTERFACE_GONE && !strcmp(event.interface, "seen"))
                more = 0;
        }
    }
    lvs_monitor_free(monitor);
}

static void texts(const char *what, lvs_texts *list)
{
    printf("%s:", what);
    for (size_t i = 0; i < lvs_texts_count(list); i++)
        printf(" %s", lvs_texts_get(list, i));
    printf("\n");
    lvs_texts_free(list);
}

static void neighbours(void)
{
    struct lvs_neighbour found = { .size = sizeof found };
    lvs_neighbours *list;
    lvs_texts *macs;
    lvs_marks *marks;
    char *interface, *gateway;

    EXPECT(LVS_OK, lvs_marks_open(NULL, 71, &marks));
    EXPECT(LVS_OK, lvs_marks_neighbours(marks, &list));
    for (size_t i = 0; i < lvs_neighbours_count(list); i++) {
        EXPECT(LVS_OK, lvs_neighbours_get(list, i, &found));
        if (!strcmp(found.address, "192.168.0.12"))
            printf("%s %s %s %#x %u\n", found.address, found.interface, found.mac, (unsigned)found.state, (unsigned)found.is_router);
    }
    lvs_neighbours_free(list);
    EXPECT(LVS_OK, lvs_marks_resolve(marks, "192.168.0.66", "eth0"));
    EXPECT(LVS_ERR_NO_INTERFACE, lvs_marks_resolve(marks, "192.168.0.66", "no-such-one"));
    EXPECT(LVS_OK, lvs_marks_macs(marks, "eth0", &macs));
    texts("own", macs);
    /* The other end of the pair is this host's too, and answers. */
    EXPECT(LVS_OK, lvs_who_has(NULL, "eth0", "192.168.0.11", 2000, 0, &macs));
    texts("answers", macs);
    EXPECT(LVS_OK, lvs_who_has(NULL, "eth0", "192.168.0.99", 50, 0, &macs));
    texts("silent", macs);
    EXPECT(LVS_OK, lvs_marks_gateways(marks, &macs));
    texts("gateways", macs);
    EXPECT(LVS_OK, lvs_marks_route_to(marks, "203.0.113.7", &interface, &gateway));
    printf("through %s, %s\n", interface, gateway);
    lvs_text_free(interface);
    lvs_text_free(gateway);
    EXPECT(LVS_OK, lvs_marks_route_to(marks, "192.168.0.12", &interface, &gateway));
    printf("through %s, %s\n", interface, gateway ? gateway : "on the link");
    lvs_text_free(interface);
    lvs_text_free(gateway);
    EXPECT(LVS_OK, lvs_marks_route_to(marks, "2001:db8:1::1", &interface, &gateway));
    if (interface || gateway)
        exit(7);
    lvs_marks_free(marks);
}

/* Marks the node's own requests for as many of two VIPs. */
static void own_requests(size_t count)
{
    struct lvs_local_mark wanted[2] = { { .size = sizeof *wanted, .vip = VIP, .mark = 77 },
                                        { .size = sizeof *wanted, .vip = "2001:db8::fe", .mark = 78 } };
    struct lvs_local_mark each = { .size = sizeof each };
    lvs_local_marks *marks;
    lvs_marked *found, *again;
    int removed;

    EXPECT(LVS_OK, lvs_local_marks_open(NULL, &marks));
    if (count == 0) {
        EXPECT(LVS_OK, lvs_local_marks_remove(marks, &removed));
        printf("removed %d", removed);
        EXPECT(LVS_OK, lvs_local_marks_remove(marks, &removed));
        printf(", then %d\n", removed);
    } else {
        EXPECT(LVS_OK, lvs_local_marks_apply(marks, wanted, count, &found));
        EXPECT(LVS_OK, lvs_local_marks_apply(marks, wanted, count, NULL));
        EXPECT(LVS_OK, lvs_local_marks_observe(marks, &again));
        if (lvs_marked_count(found) != lvs_marked_count(again) || lvs_marked_backend(found) != lvs_marked_backend(again))
            exit(8);
        for (size_t i = 0; i < lvs_marked_count(found); i++) {
            EXPECT(LVS_OK, lvs_marked_get(found, i, &each));
            printf("%s %u\n", each.vip, (unsigned)each.mark);
        }
        printf("backend %u, %s\n", (unsigned)lvs_marked_backend(found), lvs_marked_reason(found) ? "not all" : "all");
        lvs_marked_free(found);
        lvs_marked_free(again);
    }
    lvs_local_marks_free(marks);
}

static void show(const lvs_classifiers *list)
{
    struct lvs_attached attached = { .size = sizeof attached };
    struct lvs_classified service = { .size = sizeof service };
    struct lvs_classifier_peer peer = { .size = sizeof peer };

    for (size_t i = 0; i < lvs_classifiers_count(list); i++) {
        EXPECT(LVS_OK, lvs_classifiers_get(list, i, &attached));
        printf("%s, current %u, %llu openings, %llu local\n", attached.interface, (unsigned)attached.is_current,
               (unsigned long long)attached.openings, (unsigned long long)attached.local);
        for (size_t j = 0; j < attached.services; j++) {
            EXPECT(LVS_OK, lvs_classifiers_service(list, i, j, &service));
            printf("  %s %u %u %u\n", service.service, (unsigned)service.local, (unsigned)service.elsewhere, (unsigned)service.before);
        }
        for (size_t j = 0; j < attached.peers; j++) {
            EXPECT(LVS_OK, lvs_classifiers_peer(list, i, j, &peer));
            printf("  %s %u\n", peer.mac, (unsigned)peer.number);
        }
    }
}

static void classify(const char *step)
{
    struct lvs_classified services[2] = { { .size = sizeof *services, .service = VIP ":80", .local = 11, .elsewhere = 12, .before = 13 },
                                          { .size = sizeof *services, .service = "[2001:db8::fe]:81", .local = 14 } };
    struct lvs_classifier_peer peer = { .size = sizeof peer, .mac = "02:00:00:00:00:12", .number = 3 };
    lvs_classifier *classifier;
    lvs_classifiers *found;

    EXPECT(LVS_OK, lvs_classifier_open(NULL, 71, &classifier));
    if (!strcmp(step, "classify")) {
        EXPECT(LVS_OK, lvs_classifier_supported());
        EXPECT(LVS_OK, lvs_classifier_observe(classifier, "eth0", &found));
        if (lvs_classifiers_count(found) != 0)
            exit(9);
        lvs_classifiers_free(found);
        EXPECT(LVS_OK, lvs_classifier_apply(classifier, "eth0", services, 2, &peer, 1));
        EXPECT(LVS_ERR_NO_INTERFACE, lvs_classifier_apply(classifier, "no-such-one", services, 2, &peer, 1));
    } else if (!strcmp(step, "unclassify"))
        EXPECT(LVS_OK, lvs_classifier_remove(classifier, "eth0"));
    EXPECT(LVS_OK, lvs_classifier_observe(classifier, "eth0", &found));
    lvs_classifier_free(classifier);
    show(found);
    lvs_classifiers_free(found);
}

static void advertise(int is_wanted)
{
    lvs_vips *vips;
    lvs_texts *list;
    int changed;

    EXPECT(LVS_OK, lvs_vips_open(NULL, &vips));
    if (is_wanted) {
        EXPECT(LVS_OK, lvs_vips_add(vips, "192.0.2.7", "eth0", NULL));
        EXPECT(LVS_OK, lvs_vips_place(vips, "192.0.2.7", "lo", &changed));
        printf("placed %d", changed);
        EXPECT(LVS_OK, lvs_vips_place(vips, "192.0.2.7", "lo", &changed));
        printf(", then %d\n", changed);
        EXPECT(LVS_OK, lvs_vips_advertise(vips, "192.0.2.7"));
        EXPECT(LVS_OK, lvs_vips_advertise(vips, "192.0.2.7"));
    } else {
        EXPECT(LVS_OK, lvs_vips_unadvertise(vips, "192.0.2.7"));
        EXPECT(LVS_OK, lvs_vips_unadvertise(vips, "192.0.2.7"));
    }
    EXPECT(LVS_OK, lvs_vips_advertised(vips, &list));
    texts("advertised", list);
    lvs_vips_free(vips);
}

/* The reports of one task, up to its end. */
static void until_ended(lvs_driver *driver)
{
    struct lvs_report report = { .size = sizeof report };

    while (report.kind != LVS_REPORT_ENDED) {
        struct pollfd wait = { .fd = lvs_driver_fd(driver), .events = POLLIN };

        if (poll(&wait, 1, 30000) != 1)
            exit(10);
        EXPECT(LVS_OK, lvs_driver_dispatch(driver));
        do
            EXPECT(LVS_OK, lvs_driver_next_report(driver, &report, NULL));
        while (report.kind == LVS_REPORT_STEP);
    }
    printf("task %u, role %u, %s\n", (unsigned)report.task, (unsigned)report.role, lvs_status_name(report.status));
}

static void status_of(lvs_driver *driver)
{
    struct lvs_failure failure = { .size = sizeof failure };
    lvs_status *status;
    uint64_t table, order;
    uint32_t weight;
    int drained;

    EXPECT(LVS_OK, lvs_driver_read_status(driver, &status));
    EXPECT(LVS_OK, lvs_status_drained(status, "tcp " VIP ":80", "192.168.0.12:80", &drained, &weight));
    EXPECT(LVS_OK, lvs_status_digest(status, &table, &order));
    EXPECT(LVS_OK, lvs_status_failure(status, &failure));
    printf("drained %d, had weight %u, digest %d, %zu advertised, first of the interfaces %s, %s\n", drained, (unsigned)weight,
           table != 0 && order != 0, lvs_texts_count(lvs_status_advertised(status)), lvs_texts_get(lvs_status_interfaces(status), 0),
           failure.task ? failure.task : "no failure");
    show(lvs_status_classifiers(status));
    lvs_status_free(status);
}

/* A node behind routers, whose weights and findings are the loop's too. */
static void driver(void)
{
    const char *vip = VIP;
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = &vip, .vip_count = 1, .state_dir = "/run/lvs-link",
                                      .services = SERVICES, .vip_owner = LVS_VIP_OWNER_ROUTES };
    lvs_driver *driver;

    EXPECT(LVS_OK, lvs_driver_open(NULL, &config, &driver));
    EXPECT(LVS_OK, lvs_driver_request(driver, LVS_TASK_ROLE, LVS_ROLE_MASTER));
    until_ended(driver);
    status_of(driver);
    EXPECT(LVS_OK, lvs_driver_request_weigh(driver, "192.168.0.12", LVS_WEIGH_DRAIN, 0));
    until_ended(driver);
    status_of(driver);
    EXPECT(LVS_OK, lvs_driver_request_weigh(driver, "192.168.0.12", LVS_WEIGH_SET, 5));
    until_ended(driver);
    change("sysctl -qw net.ipv4.vs.sloppy_tcp=0");
    EXPECT(LVS_OK, lvs_driver_request(driver, LVS_TASK_FIX, 0));
    until_ended(driver);
    change("ipvsadm -e -t " VIP ":80 -r 192.168.0.11:80 -g -w 9");
    EXPECT(LVS_OK, lvs_driver_request(driver, LVS_TASK_APPLY, 0));
    until_ended(driver);
    change("ipvsadm -Sn | grep -- '-t " VIP ":80 -r 192.168.0.11:80 -g -w 9'");
    EXPECT(LVS_OK, lvs_driver_request(driver, LVS_TASK_APPLY_ALL, 0));
    until_ended(driver);
    lvs_driver_free(driver);
}

int main(int argc, char **argv)
{
    /* What it runs prints in between. */
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int i = 1; i < argc; i++) {
        const char *step = argv[i];

        if (!strcmp(step, "monitor"))
            monitor();
        else if (!strcmp(step, "neighbours"))
            neighbours();
        else if (!strcmp(step, "own-requests"))
            own_requests(2);
        else if (!strcmp(step, "one-own-request"))
            own_requests(1);
        else if (!strcmp(step, "no-own-requests"))
            own_requests(0);
        else if (!strcmp(step, "classify") || !strcmp(step, "classified") || !strcmp(step, "unclassify"))
            classify(step);
        else if (!strcmp(step, "advertise"))
            advertise(1);
        else if (!strcmp(step, "unadvertise"))
            advertise(0);
        else if (!strcmp(step, "driver"))
            driver();
        else
            return 4;
    }
    return EXIT_SUCCESS;
}
