"""Lists the table of IPVS and takes on a role, by cffi alone: node.py HEADER LIBRARY INTERFACE VIP ROLE"""

import re
import sys

import cffi

ffi = cffi.FFI()


def declarations(path):
    """The header without the preprocessor's lines, but with the constants; what is for C++ goes."""
    cplusplus = False
    for line in open(path, encoding="utf-8"):
        if line.startswith(("#ifdef __cplusplus", "#endif")):
            cplusplus = line.startswith("#ifdef")
        elif not cplusplus and (not line.startswith("#") or re.match(r"#define LVS_\w+ -?\d+$", line)):
            yield line


def check(status):
    if status != lvs.LVS_OK:
        text = ffi.new("char[1024]")
        lvs.lvs_last_error_message(text, len(text))
        sys.exit(ffi.string(text).decode())


def opened(open_it, kind):
    handle = ffi.new(f"lvs_{kind} **")
    check(open_it(handle))
    return ffi.gc(handle[0], getattr(lvs, f"lvs_{kind}_free"))


def structure(kind, **fields):
    return ffi.new(f"struct lvs_{kind} *", {"size": ffi.sizeof(f"struct lvs_{kind}"), **fields})


header, library, interface, vip, role = sys.argv[1:]
ffi.cdef("".join(declarations(header)))
lvs = ffi.dlopen(library)

ipvs = opened(lambda handle: lvs.lvs_ipvs_open(ffi.NULL, handle), "ipvs")
services = opened(lambda found: lvs.lvs_ipvs_services(ipvs, found), "services")
service, destination = structure("service"), structure("destination")
for i in range(lvs.lvs_services_count(services)):
    check(lvs.lvs_services_get(services, i, service))
    print(ffi.string(service.id).decode(), ffi.string(service.scheduler).decode())
    found = opened(lambda found: lvs.lvs_ipvs_destinations(ipvs, service.id, found), "destinations")
    for k in range(lvs.lvs_destinations_count(found)):
        check(lvs.lvs_destinations_get(found, k, destination))
        print(" ", ffi.string(destination.address).decode(), destination.weight)

texts = [ffi.new("char[]", text.encode()) for text in (interface, vip, "/run/lvs-python")]
vips = ffi.new("char *[]", [texts[1]])
config = structure("node_config", interface=texts[0], vips=vips, vip_count=1, state_dir=texts[2])
node = opened(lambda handle: lvs.lvs_node_open(ffi.NULL, config, handle), "node")
steps = []
log = ffi.callback("void(const char *, void *)", lambda text, context: steps.append(ffi.string(text).decode()))
check(lvs.lvs_node_set_log(node, log, ffi.NULL))
number = ffi.new("uint32_t *")
check(lvs.lvs_role_from_text(role.encode(), number))
check(lvs.lvs_node_become_role(node, number[0], ffi.NULL))
status, summary = opened(lambda found: lvs.lvs_node_read_status(node, found), "status"), structure("node_status")
check(lvs.lvs_status_summary(status, summary))
print(f"{len(steps)} steps, role {summary.role}, reached {summary.reached}, missing {summary.missing}")
