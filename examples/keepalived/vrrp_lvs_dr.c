/*
 * The block `lvs_dr` of a vrrp_instance: the state of the instance becomes the role of a node of lvs-dr, in this process.
 *
 * Each block has a driver (lvs_driver), whose descriptor is one of keepalived's scheduler. A new state asks for a role, which
 * takes no time; when the descriptor is readable, the driver goes on with it for 2 ms at most, so that adverts are sent in time.
 * keepalived owns the VIP on the interface; the VIP on `lo`, ARP settings, marks, services and sync daemons are the node's.
 *
 * A failure is logged and tried again. None stops keepalived, or keeps it from an election.
 */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lvs_dr.h>

#include "bitops.h"
#include "logger.h"
#include "main.h"
#include "memory.h"
#include "parser.h"
#include "scheduler.h"
#include "utils.h"
#include "vector.h"
#include "vrrp_track.h"
#include "vrrp_sync.h"
#include "vrrp_data.h"
#include "vrrp_if.h"
#include "vrrp_ipaddress.h"
#include "vrrp_lvs_dr.h"

/* The longest text of services that the library takes. */
#define SERVICES_MAX	(16U << 20)
/* Descriptors of a driver: epoll, timer, netlink sockets, and files that are open for the length of a step. */
#define DESCRIPTORS	16
/* How often a driver is looked after in a shutdown, when keepalived's scheduler has no descriptors. */
#define STOP_INTERVAL	(TIMER_HZ / 200)
/* How long a shutdown waits for the nodes, and how many seconds a handover before it. keepalived's first process waits 5 s. */
#define STOP_LIMIT	(2 * TIMER_HZ)
#define HANDOVER_MAX	2
/* How often the end of a handover is looked for. */
#define HANDOVER_INTERVAL (TIMER_HZ / 100)
/* The time between two attempts for a role, and between two repairs, in seconds. */
#define RETRY_MIN	1
#define RETRY_MAX	60
#define REPAIR_INTERVAL	10

typedef struct node {
	struct node *next;
	char *instance;
	/* As the block has it; what is left out is NULL or 0. The texts are the node's own. */
	struct lvs_node_config config;
	char *services_file;
	unsigned repair_interval;
	unsigned handover;		/* Seconds at most; 0: none before a stop */

	lvs_driver *driver;		/* NULL: not opened, see open_node() */
	uint32_t role;			/* The last one that was asked for, or LVS_ROLE_NONE */
	bool leaving;			/* The configuration has it no more: freed when its role is reached */
	unsigned retry;			/* Seconds until the next attempt */
	thread_ref_t read;		/* The scheduler's, NULL where there is none */
	thread_ref_t timer;
} node_t;

/* Nodes that run, and those that the parser has found since. */
static node_t *nodes, *parsed;
static timeval_t stop_limit;
/* What begins keepalived's shutdown after a handover, and when at the latest. */
static thread_func_t terminate;
static timeval_t handover_limit;

static const struct field {
	const char *name;
	size_t offset;
} texts[] = {
#define FIELD(name) { #name, offsetof(struct lvs_node_config, name) }
	FIELD(group), FIELD(state_dir), FIELD(sync_interface), FIELD(sync_group), FIELD(sync_key_file),
}, numbers[] = {
	FIELD(fence), FIELD(loopback), FIELD(arp), FIELD(own_requests), FIELD(arp_ignore), FIELD(arp_announce), FIELD(sync_id),
	FIELD(sync_port), FIELD(sync_ttl), FIELD(sync_max_length), FIELD(marks_base),
#undef FIELD
};

static const struct word {
	const char *field;
	const char *name;
	uint32_t value;
} words[] = {
	{ "fence", "marks", LVS_FENCE_MARKS },
	{ "fence", "clear", LVS_FENCE_CLEAR },
	{ "loopback", "always", LVS_LOOPBACK_ALWAYS },
	{ "loopback", "backup", LVS_LOOPBACK_BACKUP },
	{ "arp", "default", LVS_ARP_DEFAULT },
	{ "arp", "leave", LVS_ARP_LEAVE },
	{ "arp", "interface", LVS_ARP_INTERFACE },
	{ "arp", "all", LVS_ARP_ALL },
	{ "own_requests", "served_here", LVS_OWN_REQUESTS_SERVED_HERE },
	{ "own_requests", "left_alone", LVS_OWN_REQUESTS_LEFT_ALONE },
};

