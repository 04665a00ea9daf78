/*
 * The library as a guest in a process that has limits and habits of its own: signals, children that are reaped by others, locked
 * memory, no clone(2), few descriptors, no /proc. Each argument is one of them; tests/kernel/capi.rs judges what is left behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <lvs_dr.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "expect.h"

static long in_kilobytes(const char *field)
{
    char line[128];
    long found = -1;
    FILE *status = fopen("/proc/self/status", "r");

    while (status && found < 0 && fgets(line, sizeof line, status))
        if (!strncmp(line, field, strlen(field)))
            found = atol(line + strlen(field));
    if (status)
        fclose(status);
    return found;
}

/* Takes on a role in a loop, as a program does that must not block. */
static int role(uint32_t wanted)
{
    const char *vip = "192.168.0.254";
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = &vip, .vip_count = 1,
                                      .state_dir = "/run/lvs-guest",
                                      .services = "-A -t 192.168.0.254:80 -s wrr\n-a -t 192.168.0.254:80 -r 192.168.0.12:80 -g -w 1\n" };
    struct lvs_report report = { .size = sizeof report };
    lvs_driver *driver;

    EXPECT(LVS_OK, lvs_driver_open(NULL, &config, &driver));
    EXPECT(LVS_OK, lvs_driver_request(driver, LVS_TASK_ROLE, wanted));
    while (report.kind != LVS_REPORT_ENDED) {
        struct pollfd wait = { .fd = lvs_driver_fd(driver), .events = POLLIN };

        /* A signal may end the wait. */
        (void)poll(&wait, 1, 1000);
        EXPECT(LVS_OK, lvs_driver_dispatch(driver));
        do
            EXPECT(LVS_OK, lvs_driver_next_report(driver, &report, NULL));
        while (report.kind == LVS_REPORT_STEP);
    }
    lvs_driver_free(driver);
    return report.status;
}

static volatile sig_atomic_t handled, elsewhere;

static void handler(int number)
{
    (void)number;
    handled = 1;
    if (syscall(SYS_gettid) != getpid())
        elsewhere++;
}

/* A timer that expires all the time: its handler runs in the program's only thread. */
static void signals(void)
{
    struct itimerval often = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
    lvs_ipvs *ipvs;

    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    /* A namespace of another one's: each call has a thread. */
    EXPECT(LVS_OK, lvs_ipvs_open("/run/netns/other", &ipvs));
    for (int i = 0; i < 100; i++) {
        char *table;

        EXPECT(LVS_OK, lvs_ipvs_table(ipvs, &table));
        lvs_text_free(table);
    }
    lvs_ipvs_free(ipvs);
    EXPECT(LVS_OK, role(LVS_ROLE_MASTER));
    setitimer(ITIMER_REAL, &never, NULL);
    printf("handled %d, elsewhere %d\n", (int)handled, (int)elsewhere);
}

/* No process or thread can be made. */
static void no_clone(void)
{
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fork, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_vfork, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    };
    struct sock_fprog filter = { sizeof steps / sizeof *steps, steps };
    lvs_ipvs *ipvs = NULL;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
        perror("seccomp");
        exit(EXIT_FAILURE);
    }
    EXPECT(LVS_ERR_SYSTEM, lvs_ipvs_open("/run/netns/other", &ipvs));
    printf("errno %d\n", lvs_last_errno());
    /* Its own namespace needs no thread. The rules for its own requests need a program: without, the role is reached, and warned of. */
    EXPECT(LVS_OK, role(LVS_ROLE_BACKUP));
    EXPECT(LVS_OK, role(LVS_ROLE_MASTER));
}

/* Looks whether the kernel has a scheduler that no service has yet. */
static void audit(void)
{
    const char *vip = "192.168.0.254";
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = &vip, .vip_count = 1,
                                      .state_dir = "/run/lvs-guest",
                                      .services = "-A -t 192.168.0.254:80 -s sed\n-A -t 192.168.0.254:81 -s no-such-one\n" };
    struct lvs_finding finding = { .size = sizeof finding };
    lvs_findings *findings;
    lvs_node *node;

    EXPECT(LVS_OK, lvs_node_open(NULL, &config, &node));
    EXPECT(LVS_OK, lvs_node_audit(node, NULL, &findings));
    for (size_t i = 0; i < lvs_findings_count(findings); i++) {
        EXPECT(LVS_OK, lvs_findings_get(findings, i, &finding));
        if (!strcmp(finding.kind, "service-refused"))
            printf("%s\n", finding.reason);
    }
    lvs_findings_free(findings);
    lvs_node_free(node);
}

static void locked_memory(void)
{
    long locked, resident;

    if (mlockall(MCL_CURRENT | MCL_FUTURE)) {
        perror("mlockall");
        exit(EXIT_FAILURE);
    }
    locked = in_kilobytes("VmLck:");
    resident = in_kilobytes("VmRSS:");
    EXPECT(LVS_OK, role(LVS_ROLE_BACKUP));
    EXPECT(LVS_OK, role(LVS_ROLE_MASTER));
    printf("locked %ld kB, of which %ld kB are resident\n", in_kilobytes("VmLck:") - locked, in_kilobytes("VmRSS:") - resident);
}

static void few_descriptors(void)
{
    struct rlimit few = { 4, 4 };
    const char *vip = "192.168.0.254";
    struct lvs_node_config config = { .size = sizeof config, .interface = "eth0", .vips = &vip, .vip_count = 1, .state_dir = "/run/lvs-guest" };
    lvs_driver *driver = NULL;

    setrlimit(RLIMIT_NOFILE, &few);
    EXPECT(LVS_ERR_SYSTEM, lvs_driver_open(NULL, &config, &driver));
    if (lvs_last_errno() != EMFILE)
        exit(3);
}

static void no_proc(void)
{
    lvs_ipvs *ipvs = NULL;

    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || umount2("/proc", MNT_DETACH)) {
        perror("umount");
        exit(EXIT_FAILURE);
    }
    EXPECT(LVS_ERR_SYSTEM, lvs_ipvs_open(NULL, &ipvs));
    if (lvs_last_errno() != ENOENT)
        exit(3);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "signals"))
            signals();
        else if (!strcmp(argv[i], "children")) {
            /* The kernel reaps them at once: nobody learns their status. */
            signal(SIGCHLD, SIG_IGN);
            EXPECT(LVS_OK, role(LVS_ROLE_MASTER));
        } else if (!strcmp(argv[i], "no-clone"))
            no_clone();
        else if (!strcmp(argv[i], "audit"))
            audit();
        else if (!strcmp(argv[i], "locked-memory"))
            locked_memory();
        else if (!strcmp(argv[i], "few-descriptors"))
            few_descriptors();
        else if (!strcmp(argv[i], "no-proc"))
            no_proc();
        else
            return 4;
    }
    return EXIT_SUCCESS;
}
