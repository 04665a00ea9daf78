/*
 * A node in a program with a loop of its own, which has something to do every 10 ms: takes on roles one after the other, prints
 * each step, and at the end how long the loop was kept from its work.
 *
 *     loop INTERFACE VIP SERVER ROLE...            loop eth0 192.168.0.254 192.168.0.12 backup master backup
 */
#define _POSIX_C_SOURCE 200809L
#include <lvs_dr.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TICK 10.0 /* ms */

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int failed(const char *what)
{
    char text[512];

    lvs_last_error_message(text, sizeof text);
    fprintf(stderr, "loop: %s: %s (%s)\n", what, text, lvs_status_name(lvs_last_status()));
    return EXIT_FAILURE;
}

/* Prints what has happened. Returns 1 when the task has ended. */
static int take_reports(lvs_driver *driver, int *code)
{
    struct lvs_report report = { .size = sizeof report };
    char *text;

    while (lvs_driver_next_report(driver, &report, &text) == LVS_OK && report.kind != LVS_REPORT_NONE) {
        int ended = report.kind == LVS_REPORT_ENDED;

        if (!ended)
            printf("%s\n", text);
        else if (report.status != LVS_OK) {
            fprintf(stderr, "loop: %s (%s)\n", text, lvs_status_name(report.status));
            *code = EXIT_FAILURE;
        }
        lvs_text_free(text);
        if (ended)
            return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    lvs_driver *driver;
    double longest = 0, late = 0, tick;
    int code = EXIT_SUCCESS;

    if (argc < 5) {
        fprintf(stderr, "usage: loop INTERFACE VIP SERVER master|backup|fault|stop...\n");
        return 2;
    }
    char services[512];
    const char *vip = argv[2];
    snprintf(services, sizeof services, "-A -t %s:80 -s wrr\n-a -t %s:80 -r %s:80 -g -w 1\n", vip, vip, argv[3]);
    struct lvs_node_config config = { .size = sizeof config, .interface = argv[1], .vips = &vip, .vip_count = 1,
                                      .state_dir = "/run/lvs-loop", .services = services };

    if (lvs_driver_open(NULL, &config, &driver) != LVS_OK)
        return failed("open the node");
    tick = now() + TICK;
    for (char **name = argv + 4; *name && code == EXIT_SUCCESS; name++) {
        uint32_t role;

        if (lvs_role_from_text(*name, &role) != LVS_OK ||
            lvs_driver_request(driver, LVS_TASK_ROLE, role) != LVS_OK) {
            code = failed(*name);
            break;
        }
        printf("%s:\n", *name);
        for (;;) {
            struct pollfd fd = { .fd = lvs_driver_fd(driver), .events = POLLIN };
            double before = now();

            if (before >= tick) {
                /* What the program itself has to do. */
                late = before - tick > late ? before - tick : late;
                tick = before + TICK;
            }
            if (poll(&fd, 1, (int)(tick - before) + 1) <= 0)
                continue;
            before = now();
            if (lvs_driver_dispatch(driver) != LVS_OK) {
                code = failed("dispatch");
                break;
            }
            longest = now() - before > longest ? now() - before : longest;
            if (take_reports(driver, &code))
                break;
        }
    }
    printf("the longest dispatch took %.1f ms, the latest tick was %.1f ms late\n", longest, late);
    lvs_driver_free(driver);
    return code;
}