#define COUNT(array)	(sizeof(array) / sizeof((array)[0]))

static const struct role {
	int state;
	uint32_t role;
	const char *name;
} roles[] = {
	{ VRRP_STATE_MAST, LVS_ROLE_MASTER, "master" },
	{ VRRP_STATE_BACK, LVS_ROLE_BACKUP, "backup" },
	{ VRRP_STATE_FAULT, LVS_ROLE_FAULT, "fault" },
	{ VRRP_STATE_STOP, LVS_ROLE_STOP, "stop" },
	{ VRRP_STATE_DELETED, LVS_ROLE_STOP, "stop" },
};

static const char *role_name(uint32_t role)
{
	size_t i;

	for (i = 0; i < COUNT(roles); i++)
		if (roles[i].role == role)
			return roles[i].name;
	return "no role";
}

static uint32_t __attribute__((pure)) role_of(int state)
{
	size_t i;

	for (i = 0; i < COUNT(roles); i++)
		if (roles[i].state == state)
			return roles[i].role;
	return LVS_ROLE_NONE;
}

static node_t * __attribute__((pure)) node_of(const vrrp_t *vrrp)
{
	node_t *node = nodes;

	while (node && strcmp(node->instance, vrrp->iname))
		node = node->next;
	return node;
}

static void run(thread_ref_t);
static void again(thread_ref_t);

/* Logs the failure of the library's last call. */
static void log_failure(const node_t *node, const char *what)
{
	char text[512];

	lvs_last_error_message(text, sizeof(text));
	log_message(LOG_ERR, "(%s) lvs_dr: %s: %s (%s)", node->instance, what, text, lvs_status_name(lvs_last_status()));
}

/* ---- The configuration ---- */

static const char **text_at(struct lvs_node_config *config, size_t field)
{
	return (const char **)(void *)((char *)config + texts[field].offset);
}

static uint32_t *number_at(struct lvs_node_config *config, size_t field)
{
	return (uint32_t *)(void *)((char *)config + numbers[field].offset);
}

/* The block itself; a name after the keyword is the group's. */
static void block_handler(const vector_t *strvec)
{
	vrrp_t *vrrp = list_last_entry(&vrrp_data->vrrp, vrrp_t, e_list);
	node_t *node, **last;

	for (last = &parsed; *last; last = &(*last)->next) {
		if (!strcmp((*last)->instance, vrrp->iname)) {
			report_config_error(CONFIG_GENERAL_ERROR, "(%s) lvs_dr is there already", vrrp->iname);
			skip_block(true);
			return;
		}
	}
	node = calloc(1, sizeof(*node));
	if (!node || !(node->instance = strdup(vrrp->iname))) {
		report_config_error(CONFIG_FATAL, "(%s) lvs_dr: no memory", vrrp->iname);
		free(node);
		skip_block(true);
		return;
	}
	node->config.size = sizeof(node->config);	/* What it does not set is the library's default. */
	node->config.vip_owner = LVS_VIP_OWNER_KEEPALIVED;
	node->config.group = strdup(vector_size(strvec) > 1 ? strvec_slot(strvec, 1) : vrrp->iname);
	node->repair_interval = REPAIR_INTERVAL;
	*last = node;
}

/* The block whose keywords are read. */
static node_t *current(const vector_t *strvec)
{
	node_t *node = parsed;

	while (node && node->next)
		node = node->next;
	if (node && vector_size(strvec) == 2)
		return node;
	report_config_error(CONFIG_GENERAL_ERROR, "lvs_dr: %s needs one value", strvec_slot(strvec, 0));
	return NULL;
}

static void set_text(const char **to, const char *from)
{
	free(no_const_char_p(*to));
	*to = from ? strdup(from) : NULL;
}

static void text_handler(const vector_t *strvec)
{
	node_t *node = current(strvec);
	size_t i;

	for (i = 0; node && i < COUNT(texts); i++)
		if (!strcmp(texts[i].name, strvec_slot(strvec, 0)))
			set_text(text_at(&node->config, i), strvec_slot(strvec, 1));
}

