@0xf4f68e0036ed40cd;
# The management interface of a running VM: Cap'n Proto RPC, two-party, over its Unix socket NAME.sock.
# The bootstrap capability is Management. A caller must have the VMM's uid or be root (SO_PEERCRED).
# What cannot be done is answered in `failed` as one sentence; an RPC exception means a broken connection.
# Version rule: methods, fields and union members are only added, with the next free number.

using Cxx = import "/capnp/c++.capnp";
using Device = import "device.capnp";
$Cxx.namespace("bulkhead::control::schema");

struct VmStatus {
  name @0 :Text;
  pid @1 :UInt32;
  state @2 :UInt8;             # VmState
  cpus @3 :UInt32;
  memoryBytes @4 :UInt64;
  uptimeNs @5 :UInt64;
  generation @6 :UInt32;
  exits @7 :UInt64;
  unclaimedAccesses @8 :UInt64;
  kernel @9 :Text;
  console @10 :Text;
}

struct JailSummary {
  seccompMode @0 :UInt8;
  noNewPrivs @1 :Bool;
  capEff @2 :UInt64;
  ownNamespaces @3 :List(Text);
  uid @4 :UInt32;
}

struct DeviceInfo {
  role @0 :Text;
  instances @1 :List(Text);
  pid @2 :UInt32;
  state @3 :UInt8;             # DeviceState
  incarnation @4 :UInt32;
  restarts @5 :UInt32;
  jail @6 :JailSummary;
  requests @7 :UInt64;
  posted @8 :UInt64;
  commits @9 :UInt64;
  statistics @10 :Device.Statistics;
  permissions @11 :Text;
}

struct Outcome {
  union {
    done @0 :Void;
    failed @1 :Text;
  }
}

struct StatusAnswer {
  union {
    status @0 :VmStatus;
    failed @1 :Text;
  }
}

struct DevicesAnswer {
  union {
    devices @0 :List(DeviceInfo);
    failed @1 :Text;
  }
}

struct InspectAnswer {
  union {
    instances @0 :List(Device.InspectedInstance);
    failed @1 :Text;
  }
}

interface Management {
  status @0 () -> (answer :StatusAnswer);
  # What the VM is and does.

  devices @1 () -> (answer :DevicesAnswer);
  # Every device process with its jail, counters and permissions.

  powerButton @2 () -> (outcome :Outcome);
  # Presses the ACPI power button; the guest decides what follows.

  kill @3 () -> (outcome :Outcome);
  # Ends the VM at once.

  pause @4 () -> (outcome :Outcome);
  resume @5 () -> (outcome :Outcome);
  reset @6 () -> (outcome :Outcome);

  inspect @7 (instance :Text) -> (answer :InspectAnswer);
  # Registers and counters of one device instance, or of all when `instance` is empty.
}
