/*
 * IPVS in C++: handles and lists that free themselves, failures that are exceptions. Gives a server its share of the
 * connections, and prints the table with its counters.
 *
 *     table SERVICE SERVER WEIGHT                  table "tcp 192.168.0.254:80" 192.168.0.11:80 3
 */
#include <lvs_dr.h>

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

class error : public std::runtime_error {
public:
    explicit error(int status) : std::runtime_error(message() + " (" + lvs_status_name(status) + ")") {}

private:
    static std::string message()
    {
        std::string text(lvs_last_error_message(nullptr, 0) + 1, '\0');
        text.resize(lvs_last_error_message(&text[0], text.size()));
        return text;
    }
};

void check(int status)
{
    if (status != LVS_OK)
        throw error(status);
}

/* What a function of the library opens or lists, and another one frees. */
template <typename T, void (*Free)(T *)> class owned {
public:
    template <typename Open> explicit owned(Open open)
    {
        T *opened = nullptr;
        check(open(&opened));
        pointer.reset(opened);
    }
    operator T *() const { return pointer.get(); }

private:
    struct deleter {
        void operator()(T *freed) const { Free(freed); }
    };
    std::unique_ptr<T, deleter> pointer;
};

using client = owned<lvs_ipvs, lvs_ipvs_free>;
using services = owned<lvs_services, lvs_services_free>;
using destinations = owned<lvs_destinations, lvs_destinations_free>;

template <typename T> T sized()
{
    T structure = T();
    structure.size = sizeof structure;
    return structure;
}

void print(client &ipvs)
{
    services listed([&](lvs_services **list) { return lvs_ipvs_services(ipvs, list); });
    auto service = sized<lvs_service>();
    auto server = sized<lvs_destination>();
    auto counted = sized<lvs_counters>();

    for (std::size_t i = 0; i < lvs_services_count(listed); i++) {
        check(lvs_services_get(listed, i, &service));
        check(lvs_services_counters(listed, i, &counted));
        std::cout << service.id << ' ' << service.scheduler << ", " << counted.connections << " connections\n";
        destinations found([&](lvs_destinations **list) { return lvs_ipvs_destinations(ipvs, service.id, list); });
        for (std::size_t k = 0; k < lvs_destinations_count(found); k++) {
            check(lvs_destinations_get(found, k, &server));
            check(lvs_destinations_counters(found, k, &counted));
            std::cout << "  " << server.address << " weight " << server.weight << ", " << counted.active << " active\n";
        }
    }
}

} // namespace

int main(int argc, char **argv)
try {
    if (argc != 4) {
        std::cerr << "usage: table SERVICE SERVER WEIGHT\n";
        return 2;
    }
    client ipvs([](lvs_ipvs **opened) { return lvs_ipvs_open(nullptr, opened); });
    check(lvs_ipvs_set_weight(ipvs, argv[1], argv[2], static_cast<std::uint32_t>(std::stoul(argv[3]))));
    print(ipvs);
    return EXIT_SUCCESS;
} catch (const std::exception &failure) {
    std::cerr << "table: " << failure.what() << '\n';
    return EXIT_FAILURE;
}
