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

struct VirtioBlkConfig {
  queues @0 :UInt16;
  serial @1 :Text;
  disk @2 :DiskGeometry;
}

struct VirtioNetConfig {
  mac @0 :Data;
  mtu @1 :UInt16;
  queuePairs @2 :UInt16;
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
  }
}
