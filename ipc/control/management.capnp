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
  pauseReason @11 :Text;       # paused: why, when it was not a manager's wish
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
  lastStallNs @12 :Int64;
  longestStallNs @13 :Int64;
  replayed @14 :UInt64;
  poisoned @15 :UInt64;
}

struct DeviceEvent {
  number @0 :UInt64;           # 1, 2, 3 ... within the VM's life
  timeNs @1 :Int64;            # CLOCK_REALTIME
  kind @2 :UInt8;              # DeviceEventKind
  role @3 :Text;
  pid @4 :UInt32;
  incarnation @5 :UInt32;
  cause @6 :Text;
  signal @7 :Int32;            # that ended the process; 0: none
  systemCall @8 :Text;         # that the jail refused
  ticket @9 :UInt64;
  stallNs @10 :Int64;
}

struct LimitProperty {
  key @0 :Text;
  value @1 :Text;
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

struct EventsAnswer {
  union {
    events @0 :List(DeviceEvent);
    failed @1 :Text;
  }
}

struct ConsoleOutput {
  bytes @0 :Data;
  next @1 :UInt64;
}

struct ConsoleAnswer {
  union {
    output @0 :ConsoleOutput;
    failed @1 :Text;
  }
}

struct BytesAnswer {
  union {
    bytes @0 :Data;
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

  fault @8 (role :Text, signal :Int32) -> (outcome :Outcome);
  # Sends a signal (SIGKILL, SIGSEGV, SIGSTOP or SIGABRT) to the process that plays `role`, or to the "standby".

  upgrade @9 (role :Text, path :Text) -> (outcome :Outcome);
  # Puts the executable at `path`, absolute, under a running device. Answered once it serves, or is refused.

  restore @10 (role :Text) -> (outcome :Outcome);
  # Brings an isolated device back, from reset. Answered once it serves.

  limit @12 (instance :Text, properties :List(LimitProperty)) -> (outcome :Outcome);
  # Sets rate limits of a device instance, as --disk and --net name them: {"bps", "10M"}. What is not named stays.

  setBalloon @13 (bytes :UInt64) -> (outcome :Outcome);
  # How much memory the guest is to give up to its balloon.

  screen @14 () -> (answer :BytesAnswer);
  # The VGA's registers (ipc/screen/vga_registers.h).

  videoMemory @15 (offset :UInt64, length :UInt32) -> (answer :BytesAnswer);
  # At most kMaxVideoPart bytes of what the VGA's memory holds now.

  sendInput @16 (events :Data) -> (outcome :Outcome);
  # InputEvents (ipc/wire/input_event.h) of the keyboard or the mouse, at most kMaxInputEvents at once.

  console @17 (after :UInt64) -> (answer :ConsoleAnswer);
  # What came out of the first serial port from position `after` on, as far as it is kept, and the position behind it.

  typeOnConsole @18 (bytes :Data) -> (outcome :Outcome);
  # Input for the first serial port, at most kMaxConsoleInput bytes: all of it is taken, or none.

  events @11 (after :UInt64, most :UInt32, wait :Bool) -> (answer :EventsAnswer);
  # Those with a number above `after`, oldest first, at most `most`. When there are none and `wait` is set, the answer
  # comes with the next one, or empty after ten seconds: ask again.
}