static void services_handler(const vector_t *strvec)
{
	node_t *node = current(strvec);

	if (node)
		set_text((const char **)(void *)&node->services_file, strvec_slot(strvec, 1));
}

/* A word of the keyword, or a number; the library knows which numbers are possible. */
static bool read_number(const vector_t *strvec, uint32_t *number)
{
	const char *field = strvec_slot(strvec, 0), *value = strvec_slot(strvec, 1);
	char *end;
	long long read;
	bool named = false;
	size_t i;

	for (i = 0; i < COUNT(words); i++) {
		if (strcmp(words[i].field, field))
			continue;
		named = true;
		if (!strcmp(words[i].name, value)) {
			*number = words[i].value;
			return true;
		}
	}
	errno = 0;
	read = strtoll(value, &end, 0);
	if (named || errno || end == value || *end || read < INT32_MIN || read > UINT32_MAX) {
		report_config_error(CONFIG_GENERAL_ERROR, "lvs_dr: %s %s is not known - ignoring", field, value);
		return false;
	}
	*number = (uint32_t)read;
	return true;
}

static void number_handler(const vector_t *strvec)
{
	node_t *node = current(strvec);
	uint32_t number;
	size_t i;

	if (!node || !read_number(strvec, &number))
		return;
	for (i = 0; i < COUNT(numbers); i++)
		if (!strcmp(numbers[i].name, strvec_slot(strvec, 0)))
			*number_at(&node->config, i) = number;
}

static void repair_handler(const vector_t *strvec)
{
	node_t *node = current(strvec);
	uint32_t number;

	if (node && read_number(strvec, &number))
		node->repair_interval = number;
}

static void handover_handler(const vector_t *strvec)
{
	node_t *node = current(strvec);
	uint32_t number;

	if (node && read_number(strvec, &number))
		node->handover = number < HANDOVER_MAX ? number : HANDOVER_MAX;
}

void lvs_dr_install_keywords(void)
{
	size_t i;

	install_keyword("lvs_dr", &block_handler);
	install_sublevel();
	for (i = 0; i < COUNT(texts); i++)
		install_keyword(texts[i].name, &text_handler);
	for (i = 0; i < COUNT(numbers); i++)
		install_keyword(numbers[i].name, &number_handler);
	install_keyword("services", &services_handler);
	install_keyword("repair_interval", &repair_handler);
	install_keyword("handover", &handover_handler);
	install_sublevel_end();
}

static void free_list(const char *const *list, size_t count)
{
	while (count)
		free(no_const_char_p(list[--count]));
	free((void *)(uintptr_t)list);
}

/* `running`: the scheduler's thread that calls, if it is a read of this driver. The scheduler must have forgotten the descriptor
 * before it is closed, as the next driver may get its number. */
static void close_driver(node_t *node, thread_ref_t running)
{
	thread_del_read(running);
	thread_cancel(node->read);
	node->read = NULL;
	lvs_driver_free(node->driver);
	node->driver = NULL;
}

static void free_node(node_t *node)
{
	size_t i;

	close_driver(node, NULL);
	thread_cancel(node->timer);
	for (i = 0; i < COUNT(texts); i++)
		set_text(text_at(&node->config, i), NULL);
	set_text(&node->config.interface, NULL);
	set_text(&node->config.services, NULL);
	free_list(node->config.vips, node->config.vip_count);
	free_list(node->config.groups, node->config.group_count);
	free(node->services_file);
	free(node->instance);
	free(node);
}

/* Appends a copy of the text. Without memory the list stays as it is. */
static void append(const char *const **list, size_t *count, const char *text)
{
	const char **longer = realloc((void *)(uintptr_t)*list, (*count + 1) * sizeof(*longer));

	if (!longer)
		return;
	*list = longer;
	if ((longer[*count] = strdup(text)))
		++*count;
}

static void append_vips(node_t *node, const vrrp_t *vrrp, const list_head_t *addresses)
{
	char text[INET6_ADDRSTRLEN];
	ip_address_t *address;

	/* Addresses on other interfaces are no VIPs of the node. */
	list_for_each_entry(address, addresses, e_list)
		if (address->ifp == vrrp->ifp && inet_ntop(address->ifa.ifa_family, &address->u, text, sizeof(text)))
			append(&node->config.vips, &node->config.vip_count, text);
}

