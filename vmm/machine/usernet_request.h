// read_usernet(): the properties of a card's user network, checked.
//
// Properties: net=ADDRESS/BITS, host=, dns= and dhcpstart=ADDRESS in it, hostname=TEXT, bootfile=TEXT, restrict=on|off,
// host-loopback=on|off, hostfwd=RULE[;RULE...] with RULES as tcp:127.0.0.1:2222-:22, tcp::8080-10.0.2.15:80 or
// udp::53-:53. Unless they are named, the gateway is the network's second address, the name server the third, and DHCP
// begins at the fifteenth, which also is where forwarded ports lead. Errors: one sentence that names the property.
// Threading: pure. Trust: the configuration is the user's.
#pragma once

#include "ipc/base/result.h"
#include "ipc/roles/device_config.h"
#include "vmm/machine/properties.h"

namespace bulkhead::vmm {

[[nodiscard]] Result<UsernetConfig> read_usernet(Properties& properties);

}  // namespace bulkhead::vmm
