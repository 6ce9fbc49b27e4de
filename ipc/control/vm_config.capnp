@0xef679d2a7c4106b7;
# Messages between `bulkhead run` and bulkhead-vmm, each a whole SOCK_SEQPACKET packet.
# Version rule: as in device.capnp.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bulkhead::control::schema");

struct Property {
  key @0 :Text;
  value @1 :Text;
}

struct DeviceRequest {
  type @0 :Text;
  properties @1 :List(Property);
  files @2 :UInt8;
  rom @3 :Bool;
}

struct OnCrashRule {
  role @0 :Text;               # empty: every role that no other rule names
  action @1 :UInt8;            # OnCrash
}

struct VmConfig {
  name @0 :Text;
  nameIsDerived @1 :Bool;
  runDirectory @2 :Text;
  kernelPath @3 :Text;
  initrdPath @4 :Text;
  commandLine @5 :Text;
  memoryBytes @6 :UInt64;
  cpus @7 :UInt32;
  sockets @8 :UInt32;
  cores @9 :UInt32;
  threads @10 :UInt32;
  console @11 :UInt8;   # ConsoleKind
  consolePath @12 :Text;
  logPath @13 :Text;
  onReset @14 :UInt8;   # OnReset
  devices @15 :List(DeviceRequest);
  files @16 :List(UInt8);  # VmFile of each descriptor, in the packet's order, each at most once; then the devices', then the ROMs
  deviceDeadlineNs @17 :UInt64;
  onCrash @18 :List(OnCrashRule);
  firmwarePath @19 :Text;
  bootMenuMs @20 :UInt32;
}

struct TerminalSize {
  columns @0 :UInt16;
  rows @1 :UInt16;
}

struct ToVmm {
  union {
    config @0 :VmConfig;
    powerButton @1 :Void;
    kill @2 :Void;
    resizeTerminal @3 :TerminalSize;
  }
}

struct Started {
  name @0 :Text;
  deviceProcesses @1 :UInt32;
}

struct Ended {
  sentence @0 :Text;
  status @1 :UInt8;
}

struct FromVmm {
  union {
    started @0 :Started;
    failed @1 :Ended;
    exited @2 :Ended;
  }
}
