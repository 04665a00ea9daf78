/* The requests of benches/tables in bare C: what the kernel asks of any program.
 *
 * floor SERVICES DESTINATIONS STEP...: carries out the steps in their order on the table of cases.rs, and prints
 * a line "STEP NANOSECONDS" for each. The steps:
 *   add              all services and destinations, 256 requests in a send, the last acknowledged
 *   add-one          one more destination of the first service
 *   list             every field: services by one dump, destinations by a dump for each service
 *   configuration    services by one dump, destinations by IP_VS_SO_GET_DESTS, which has no 64-bit counters
 *   proc             /proc/net/ip_vs, not decoded
 *   weights          sets the weight of every hundredth destination
 *   delete           the services, the last first; the kernel removes their destinations
 *   delete-in-order  the services, the first first
 *   words            splits the text of the table into words and keeps nothing; standard input
 * No step decodes what it reads. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/ip_vs.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 256, SHORT = 8192, WEIGHT = 1, OTHER_WEIGHT = 8 };

static unsigned services, destinations;
static int control;             /* the generic netlink socket */
static uint16_t family;
static uint32_t sequence;
static unsigned char sent[1 << 20], received[1 << 17];
static size_t used;             /* octets of `sent` */
static struct nlmsghdr *last;   /* the last request in `sent` */
static unsigned requests;       /* how many there are in `sent` */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* The table. The same addresses are in cases.rs. */

static uint32_t service_address(unsigned i) { return htonl(198u << 24 | 18u << 16 | (i / 250) << 8 | (1 + i % 250)); }

static uint32_t destination_address(unsigned i) { return htonl(10u << 24 | (i / 250) << 8 | (1 + i % 250)); }

/* Writing requests */

static void attribute(uint16_t type, const void *value, uint16_t size)
{
    struct nlattr header = { .nla_len = NLA_HDRLEN + size, .nla_type = type };
    memcpy(sent + used, &header, sizeof header);
    memcpy(sent + used + NLA_HDRLEN, value, size);
    memset(sent + used + NLA_HDRLEN + size, 0, NLA_ALIGN(size) - size);
    used += NLA_HDRLEN + NLA_ALIGN(size);
}

static void number(uint16_t type, uint32_t value) { attribute(type, &value, sizeof value); }

static void short_number(uint16_t type, uint16_t value) { attribute(type, &value, sizeof value); }

static void address(uint16_t type, uint32_t value)
{
    uint32_t wide[4] = { value };
    attribute(type, wide, sizeof wide);
}

static struct nlattr *begin(uint16_t type)
{
    struct nlattr *nest = (struct nlattr *)(sent + used);
    nest->nla_type = type | NLA_F_NESTED;
    used += NLA_HDRLEN;
    return nest;
}

static void end(struct nlattr *nest) { nest->nla_len = sent + used - (unsigned char *)nest; }

static void request(uint16_t type, uint8_t command, uint16_t flags)
{
    last = (struct nlmsghdr *)(sent + used);
    *last = (struct nlmsghdr){ .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = ++sequence };
    *(struct genlmsghdr *)NLMSG_DATA(last) = (struct genlmsghdr){ .cmd = command, .version = 1 };
    used += NLMSG_HDRLEN + GENL_HDRLEN;
}

static void finish(void)
{
    last->nlmsg_len = sent + used - (unsigned char *)last;
    requests++;
}

static void put_service(unsigned i, int whole)
{
    struct nlattr *nest = begin(IPVS_CMD_ATTR_SERVICE);
    short_number(IPVS_SVC_ATTR_AF, AF_INET);
    short_number(IPVS_SVC_ATTR_PROTOCOL, IPPROTO_TCP);
    address(IPVS_SVC_ATTR_ADDR, service_address(i));
    short_number(IPVS_SVC_ATTR_PORT, htons(80));
    if (whole) {
        struct ip_vs_flags flags = { .flags = 0, .mask = ~0u };
        attribute(IPVS_SVC_ATTR_SCHED_NAME, "wrr", sizeof "wrr");
        attribute(IPVS_SVC_ATTR_FLAGS, &flags, sizeof flags);
        number(IPVS_SVC_ATTR_TIMEOUT, 0);
        number(IPVS_SVC_ATTR_NETMASK, ~0u);
    }
    end(nest);
}

