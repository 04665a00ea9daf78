/*
 * Opens TCP connections to the VIP's port 80, as a director in direct routing sees them: of each a SYN and an ACK, as frames out of a
 * cable's other end.
 *
 *     load INTERFACE MAC VIP COUNT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PORTS 30000

struct segment {
    struct iphdr ip;
    struct tcphdr tcp;
};

static unsigned sum(unsigned sum, const void *data, size_t length)
{
    const unsigned char *octets = data;

    for (size_t i = 0; i < length; i += 2)
        sum += octets[i] << 8 | octets[i + 1];
    return sum;
}

static unsigned short folded(unsigned sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons(~sum);
}

int main(int argc, char **argv)
{
    struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6 };
    struct ether_addr *mac;
    int socket_fd, count;

    if (argc != 5 || !(mac = ether_aton(argv[2])))
        return 2;
    to.sll_ifindex = (int)if_nametoindex(argv[1]);
    memcpy(to.sll_addr, mac, 6);
    count = atoi(argv[4]);
    socket_fd = socket(AF_PACKET, SOCK_DGRAM, 0);
    for (int i = 0; i < count; i++) {
        for (int is_open = 0; is_open < 2; is_open++) {
            struct segment segment = {
                .ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP, .tot_len = htons(sizeof segment),
                        .saddr = htonl(0xc0a80064 + (unsigned)(i / PORTS)), .daddr = inet_addr(argv[3]) },
                .tcp = { .source = htons((unsigned short)(2000 + i % PORTS)), .dest = htons(80), .doff = 5, .syn = !is_open,
                         .ack = is_open, .window = htons(512) },
            };

            segment.ip.check = folded(sum(0, &segment.ip, sizeof segment.ip));
            segment.tcp.check = folded(IPPROTO_TCP + sizeof segment.tcp + sum(0, &segment.ip.saddr, 8) +
                                       sum(0, &segment.tcp, sizeof segment.tcp));
            if (sendto(socket_fd, &segment, sizeof segment, 0, (struct sockaddr *)&to, sizeof to) < 0) {
                perror("load");
                return 1;
            }
        }
    }
    return 0;
}
