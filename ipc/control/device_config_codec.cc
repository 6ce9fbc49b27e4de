#include "ipc/control/device_config_codec.h"

#include <algorithm>

#include "ipc/control/capnp_codec.h"

namespace bulkhead::control::codec {
namespace {

using Builder = schema::DeviceConfig::Builder;

void write(Builder out, const Uart16550Config&) { out.setUart16550(); }
void write(Builder out, const I8042Config&) { out.setI8042(); }
void write(Builder out, const SystemPortsConfig&) { out.setSystemPorts(); }
void write(Builder out, const DebugExitConfig&) { out.setDebugExit(); }
void write(Builder out, const PciTestConfig&) { out.setPciTest(); }
void write(Builder out, const VirtioRngConfig&) { out.setVirtioRng(); }
void write(Builder out, const AcpiPmConfig& config) { out.initAcpiPm().setSciEnabled(config.sci_enabled); }

void write(Builder out, const CmosRtcConfig& config) {
  auto body = out.initCmosRtc();
  body.setRamBelow4g(config.ram_below_4g);
  body.setRamAbove4g(config.ram_above_4g);
  body.setCpus(config.cpus);
}

void write(Builder out, const VirtioBlkConfig& config) {
  auto body = out.initVirtioBlk();
  body.setQueues(config.queues);
  body.setSerial(text(config.serial));
  auto disk = body.initDisk();
  disk.setBytes(config.disk.bytes);
  disk.setLogicalBlock(config.disk.logical_block);
  disk.setPhysicalBlock(config.disk.physical_block);
  disk.setOptimalIo(config.disk.optimal_io);
  disk.setMemoryAlign(config.disk.memory_align);
  disk.setReadOnly(config.disk.read_only);
  disk.setVolatileCache(config.disk.volatile_cache);
  disk.setDiscard(config.disk.discard);
  disk.setWriteZeroes(config.disk.write_zeroes);
  disk.setRing(config.disk.ring);
}

VirtioBlkConfig read_virtio_blk(schema::VirtioBlkConfig::Reader in) {
  const auto disk = in.getDisk();
  return {.queues = in.getQueues(),
          .serial = read_text(in.getSerial(), "a disk's serial number", kMaxDiskSerial),
          .disk = {.bytes = disk.getBytes(),
                   .logical_block = disk.getLogicalBlock(),
                   .physical_block = disk.getPhysicalBlock(),
                   .optimal_io = disk.getOptimalIo(),
                   .memory_align = disk.getMemoryAlign(),
                   .read_only = disk.getReadOnly(),
                   .volatile_cache = disk.getVolatileCache(),
                   .discard = disk.getDiscard(),
                   .write_zeroes = disk.getWriteZeroes(),
                   .ring = disk.getRing()}};
}

void write(Builder out, const VirtioNetConfig& config) {
  auto body = out.initVirtioNet();
  body.setMac(kj::arrayPtr(config.mac.data(), config.mac.size()));
  body.setMtu(config.mtu);
  body.setQueuePairs(config.queue_pairs);
}

VirtioNetConfig read_virtio_net(schema::VirtioNetConfig::Reader in) {
  VirtioNetConfig config{.mtu = in.getMtu(), .queue_pairs = in.getQueuePairs()};
  const auto mac = in.getMac();
  if (mac.size() != config.mac.size()) refuse("a MAC address has {} bytes", mac.size());
  std::copy(mac.begin(), mac.end(), config.mac.begin());
  return config;
}

void write(Builder out, const PciBusConfig& config) {
  auto body = out.initPciBus();
  body.setPmBase(config.pm_base);
  body.setRamBelow4g(config.ram_below_4g);
  auto functions = body.initFunctions(static_cast<unsigned>(config.functions.size()));
  for (unsigned i = 0; i < functions.size(); ++i) {
    functions[i].setDevfn(config.functions[i].devfn);
    functions[i].setType(text(config.functions[i].type));
  }
}

PciBusConfig read_pci_bus(schema::PciBusConfig::Reader in) {
  PciBusConfig config;
  config.pm_base = in.getPmBase();
  config.ram_below_4g = in.getRamBelow4g();
  const auto functions = in.getFunctions();
  check_size(functions, "PCI functions", kMaxPciFunctions);
  for (const auto function : functions) {
    config.functions.push_back(
        {.devfn = function.getDevfn(), .type = read_name(function.getType(), "the type of a PCI function")});
  }
  return config;
}

}  // namespace

void write_device_config(Builder out, const DeviceConfig& config) {
  std::visit([&](const auto& body) { write(out, body); }, config);
}

DeviceConfig read_device_config(schema::DeviceConfig::Reader in) {
  using Kind = schema::DeviceConfig;
  switch (in.which()) {
    case Kind::UART16550: return Uart16550Config{};
    case Kind::CMOS_RTC: {
      const auto body = in.getCmosRtc();
      return CmosRtcConfig{
          .ram_below_4g = body.getRamBelow4g(), .ram_above_4g = body.getRamAbove4g(), .cpus = body.getCpus()};
    }
    case Kind::I8042: return I8042Config{};
    case Kind::ACPI_PM: return AcpiPmConfig{.sci_enabled = in.getAcpiPm().getSciEnabled()};
    case Kind::SYSTEM_PORTS: return SystemPortsConfig{};
    case Kind::DEBUG_EXIT: return DebugExitConfig{};
    case Kind::PCI_TEST: return PciTestConfig{};
    case Kind::VIRTIO_RNG: return VirtioRngConfig{};
    case Kind::VIRTIO_BLK: return read_virtio_blk(in.getVirtioBlk());
    case Kind::VIRTIO_NET: return read_virtio_net(in.getVirtioNet());
    case Kind::PCI_BUS: return read_pci_bus(in.getPciBus());
  }
  refuse("device configuration {} is unknown", static_cast<unsigned>(in.which()));
}

}  // namespace bulkhead::control::codec