static void put_destination(unsigned i, uint32_t weight)
{
    struct nlattr *nest = begin(IPVS_CMD_ATTR_DEST);
    short_number(IPVS_DEST_ATTR_ADDR_FAMILY, AF_INET);
    address(IPVS_DEST_ATTR_ADDR, destination_address(i));
    short_number(IPVS_DEST_ATTR_PORT, htons(80));
    number(IPVS_DEST_ATTR_FWD_METHOD, IP_VS_CONN_F_DROUTE);
    number(IPVS_DEST_ATTR_WEIGHT, weight);
    number(IPVS_DEST_ATTR_U_THRESH, 0);
    number(IPVS_DEST_ATTR_L_THRESH, 0);
    end(nest);
}

/* Sending and receiving */

static void send_all(int socket)
{
    if (send(socket, sent, used, 0) != (ssize_t)used) fail("send");
    used = requests = 0;
}

static void refuse(const struct nlmsghdr *answer)
{
    const struct nlmsgerr *error = NLMSG_DATA(answer);
    errno = -error->error;
    if (errno) fail("a request");
}

/* Receives until the answer that ends a dump, or acknowledges the last request of a batch. */
static void receive_all(int socket, size_t capacity, uint32_t until)
{
    for (;;) {
        ssize_t size = recv(socket, received, capacity, 0);
        if (size < 0) fail("recv");
        if (size > SHORT / 2) capacity = sizeof received;     /* a long list */
        for (struct nlmsghdr *answer = (void *)received; NLMSG_OK(answer, size); answer = NLMSG_NEXT(answer, size)) {
            if (answer->nlmsg_type == NLMSG_ERROR) {
                refuse(answer);
                if (answer->nlmsg_seq == until) return;
            }
            if (answer->nlmsg_type == NLMSG_DONE) return;
        }
    }
}

static void flush_batch(void)
{
    if (!requests) return;
    uint32_t until = last->nlmsg_seq;
    last->nlmsg_flags |= NLM_F_ACK;
    send_all(control);
    receive_all(control, sizeof received, until);
}

static void queue(void)
{
    finish();
    if (requests == BATCH) flush_batch();
}

static int open_socket(void)
{
    struct sockaddr_nl local = { .nl_family = AF_NETLINK };
    int opened = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC), on = 1;
    if (opened < 0 || bind(opened, (void *)&local, sizeof local)) fail("a netlink socket");
    if (setsockopt(opened, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on)) fail("NETLINK_CAP_ACK");
    return opened;
}

static void find_family(void)
{
    request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0);
    attribute(CTRL_ATTR_FAMILY_NAME, "IPVS", sizeof "IPVS");
    finish();
    send_all(control);
    ssize_t size = recv(control, received, sizeof received, 0);
    struct nlmsghdr *answer = (void *)received;
    if (size < 0) fail("recv");
    if (answer->nlmsg_type == NLMSG_ERROR) refuse(answer);
    for (unsigned char *at = received + NLMSG_HDRLEN + GENL_HDRLEN; at < received + size;) {
        const struct nlattr *found = (void *)at;
        if (found->nla_type == CTRL_ATTR_FAMILY_ID) memcpy(&family, at + NLA_HDRLEN, sizeof family);
        at += NLA_ALIGN(found->nla_len);
    }
}

/* Steps */

static void add(void)
{
    for (unsigned i = 0; i < services; i++) {
        request(family, IPVS_CMD_NEW_SERVICE, 0);
        put_service(i, 1);
        queue();
        for (unsigned j = 0; j < destinations; j++) {
            request(family, IPVS_CMD_NEW_DEST, 0);
            put_service(i, 0);
            put_destination(j, WEIGHT);
            queue();
        }
    }
    flush_batch();
}

