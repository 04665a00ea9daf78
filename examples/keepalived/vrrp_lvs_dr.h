/* The block `lvs_dr` of a vrrp_instance: what the rest of keepalived calls. See vrrp_lvs_dr.c. */
#ifndef VRRP_LVS_DR_H
#define VRRP_LVS_DR_H

#include <stdbool.h>

#include "scheduler.h"
#include "vrrp.h"

/* The parser: the keywords of the block. */
extern void lvs_dr_install_keywords(void);

/* A reload has ended all threads of the scheduler. */
extern void lvs_dr_forget_threads(void);

/* The configuration is read, at the start or a reload, and the interfaces are known. */
extern void lvs_dr_start(void);

/* File descriptors that the nodes need in addition. */
extern unsigned lvs_dr_descriptors(void);

/* An instance has a new state. */
extern void lvs_dr_notify(const vrrp_t *);

/* A signal asks for the end of the process. True: what is passed is called later, after the handover of a director. */
extern bool lvs_dr_hand_over(thread_func_t);

/* All instances have been stopped, and the scheduler runs nothing but timers of the shutdown. */
extern void lvs_dr_stop(void);

/* Whether a node still works on its last role, within the time limit. */
extern bool lvs_dr_is_stopping(void);

#endif
