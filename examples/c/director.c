/*
 * A node of the cluster in C: adds a service with its real servers, hides the VIP on lo from ARP, and takes on a role.
 *
 *     director INTERFACE VIP ROLE SERVER...        director eth0 192.168.0.254 master 192.168.0.11 192.168.0.12
 */
#include <lvs_dr.h>
#include <stdio.h>
#include <stdlib.h>

/* Prints what failed, with the library's message and status. */
static int failed(const char *what)
{
    char text[512];

    lvs_last_error_message(text, sizeof text);
    fprintf(stderr, "director: %s: %s (%s)\n", what, text, lvs_status_name(lvs_last_status()));
    return EXIT_FAILURE;
}

static int add_servers(lvs_ipvs *ipvs, const char *id, char **servers)
{
    struct lvs_service web = { .size = sizeof web, .id = id, .scheduler = "wrr" };
    char address[80];
    int status = lvs_ipvs_add_service(ipvs, &web);

    /* An earlier run may have added the service and the servers. */
    if (status != LVS_OK && status != LVS_ERR_SERVICE_EXISTS)
        return failed("add the service");
    for (; *servers; servers++) {
        struct lvs_destination server = {
            .size = sizeof server, .address = address, .weight = 1, .forward = LVS_FORWARD_DIRECT
        };

        snprintf(address, sizeof address, "%s:80", *servers);
        status = lvs_ipvs_add_destination(ipvs, id, &server);
        if (status != LVS_OK && status != LVS_ERR_DESTINATION_EXISTS)
            return failed("add a server");
    }
    return EXIT_SUCCESS;
}

static int list_servers(lvs_ipvs *ipvs, const char *id)
{
    lvs_destinations *list;

    if (lvs_ipvs_destinations(ipvs, id, &list) != LVS_OK)
        return failed("list the servers");
    for (size_t i = 0; i < lvs_destinations_count(list); i++) {
        struct lvs_destination server = { .size = sizeof server };

        if (lvs_destinations_get(list, i, &server) == LVS_OK)
            printf("%s -> %s weight %u\n", id, server.address, (unsigned)server.weight);
    }
    lvs_destinations_free(list); /* also frees the texts in `server` */
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    lvs_ipvs *ipvs = NULL;
    lvs_vips *vips = NULL;
    lvs_arp *arp = NULL;
    lvs_node *node = NULL;
    char id[96], *done = NULL;
    uint32_t role;
    int code = EXIT_FAILURE;

    if (argc < 5) {
        fprintf(stderr, "usage: director INTERFACE VIP master|backup|fault|stop SERVER...\n");
        return 2;
    }
    const char *interface = argv[1], *vip = argv[2];
    struct lvs_arp_settings hide = { .size = sizeof hide, .ignore = 1, .announce = 2 };
    struct lvs_arp_settings before = { .size = sizeof before };
    struct lvs_node_config config = { .size = sizeof config, .interface = interface, .vips = &vip, .vip_count = 1,
                                      .state_dir = "/run/lvs-director", .arp = LVS_ARP_LEAVE };
    snprintf(id, sizeof id, "tcp %s:80", vip);

    if (lvs_role_from_text(argv[3], &role) != LVS_OK)
        failed("read the role");
    else if (lvs_ipvs_open(NULL, &ipvs) != LVS_OK)
        failed("open IPVS");
    else if (add_servers(ipvs, id, argv + 4) != EXIT_SUCCESS || list_servers(ipvs, id) != EXIT_SUCCESS)
        code = EXIT_FAILURE; /* the message is printed already */
    else if (lvs_arp_open(NULL, &arp) != LVS_OK || lvs_arp_set(arp, interface, &hide, &before) != LVS_OK)
        failed("set ARP");
    else if (lvs_vips_open(NULL, &vips) != LVS_OK || lvs_vips_add(vips, vip, "lo", NULL) != LVS_OK)
        failed("place the VIP");
    else if (lvs_node_open(NULL, &config, &node) != LVS_OK || lvs_node_become_role(node, role, &done) != LVS_OK)
        failed("take on the role");
    else {
        printf("arp_ignore was %d, arp_announce %d\n%s", (int)before.ignore, (int)before.announce, done);
        code = EXIT_SUCCESS;
    }
    lvs_text_free(done); /* NULL is ignored, here and below */
    lvs_node_free(node);
    lvs_vips_free(vips);
    lvs_arp_free(arp);
    lvs_ipvs_free(ipvs);
    return code;
}