static void read_services(node_t *node)
{
	FILE *file = fopen(node->services_file, "re");
	char *text = NULL;
	size_t length = 0, size = 0, count;

	while (file && size < SERVICES_MAX) {
		char *longer = realloc(text, (size = size ? 2 * size : 4096) + 1);

		if (!longer)
			break;
		text = longer;
		count = fread(text + length, 1, size - length, file);
		length += count;
		if (length < size) {
			if (ferror(file))
				break;
			text[length] = '\0';
			node->config.services = text;
			fclose(file);
			return;
		}
	}
	log_message(LOG_ERR, "(%s) lvs_dr: cannot read the services of %s (%m)", node->instance, node->services_file);
	free(text);
	if (file)
		fclose(file);
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

/* What the instance and the other blocks say about the node. */
static void complete(node_t *node)
{
	node_t *other;
	vrrp_t *vrrp;

	list_for_each_entry(vrrp, &vrrp_data->vrrp, e_list) {
		if (strcmp(vrrp->iname, node->instance))
			continue;
		if (vrrp->ifp)
			set_text(&node->config.interface, vrrp->ifp->ifname);
		append_vips(node, vrrp, &vrrp->vip);
		append_vips(node, vrrp, &vrrp->evip);
	}
	/* Blocks with the same state directory are groups of one node. */
	for (other = parsed; other; other = other->next)
		if (other->config.group && same_text(other->config.state_dir, node->config.state_dir))
			append(&node->config.groups, &node->config.group_count, other->config.group);
	if (node->services_file)
		read_services(node);
}

static bool same_list(const char *const *a, size_t count_a, const char *const *b, size_t count_b)
{
	size_t i;

	if (count_a != count_b)
		return false;
	for (i = 0; i < count_a; i++)
		if (strcmp(a[i], b[i]))
			return false;
	return true;
}

static bool same_node(node_t *a, node_t *b)
{
	size_t i;

	for (i = 0; i < COUNT(texts); i++)
		if (!same_text(*text_at(&a->config, i), *text_at(&b->config, i)))
			return false;
	for (i = 0; i < COUNT(numbers); i++)
		if (*number_at(&a->config, i) != *number_at(&b->config, i))
			return false;
	return same_text(a->config.interface, b->config.interface) && same_text(a->config.services, b->config.services) &&
	       same_list(a->config.vips, a->config.vip_count, b->config.vips, b->config.vip_count) &&
	       same_list(a->config.groups, a->config.group_count, b->config.groups, b->config.group_count);
}

/* ---- The driver ---- */

static void add_read(node_t *node)
{
	if (node->driver && !node->read)
		node->read = thread_add_read(master, run, node, lvs_driver_fd(node->driver), TIMER_NEVER, 0);
}

/* For the next attempt or the next repair. */
static void set_timer(node_t *node, unsigned seconds)
{
	thread_cancel(node->timer);
	node->timer = seconds ? thread_add_timer(master, again, node, (unsigned long)seconds * TIMER_HZ) : NULL;
}

static bool open_node(node_t *node)
{
	if (!node->driver && lvs_driver_open(NULL, &node->config, &node->driver) != LVS_OK) {
		log_failure(node, "open the node");
		node->driver = NULL;
	}
	add_read(node);
	return node->driver;
}

/* Later attempts are further and further apart. */
static void retry_later(node_t *node)
{
	node->retry = node->retry ? node->retry * 2 : RETRY_MIN;
	if (node->retry > RETRY_MAX)
		node->retry = RETRY_MAX;
	set_timer(node, node->retry);
}

static void request(node_t *node)
{
	if (node->role == LVS_ROLE_NONE)
		return;
	if (!open_node(node))
		retry_later(node);
	else if (lvs_driver_request(node->driver, LVS_TASK_ROLE, node->role) != LVS_OK) {
		log_failure(node, role_name(node->role));
		retry_later(node);
	}
}

static void again(thread_ref_t thread)
{
	node_t *node = THREAD_ARG(thread);

	node->timer = NULL;
	if (node->retry)
		request(node);
	else if (lvs_driver_is_busy(node->driver))
		set_timer(node, node->repair_interval);
	else if (lvs_driver_request(node->driver, LVS_TASK_REPAIR, 0) != LVS_OK) {
		log_failure(node, "repair");
		set_timer(node, node->repair_interval);
	}
}

static void ended(node_t *node, const struct lvs_report *report, const char *text)
{
	const char *what = report->task == LVS_TASK_ROLE ? role_name(report->role) :
			   report->task == LVS_TASK_APPLY ? "changed services" : "repair";
	const char *end;

	if (report->status == LVS_ERR_SUPERSEDED)
		return;
	if (report->status != LVS_OK) {
		log_message(LOG_ERR, "(%s) lvs_dr: %s: %s (%s)", node->instance, what, text, lvs_status_name(report->status));
		if (report->task == LVS_TASK_ROLE)
			retry_later(node);
		else
			set_timer(node, node->repair_interval);
		return;
	}
	if (report->task != LVS_TASK_REPAIR || text[0])
		log_message(LOG_INFO, "(%s) lvs_dr: %s: done", node->instance, what);
	/* The plan that was carried out begins with its warnings. */
	for (; !strncmp(text, "warning: ", strlen("warning: ")) && (end = strchr(text, '\n')); text = end + 1)
		log_message(LOG_INFO, "(%s) lvs_dr: %.*s", node->instance, (int)(end - text), text);
	if (report->task == LVS_TASK_ROLE)
		node->retry = 0;
	set_timer(node, node->repair_interval);
}

/* Takes what has happened. */
static void take_reports(node_t *node)
{
	struct lvs_report report = { .size = sizeof(report) };
	char *text;

	while (lvs_driver_next_report(node->driver, &report, &text) == LVS_OK && report.kind != LVS_REPORT_NONE) {
		if (report.kind == LVS_REPORT_ENDED)
			ended(node, &report, text);
		if (__test_bit(LOG_DETAIL_BIT, &debug) && (report.kind == LVS_REPORT_STEP || report.task == LVS_TASK_REPAIR) && text[0])
			log_message(LOG_INFO, "(%s) lvs_dr: %s", node->instance, text);
		lvs_text_free(text);
	}
}

static void drive(node_t *node, thread_ref_t running)
{
	if (lvs_driver_dispatch(node->driver) == LVS_OK) {
		take_reports(node);
		return;
	}
	/* The descriptor may stay readable for ever: a new driver begins anew, in a while. */
	log_failure(node, "dispatch");
	close_driver(node, running);
	retry_later(node);
}

static void remove_node(node_t *node)
{
	node_t **at = &nodes;

	while (*at != node)
		at = &(*at)->next;
	*at = node->next;
	free_node(node);
}

/* A read of the scheduler's is for once. */
static void run(thread_ref_t thread)
{
	node_t *node = THREAD_ARG(thread);

	node->read = NULL;
	drive(node, thread);
	if (node->leaving && (!node->driver || !lvs_driver_is_busy(node->driver))) {
		close_driver(node, thread);
		remove_node(node);
	} else
		add_read(node);
}

/* A reload: the node goes on as it was, also where its new configuration is not usable. */
static void keep(node_t *node, node_t *old)
{
	struct lvs_node_config config = node->config;

	node->config = old->config;
	old->config = config;
	thread_cancel(old->read);
	old->read = NULL;
	node->driver = old->driver;
	old->driver = NULL;
	add_read(node);
	if (!node->driver || node->retry)
		retry_later(node);
	else
		set_timer(node, node->repair_interval);
}

/* ---- What keepalived calls ---- */

void lvs_dr_forget_threads(void)
{
	node_t *node;

	for (node = nodes; node; node = node->next)
		node->read = node->timer = NULL;
}

void lvs_dr_start(void)
{
	node_t *node, *old, **at;
	vrrp_t *vrrp;

	for (node = parsed; node; node = node->next)
		complete(node);
	for (node = parsed; node; node = node->next) {
		for (at = &nodes; *at && strcmp((*at)->instance, node->instance); at = &(*at)->next)
			;
		if (!(old = *at)) {
			open_node(node);
			continue;
		}
		*at = old->next;
		node->role = old->role;
		node->retry = old->retry;
		/* A file that cannot be read at present is not an empty one. */
		if (node->services_file && !node->config.services)
			set_text(&node->config.services, old->config.services);
		if (same_node(node, old) || !open_node(node))
			keep(node, old);
		else {
			bool services = !same_text(node->config.services, old->config.services);

			request(node);
			if (services && node->role != LVS_ROLE_NONE && lvs_driver_request(node->driver, LVS_TASK_APPLY, 0) != LVS_OK)
				log_failure(node, "changed services");
		}
		free_node(old);
	}
	/* What is not configured any more serves on without an election; a group among others is released by these. */
	for (at = &nodes; (old = *at);) {
		for (node = parsed; node && !same_text(node->config.state_dir, old->config.state_dir); node = node->next)
			;
		if (node) {
			*at = old->next;
			free_node(old);
			continue;
		}
		old->leaving = true;
		old->role = LVS_ROLE_STOP;
		request(old);
		at = &old->next;
	}
	*at = parsed;
	parsed = NULL;
	/* States that instances have already: after a reload, and where an interface is down. */
	list_for_each_entry(vrrp, &vrrp_data->vrrp, e_list) {
		node = node_of(vrrp);
		if (node && !node->leaving && node->role != role_of(vrrp->state))
			lvs_dr_notify(vrrp);
	}
}

unsigned __attribute__((pure)) lvs_dr_descriptors(void)
{
	unsigned count = 0;
	node_t *node;

	for (node = nodes; node; node = node->next)
		count += DESCRIPTORS;
	return count;
}

void lvs_dr_notify(const vrrp_t *vrrp)
{
	uint32_t role = role_of(vrrp->state);
	node_t *node = node_of(vrrp);

	if (!node || role == LVS_ROLE_NONE)
		return;
	node->role = role;
	node->retry = 0;
	set_timer(node, 0);
	request(node);
}

static bool any_is_busy(void)
{
	node_t *node;

	for (node = nodes; node; node = node->next)
		if (node->driver && lvs_driver_is_busy(node->driver))
			return true;
	return false;
}

static void end_handover(__attribute__((unused)) thread_ref_t thread)
{
	if (any_is_busy() && timercmp(&time_now, &handover_limit, <))
		thread_add_timer(master, end_handover, NULL, HANDOVER_INTERVAL);
	else
		thread_add_start_terminate_event(master, terminate);
}

/* A node with LVS_ROLE_STOP serves new connections itself, and has sent the others to all nodes. All of this while it still has the
 * VIP, and its adverts keep the others from an election: what the next director does not know it sends here. */
bool lvs_dr_hand_over(thread_func_t next)
{
	unsigned limit = 0;
	node_t *node;

	for (node = nodes; node; node = node->next) {
		if (!node->handover || node->role != LVS_ROLE_MASTER)
			continue;
		log_message(LOG_INFO, "(%s) lvs_dr: hands over", node->instance);
		node->role = LVS_ROLE_STOP;
		request(node);
		if (node->handover > limit)
			limit = node->handover;
	}
	/* A second signal does not wait. */
	if (!limit)
		return false;
	terminate = next;
	handover_limit = timer_add_long(time_now, limit * TIMER_HZ);
	thread_add_timer(master, end_handover, NULL, HANDOVER_INTERVAL);
	return true;
}

bool lvs_dr_is_stopping(void)
{
	return timerisset(&stop_limit) && timercmp(&time_now, &stop_limit, <) && any_is_busy();
}

/* Instead of reads, which the scheduler leaves out in a shutdown. */
static void stop_thread(__attribute__((unused)) thread_ref_t thread)
{
	node_t *node;

	for (node = nodes; node; node = node->next)
		if (node->driver && lvs_driver_is_busy(node->driver))
			drive(node, NULL);
	if (lvs_dr_is_stopping())
		thread_add_timer_shutdown(master, stop_thread, NULL, STOP_INTERVAL);
}

void lvs_dr_stop(void)
{
	node_t *node;

	for (node = nodes; node; node = node->next) {
		thread_cancel(node->read);
		thread_cancel(node->timer);
		node->read = node->timer = NULL;
	}
	stop_limit = timer_add_long(time_now, STOP_LIMIT);
	if (nodes)
		thread_add_timer_shutdown(master, stop_thread, NULL, STOP_INTERVAL);
}
