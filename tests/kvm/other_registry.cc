// devproc/registry.cc of a bulkhead-device that keeps the state of every device in another version.
#include "devproc/models/acpi_pm/acpi_pm.h"
#include "devproc/models/cmos_rtc/cmos_rtc.h"
#include "devproc/models/debug_exit/debug_exit.h"
#include "devproc/models/e1000/e1000.h"
#include "devproc/models/fw_cfg/fw_cfg.h"
#include "devproc/models/i8042/i8042.h"
#include "devproc/models/pci/pci_bus.h"
#include "devproc/models/pci_test/pci_test.h"
#include "devproc/models/system_ports/system_ports.h"
#include "devproc/models/uart16550/uart16550.h"
#include "devproc/models/usernet/usernet.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_balloon/virtio_balloon.h"
#include "devproc/models/virtio_blk/virtio_blk.h"
#include "devproc/models/virtio_console/virtio_console.h"
#include "devproc/models/virtio_net/virtio_net.h"
#include "devproc/models/virtio_rng/virtio_rng.h"
#include "devproc/models/virtio_vsock/virtio_vsock.h"
#include "devproc/models/vsock_relay/vsock_relay.h"
#include "devproc/registry.h"

#define kStateVersion kStateVersion + 1
#include "devproc/registry.cc"  // NOLINT(bugprone-suspicious-include)
