// UserNetwork: what stands behind a guest's network card when the host has no interface for it: a router, a DHCP and a
// name server made of ordinary sockets of the host (devproc/usernet).
//
// It lives as long as its process: a successor begins with an empty one, so connections that went through it are reset,
// and its addresses stay the same. The model calls it within an input; what it does to its sockets cannot be undone.
//
// Frames are Ethernet frames without any header before them. Threading: single-threaded. Trust: frames are the guest's,
// and hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "devproc/core/clock.h"

namespace bulkhead::devproc {

class UserNetwork {
 public:
  // Where frames for the guest go.
  class Output {
   public:
    virtual ~Output() = default;
    virtual void frame(std::span<const std::byte> frame) = 0;
  };

  virtual ~UserNetwork() = default;
  // A frame of the guest's.
  virtual void input(std::span<const std::byte> frame, VmTime now, Output& output) = 0;
  // Does what its sockets and its timers ask for. Returns when it wants to be run again, if no socket stirs before;
  // nullopt: not by itself.
  virtual std::optional<VmTime> run(VmTime now, Output& output) = 0;
};

}  // namespace bulkhead::devproc
