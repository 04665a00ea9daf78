/*
 * lvs-dr: Linux IPVS in direct-routing mode on servers that are their own load balancers: IPVS services, the
 * placement of the VIP, ARP settings, and the role of a node. Link with -llvs_dr (pkg-config: lvs_dr). Linux only.
 *
 * Results. Functions return LVS_OK (0) or a negative status, LVS_ERR_...: from -1 on for wrong arguments, -100 for
 * refusals of the kernel, -200 for the system, -300 for a node and objects of other programs, -900 for bugs. Numbers
 * keep their meaning; later versions may add some within these ranges. lvs_last_error_message() returns the message and
 * lvs_last_errno() the errno of the last failure in the calling thread; a call that succeeds changes neither. A
 * result is written only by a call that succeeds. The library prints nothing but the Rust runtime's line about a bug
 * (LVS_ERR_PANIC), and installs no signal or exit handler. When memory runs out, the process is aborted.
 *
 * Time. A call blocks until its work is done. A request to the kernel has a time limit of 5 s (LVS_ERR_NO_ANSWER);
 * functions that wait longer say so. Functions that change a node wait up to 30 s for another process that works on
 * it.
 *
 * Arguments. A pointer must not be NULL unless the function says what NULL means: otherwise LVS_ERR_NULL. Texts are
 * UTF-8 and end with a NUL: names, addresses and ids up to 255 octets, paths 4095, tables 16 MiB. They are copied.
 * Addresses are texts, as in inet_pton(3), with a port "192.168.0.11:80" or "[2001:db8::11]:80"; all numbers are in
 * host byte order.
 *
 * A structure begins with its size. The caller sets it, also in a structure that the library fills, and sets or
 * clears the other fields:
 *
 *     struct lvs_destination server = { .size = sizeof server, .address = "192.168.0.11:80", .weight = 1 };
 *
 * From version 1.0 on, a program works with later libraries, whose structures have more fields at their end: a field
 * that an older program does not have counts as 0, and 0 means the behaviour of the older library. An older library
 * takes a longer structure if the fields that it does not know are 0, otherwise it fails with LVS_ERR_SIZE; in a
 * structure that it fills, it clears them. Before 1.0 each minor version may change structures and functions, and
 * has a SONAME and versions of symbols of its own. All that is here is there since 0.1, unless it says otherwise.
 *
 * Handles (lvs_ipvs, lvs_vips, lvs_arp, lvs_node, lvs_marks, lvs_monitor, lvs_local_marks, lvs_classifier,
 * lvs_driver, lvs_supervisor) are opened by lvs_..._open() and freed by lvs_..._free(). Lists are freed by
 * lvs_..._free() as well. Texts that are returned through a char ** are freed by lvs_text_free(), and must not be
 * written to. A handle belongs to the network namespace that it was opened in, whatever thread uses it. Different
 * handles are independent. Any thread may use a handle, one at a time: a second one gets LVS_ERR_BUSY. No thread may
 * use what is being freed.
 *
 * The process. A thread of the library is started where a handle's network namespace is not that of the calling
 * thread; it blocks all signals, and has ended when the call returns. Otherwise there is none: nft(8) and iptables(8),
 * which functions for a node run, and processes that try what the kernel can load, are waited for by their
 * descriptors. That the program ignores SIGCHLD, or waits for any child, does no harm. After fork(2) the child gets
 * LVS_ERR_FORKED from its parent's handles; freed there, they change nothing for the parent. Descriptors are closed by
 * execve(2). Where /proc is not mounted or a system call is forbidden, calls fail with LVS_ERR_SYSTEM or
 * LVS_ERR_PERMISSION.
 */
