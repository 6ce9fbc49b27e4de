@0xc7c0adb04617cafa;
# One typed configuration struct per device type: ipc/roles/device_config.h on the wire.
# A new device type adds a struct here and a member to DeviceConfig, with the next free number.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bulkhead::control::schema");

struct CmosRtcConfig {
  ramBelow4g @0 :UInt64;
  ramAbove4g @1 :UInt64;
  cpus @2 :UInt16;
}

struct AcpiPmConfig {
  sciEnabled @0 :Bool;
}

struct PciFunctionConfig {
  devfn @0 :UInt8;
  type @1 :Text;
  romSize @2 :UInt32;
}

struct PciBusConfig {
  pmBase @0 :UInt16;
  ramBelow4g @1 :UInt64;
  functions @2 :List(PciFunctionConfig);
}

struct DiskGeometry {
  bytes @0 :UInt64;
  logicalBlock @1 :UInt32;
  physicalBlock @2 :UInt32;
  optimalIo @3 :UInt32;
  memoryAlign @4 :UInt32;
  readOnly @5 :Bool;
  volatileCache @6 :Bool;
  discard @7 :Bool;
  writeZeroes @8 :Bool;
  ring @9 :Bool;
}

struct RateLimit {
  bytesPerSecond @0 :UInt64;      # 0: no limit
  bytesBurst @1 :UInt64;
  operationsPerSecond @2 :UInt64;
  operationsBurst @3 :UInt64;
}

struct VirtioBlkConfig {
  queues @0 :UInt16;
  serial @1 :Text;
  disk @2 :DiskGeometry;
  stopOnNoSpace @3 :Bool;
  limit @4 :RateLimit;
}

struct VirtioNetConfig {
  mac @0 :Data;
  mtu @1 :UInt16;
  queuePairs @2 :UInt16;
  receiveLimit @3 :RateLimit;
  sendLimit @4 :RateLimit;
  frameRing @5 :Bool;
  offloads @6 :Bool;
}

struct PortForward {
  udp @0 :Bool;
  hostAddress @1 :UInt32;
  hostPort @2 :UInt16;
  guestAddress @3 :UInt32;
  guestPort @4 :UInt16;
}

struct UsernetConfig {
  network @0 :UInt32;
  mask @1 :UInt32;
  host @2 :UInt32;
  dns @3 :UInt32;
  guest @4 :UInt32;
  mtu @5 :UInt16;
  restricted @6 :Bool;
  hostLoopback @7 :Bool;
  hostname @8 :Text;
  tftp @9 :Bool;
  bootfile @10 :Text;
  forwards @11 :List(PortForward);
}

struct E1000Config {
  mac @0 :Data;
  receiveLimit @1 :RateLimit;
  sendLimit @2 :RateLimit;
  frameRing @3 :Bool;
  offloads @4 :Bool;
}

struct VirtioConsoleConfig {
  columns @0 :UInt16;
  rows @1 :UInt16;
}

struct VirtioBalloonConfig {
  target @0 :UInt64;
  statsSeconds @1 :UInt16;
  deflateOnOom @2 :Bool;
  reporting @3 :Bool;
}

struct VsockConfig {
  guestCid @0 :UInt32;
}

struct VgaConfig {
  width @0 :UInt16;
  height @1 :UInt16;
}

struct DeviceConfig {
  union {
    uart16550 @0 :Void;
    cmosRtc @1 :CmosRtcConfig;
    i8042 @2 :Void;
    acpiPm @3 :AcpiPmConfig;
    systemPorts @4 :Void;
    debugExit @5 :Void;
    pciTest @6 :Void;
    pciBus @7 :PciBusConfig;
    virtioRng @8 :Void;
    virtioBlk @9 :VirtioBlkConfig;
    virtioNet @10 :VirtioNetConfig;
    e1000 @11 :E1000Config;
    usernet @12 :UsernetConfig;
    virtioConsole @13 :VirtioConsoleConfig;
    virtioBalloon @14 :VirtioBalloonConfig;
    virtioVsock @15 :VsockConfig;
    vsockRelay @16 :VsockConfig;
    fwCfg @17 :Void;
    vga @18 :VgaConfig;
  }
}
