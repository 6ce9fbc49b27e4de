// HostPublisher: a device's GuestPublisher. What a model publishes is noted in the role's uncommitted state; after the
// commit, show() stores it, each entry once for ever (ipc/state/publication.h).
//
// A role has one list, for all of its devices together. It is there only when one of them declares `publishes`.
// Threading: single-threaded. Trust: addresses are the guest's; a restored list is brought into range by mend().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "devproc/backends/guest_ranges.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "ipc/state/publication.h"

namespace bulkhead::devproc {

class HostPublisher final : public GuestPublisher {
 public:
  static constexpr std::size_t kMostEntries = 128;  // of one input

  // All outlive this.
  HostPublisher(StateAllocator& allocator, ipc::PublicationWords& words, GuestRanges& memory);

  void publish(GuestPhys address, std::uint64_t value) override;
  [[nodiscard]] std::size_t room() const override;

  // Before anything else, once the state region is open; `resumed`: it is a predecessor's.
  void begin(bool resumed);
  void new_input() { fresh_ = true; }
  // The input at hand has published something.
  [[nodiscard]] bool pending() const { return !fresh_; }
  // After the commit, and after a take-over. Works on the state as last committed and synced.
  void show();

 private:
  static constexpr std::size_t kPartEntries = 32;
  struct Entry {
    std::uint64_t address;
    std::uint64_t value;
  };
  struct Head {
    std::uint64_t first;  // stores made before the first entry's
    std::uint64_t count;
  };
  struct Part {  // a commit copies only those that changed
    std::array<Entry, kPartEntries> entries;
  };
  void mend();
  void store(const Entry& entry);

  Persistent<Head> head_;
  std::array<Persistent<Part>, kMostEntries / kPartEntries> parts_;
  ipc::PublicationWords& words_;
  GuestRanges& memory_;
  bool fresh_ = true;  // nothing was published in the input at hand
};

}  // namespace bulkhead::devproc
