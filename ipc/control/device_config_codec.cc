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
void write(Builder out, const FwCfgConfig&) { out.setFwCfg(); }
void write(Builder out, const PciTestConfig&) { out.setPciTest(); }
void write(Builder out, const VirtioRngConfig&) { out.setVirtioRng(); }
void write(Builder out, const AcpiPmConfig& config) { out.initAcpiPm().setSciEnabled(config.sci_enabled); }

void write(Builder out, const VgaConfig& config) {
  auto body = out.initVga();
  body.setWidth(config.width);
  body.setHeight(config.height);
}

void write(Builder out, const CmosRtcConfig& config) {
  auto body = out.initCmosRtc();
  body.setRamBelow4g(config.ram_below_4g);
  body.setRamAbove4g(config.ram_above_4g);
  body.setCpus(config.cpus);
}

void write(schema::RateLimit::Builder out, const RateLimit& limit) {
  out.setBytesPerSecond(limit.bytes_per_second);
  out.setBytesBurst(limit.bytes_burst);
  out.setOperationsPerSecond(limit.operations_per_second);
  out.setOperationsBurst(limit.operations_burst);
}

RateLimit read_limit(schema::RateLimit::Reader in) {
  return {.bytes_per_second = in.getBytesPerSecond(),
          .bytes_burst = in.getBytesBurst(),
          .operations_per_second = in.getOperationsPerSecond(),
          .operations_burst = in.getOperationsBurst()};
}

void write(Builder out, const VirtioBlkConfig& config) {
  auto body = out.initVirtioBlk();
  body.setStopOnNoSpace(config.stop_on_no_space);
  write(body.initLimit(), config.limit);
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
                   .ring = disk.getRing()},
          .stop_on_no_space = in.getStopOnNoSpace(),
          .limit = read_limit(in.getLimit())};
}

// What every network card has is called the same in each one's struct.
template <class Body>
void write_nic(Body body, const NicConfig& config) {
  body.setMac(kj::arrayPtr(config.mac.data(), config.mac.size()));
  write(body.initReceiveLimit(), config.limits[kReceiveLimit]);
  write(body.initSendLimit(), config.limits[kSendLimit]);
  body.setFrameRing(config.backend == NicBackend::kFrameRing);
  body.setOffloads(config.offloads);
}

template <class Body>
NicConfig read_nic(Body in) {
  NicConfig config{.limits = {read_limit(in.getReceiveLimit()), read_limit(in.getSendLimit())},
                   .backend = in.getFrameRing() ? NicBackend::kFrameRing : NicBackend::kTap,
                   .offloads = in.getOffloads()};
  const auto mac = in.getMac();
  if (mac.size() != config.mac.size()) refuse("a MAC address has {} bytes", mac.size());
  std::copy(mac.begin(), mac.end(), config.mac.begin());
  return config;
}

void write(Builder out, const VirtioNetConfig& config) {
  auto body = out.initVirtioNet();
  write_nic(body, config.nic);
  body.setMtu(config.mtu);
  body.setQueuePairs(config.queue_pairs);
}

VirtioNetConfig read_virtio_net(schema::VirtioNetConfig::Reader in) {
  return {.nic = read_nic(in), .mtu = in.getMtu(), .queue_pairs = in.getQueuePairs()};
}

void write(Builder out, const E1000Config& config) { write_nic(out.initE1000(), config.nic); }

E1000Config read_e1000(schema::E1000Config::Reader in) { return {.nic = read_nic(in)}; }

void write(Builder out, const UsernetConfig& config) {
  auto body = out.initUsernet();
  body.setNetwork(config.network);
  body.setMask(config.mask);
  body.setHost(config.host);
  body.setDns(config.dns);
  body.setGuest(config.guest);
  body.setMtu(config.mtu);
  body.setRestricted(config.restricted);
  body.setHostLoopback(config.host_loopback);
  body.setHostname(text(config.hostname));
  body.setTftp(config.tftp);
  body.setBootfile(text(config.bootfile));
  auto forwards = body.initForwards(static_cast<unsigned>(config.forwards.size()));
  for (unsigned i = 0; i < forwards.size(); ++i) {
    forwards[i].setUdp(config.forwards[i].udp);
    forwards[i].setHostAddress(config.forwards[i].host_address);
    forwards[i].setHostPort(config.forwards[i].host_port);
    forwards[i].setGuestAddress(config.forwards[i].guest_address);
    forwards[i].setGuestPort(config.forwards[i].guest_port);
  }
}