static void add_one(void)
{
    request(family, IPVS_CMD_NEW_DEST, 0);
    put_service(0, 0);
    put_destination(destinations, WEIGHT);
    queue();
    flush_batch();
}

static void dump_services(void)
{
    request(family, IPVS_CMD_GET_SERVICE, NLM_F_DUMP);
    finish();
    send_all(control);
    receive_all(control, sizeof received, 0);
}

static void list(void)
{
    /* The kernel allocates for each part of a dump what the socket's longest receive had room for: for a short list a
     * short one is cheaper. */
    int of_destinations = open_socket();
    dump_services();
    for (unsigned i = 0; i < services; i++) {
        request(family, IPVS_CMD_GET_DEST, NLM_F_DUMP);
        put_service(i, 0);
        finish();
        send_all(of_destinations);
        receive_all(of_destinations, SHORT, 0);
    }
    close(of_destinations);
}

static void configuration(void)
{
    size_t size = sizeof(struct ip_vs_get_dests) + destinations * sizeof(struct ip_vs_dest_entry);
    struct ip_vs_get_dests *found = malloc(size);
    int raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    if (raw < 0 || !found) fail("a raw socket");
    dump_services();
    for (unsigned i = 0; i < services; i++) {
        socklen_t capacity = size;
        *found = (struct ip_vs_get_dests){ .protocol = IPPROTO_TCP, .addr = service_address(i), .port = htons(80),
            .num_dests = destinations };
        if (getsockopt(raw, IPPROTO_IP, IP_VS_SO_GET_DESTS, found, &capacity)) fail("IP_VS_SO_GET_DESTS");
    }
    close(raw);
    free(found);
}

static void proc(void)
{
    int file = open("/proc/net/ip_vs", O_RDONLY | O_CLOEXEC);
    if (file < 0) fail("/proc/net/ip_vs");
    while (read(file, received, sizeof received) > 0) {}
    close(file);
}

static void weights(void)
{
    for (unsigned i = 0; i < services * destinations; i += 100) {
        request(family, IPVS_CMD_SET_DEST, 0);
        put_service(i / destinations, 0);
        put_destination(i % destinations, OTHER_WEIGHT);
        queue();
    }
    flush_batch();
}

static void delete_services(int in_order)
{
    for (unsigned i = 0; i < services; i++) {
        request(family, IPVS_CMD_DEL_SERVICE, 0);
        put_service(in_order ? i : services - 1 - i, 0);
        queue();
    }
    flush_batch();
}

static void delete(void) { delete_services(0); }

static void delete_in_order(void) { delete_services(1); }

static volatile unsigned words_found;

static void words(void)
{
    unsigned found = 0;
    int blank = 1;
    for (ssize_t size; (size = read(0, received, sizeof received)) > 0;)
        for (ssize_t i = 0; i < size; i++) {
            int next = received[i] == ' ' || received[i] == '\n';
            found += blank && !next;
            blank = next;
        }
    words_found = found;
}

static const struct {
    const char *name;
    void (*work)(void);
} steps[] = {
    { "add", add }, { "add-one", add_one }, { "list", list }, { "configuration", configuration }, { "proc", proc },
    { "weights", weights }, { "delete", delete }, { "delete-in-order", delete_in_order }, { "words", words },
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void carry_out(const char *name)
{
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (!strcmp(steps[i].name, name)) {
            uint64_t start = now();
            steps[i].work();
            printf("%s %llu\n", name, (unsigned long long)(now() - start));
            return;
        }
    fprintf(stderr, "floor: no step is named %s\n", name);
    exit(2);
}

int main(int count, char **words)
{
    if (count < 3) return 0;    /* the start of a process */
    services = strtoul(words[1], NULL, 10);
    destinations = strtoul(words[2], NULL, 10);
    control = open_socket();
    find_family();
    for (int i = 3; i < count; i++) carry_out(words[i]);
    return 0;
}
