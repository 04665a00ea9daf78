/*
 * lvs-dr: web servers as their own load balancer. Linux IPVS in direct-routing mode, placement of the VIP, ARP
 * settings, and the change of a node's role. Link with -llvs_dr (pkg-config: lvs_dr). Linux only.
 *
 * Results. Functions return LVS_OK (0) or a negative status, LVS_ERR_...: from -1 on for wrong arguments, -100 for
 * refusals of the kernel, -200 for the system, -300 for a node and what belongs to others, -900 for bugs. Numbers
 * keep their meaning; later versions may add some within these ranges. lvs_last_error_message() has the words and
 * lvs_last_errno() the errno of the last failure in the calling thread; a call that succeeds leaves them alone. A
 * result is written only by a call that succeeds. Nothing is printed, and no signal or exit handler is installed.
 * Where memory runs out, the process is aborted.
 *
 * Arguments. A pointer must not be NULL unless the function says what NULL means: otherwise LVS_ERR_NULL. Texts are
 * UTF-8 and end with a NUL: names, addresses and ids up to 255 octets, paths 4095, tables 16 MiB. They are copied.
 * Addresses are texts, as in inet_pton(3), with a port "192.168.0.11:80" or "[2001:db8::11]:80"; all numbers are in
 * host byte order.
 *
 * Structures begin with their size, which the caller sets, also of those to be filled; the other fields are set, or
 * cleared:
 *
 *     struct lvs_destination server = { .size = sizeof server, .address = "192.168.0.11:80", .weight = 1 };
 *
 * So a program works with later libraries, whose structures have more fields at their end: what an older program
 * does not give is 0, and 0 means what was done before there was the field. An older library takes a longer
 * structure as long as the fields that it does not know are 0, and clears them in those that it fills; otherwise
 * LVS_ERR_SIZE.
 *
 * Handles (lvs_ipvs, lvs_vips, lvs_arp, lvs_node) are made by lvs_..._open() and ended by lvs_..._free(), lists by
 * lvs_..._free() as well, texts that are given to the caller (char **) by lvs_text_free(), and not to be written to.
 * A handle may be used by any thread, but by one at a time; different handles do not disturb one another. A handle
 * belongs to the network namespace that it was opened in, whatever thread uses it. After fork(2) a handle is for one
 * of the two processes only.
 */