UsernetConfig read_usernet(schema::UsernetConfig::Reader in) {
  UsernetConfig config{.network = in.getNetwork(),
                       .mask = in.getMask(),
                       .host = in.getHost(),
                       .dns = in.getDns(),
                       .guest = in.getGuest(),
                       .mtu = in.getMtu(),
                       .restricted = in.getRestricted(),
                       .host_loopback = in.getHostLoopback(),
                       .hostname = read_text(in.getHostname(), "a host name", kMaxHostname),
                       .tftp = in.getTftp(),
                       .bootfile = read_text(in.getBootfile(), "the name of a boot file", kMaxBootfile),
                       .forwards = {}};
  const auto forwards = in.getForwards();
  check_size(forwards, "port forwards", kMaxPortForwards);
  for (const auto forward : forwards) {
    config.forwards.push_back({.udp = forward.getUdp(),
                               .host_address = forward.getHostAddress(),
                               .host_port = forward.getHostPort(),
                               .guest_address = forward.getGuestAddress(),
                               .guest_port = forward.getGuestPort()});
  }
  return config;
}

void write(Builder out, const VirtioConsoleConfig& config) {
  auto body = out.initVirtioConsole();
  body.setColumns(config.columns);
  body.setRows(config.rows);
}

void write(Builder out, const VirtioBalloonConfig& config) {
  auto body = out.initVirtioBalloon();
  body.setTarget(config.target);
  body.setStatsSeconds(config.stats_seconds);
  body.setDeflateOnOom(config.deflate_on_oom);
  body.setReporting(config.reporting);
}

void write(Builder out, const VirtioVsockConfig& config) { out.initVirtioVsock().setGuestCid(config.guest_cid); }
void write(Builder out, const VsockRelayConfig& config) { out.initVsockRelay().setGuestCid(config.guest_cid); }

void write(Builder out, const PciBusConfig& config) {
  auto body = out.initPciBus();
  body.setPmBase(config.pm_base);
  body.setRamBelow4g(config.ram_below_4g);
  auto functions = body.initFunctions(static_cast<unsigned>(config.functions.size()));
  for (unsigned i = 0; i < functions.size(); ++i) {
    functions[i].setDevfn(config.functions[i].devfn);
    functions[i].setType(text(config.functions[i].type));
    functions[i].setRomSize(config.functions[i].rom_size);
  }
}

PciBusConfig read_pci_bus(schema::PciBusConfig::Reader in) {
  PciBusConfig config;
  config.pm_base = in.getPmBase();
  config.ram_below_4g = in.getRamBelow4g();
  const auto functions = in.getFunctions();
  check_size(functions, "PCI functions", kMaxPciFunctions);
  for (const auto function : functions) {
    config.functions.push_back({.devfn = function.getDevfn(),
                                .type = read_name(function.getType(), "the type of a PCI function"),
                                .rom_size = function.getRomSize()});
    const std::uint32_t rom = config.functions.back().rom_size;
    if (rom != 0 && (rom < kLeastRomBar || rom > kLargestRomBar || (rom & (rom - 1)) != 0))
      refuse("an expansion ROM of {} bytes", rom);
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
    case Kind::FW_CFG: return FwCfgConfig{};
    case Kind::PCI_TEST: return PciTestConfig{};
    case Kind::VIRTIO_RNG: return VirtioRngConfig{};
    case Kind::VIRTIO_BLK: return read_virtio_blk(in.getVirtioBlk());
    case Kind::VIRTIO_NET: return read_virtio_net(in.getVirtioNet());
    case Kind::E1000: return read_e1000(in.getE1000());
    case Kind::USERNET: return read_usernet(in.getUsernet());
    case Kind::VIRTIO_CONSOLE: {
      const auto body = in.getVirtioConsole();
      return VirtioConsoleConfig{.columns = body.getColumns(), .rows = body.getRows()};
    }
    case Kind::VIRTIO_BALLOON: {
      const auto body = in.getVirtioBalloon();
      return VirtioBalloonConfig{.target = body.getTarget(),
                                 .stats_seconds = body.getStatsSeconds(),
                                 .deflate_on_oom = body.getDeflateOnOom(),
                                 .reporting = body.getReporting()};
    }
    case Kind::VIRTIO_VSOCK: return VirtioVsockConfig{.guest_cid = in.getVirtioVsock().getGuestCid()};
    case Kind::VSOCK_RELAY: return VsockRelayConfig{.guest_cid = in.getVsockRelay().getGuestCid()};
    case Kind::VGA: return VgaConfig{.width = in.getVga().getWidth(), .height = in.getVga().getHeight()};
    case Kind::PCI_BUS: return read_pci_bus(in.getPciBus());
  }
  refuse("device configuration {} is unknown", static_cast<unsigned>(in.which()));
}

}  // namespace bulkhead::control::codec
