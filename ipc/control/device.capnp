@0x8c3fee5ec4203a65;
# Messages between the VMM's supervisor and one device process, each a whole SOCK_SEQPACKET packet.
# Trust: a device process may be hostile; device_messages.cc checks every field of what it sends.
# Version rule: fields and union members are only added, with the next free number; a reader that does not
# know a union member refuses the message.

using Cxx = import "/capnp/c++.capnp";
using DeviceConfig = import "device_config.capnp".DeviceConfig;
$Cxx.namespace("bulkhead::control::schema");

struct IndexRange {
  first @0 :UInt32;
  count @1 :UInt32;
}

struct FdGrant {
  purpose @0 :UInt16;  # FdPurpose; a number, so that an unknown one is seen rather than dropped
  index @1 :UInt32;
}

struct DeviceInstance {
  name @0 :Text;
  type @1 :Text;
  config @2 :DeviceConfig;
  regions @3 :IndexRange;
  lines @4 :IndexRange;
  streams @5 :IndexRange;
  vectors @6 :IndexRange;
  backings @7 :IndexRange;
  kicks @8 :IndexRange;
  dataRegions @9 :IndexRange;
}

struct GuestRange {
  guestBase @0 :UInt64;
  length @1 :UInt64;
  fdIndex @2 :UInt32;
  offset @3 :UInt64;
}

struct RingGrant {
  descriptor @0 :UInt32;
  backing @1 :UInt32;
  params @2 :Data;  # io_uring_params as io_uring_setup(2) left them
}

struct TakeRole {
  role @0 :Text;
  vm @1 :Text;
  incarnation @2 :UInt32;
  generation @3 :UInt32;
  start @4 :UInt8;     # StartKind
  vmTimeOffsetNs @5 :UInt64;
  instances @6 :List(DeviceInstance);
  fds @7 :List(FdGrant);
  guestRam @8 :List(GuestRange);
  blame @9 :Bool;
  rings @10 :List(RingGrant);
}

struct ToDevice {
  union {
    takeRole @0 :TakeRole;
    quiesce @1 :Void;
    getStatistics @2 :Void;
    inspect @3 :Text;  # an instance, or empty for all
  }
}

struct StateVersion {
  instance @0 :Text;
  version @1 :UInt32;
  layoutHash @2 :UInt64;
}

struct Ready {
  layoutHash @0 :UInt64;
  states @1 :List(StateVersion);
}

struct Quiesced {
  lastTicket @0 :UInt64;
  commitNumber @1 :UInt64;
}

struct Statistics {
  requestsServed @0 :UInt64;
  postedServed @1 :UInt64;
  commits @2 :UInt64;
  timersFired @3 :UInt64;
  streamEvents @4 :UInt64;
  linesRaised @5 :UInt64;
  messagesSent @6 :UInt64;
  effects @7 :UInt64;
  refusedAccesses @8 :UInt64;
  spuriousWakeups @9 :UInt64;
  spinsWon @10 :UInt64;
  spinsLost @11 :UInt64;
  sleeps @12 :UInt64;
}

struct InspectedField {
  name @0 :Text;
  value @1 :UInt64;
}

struct InspectedInstance {
  name @0 :Text;
  fields @1 :List(InspectedField);
}

struct FromDevice {
  union {
    ready @0 :Ready;
    failed @1 :Text;  # one sentence
    quiesced @2 :Quiesced;
    statistics @3 :Statistics;
    inspectReply @4 :List(InspectedInstance);
  }
}
