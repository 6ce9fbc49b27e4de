#include "devproc/host/guest_publisher.h"

#include "devproc/host/failpoint.h"

// P and Q, with nothing in between that a compiler could put there. rdi: place, rsi: value, rdx: &published.
asm(R"(
  .pushsection .text
  .globl bulkhead_publish
  .type bulkhead_publish, @function
bulkhead_publish:
  movq %rsi, (%rdi)
  .globl bulkhead_publish_mark
bulkhead_publish_mark:
  incq (%rdx)
  ret
  .size bulkhead_publish, . - bulkhead_publish
  .popsection
)");
extern "C" void bulkhead_publish(std::uint64_t* place, std::uint64_t value, std::atomic<std::uint64_t>* published);
extern "C" const char bulkhead_publish_mark[];

namespace bulkhead::devproc {

HostPublisher::HostPublisher(StateAllocator& allocator, ipc::PublicationWords& words, GuestRanges& memory)
    : head_(allocate_state<Head>(allocator)),
      parts_{allocate_state<Part>(allocator), allocate_state<Part>(allocator), allocate_state<Part>(allocator),
             allocate_state<Part>(allocator)},
      words_(words),
      memory_(memory) {}

void HostPublisher::begin(bool resumed) {
  if (resumed) mend();
  words_.publish_mark.store(reinterpret_cast<std::uintptr_t>(bulkhead_publish_mark), std::memory_order_release);
}

// A count that no honest predecessor left: what is in the list counts as made, since twice would be worse than never.
void HostPublisher::mend() {
  if (head_->count > kMostEntries) head_.mut().count = 0;
  const std::uint64_t made = words_.published.load(std::memory_order_relaxed) - head_->first;
  if (made > head_->count) words_.published.store(head_->first + head_->count, std::memory_order_relaxed);
}

std::size_t HostPublisher::room() const { return fresh_ ? kMostEntries : kMostEntries - head_->count; }

void HostPublisher::publish(GuestPhys address, std::uint64_t value) {
  Head& head = head_.mut();
  if (fresh_) {
    head.first += head.count;
    head.count = 0;
    fresh_ = false;
  }
  if (head.count == kMostEntries) return;
  parts_[head.count / kPartEntries].mut().entries[head.count % kPartEntries] = {address, value};
  ++head.count;
}

void HostPublisher::show() {
  for (;;) {
    const std::uint64_t made = words_.published.load(std::memory_order_relaxed) - head_->first;
    if (made >= head_->count) break;
    FAILPOINT("publish: before");
    store(parts_[made / kPartEntries]->entries[made % kPartEntries]);
    FAILPOINT("publish: done");
  }
}

void HostPublisher::store(const Entry& entry) {
  // RAM begins and ends at pages.
  const std::span<std::byte> place = entry.address % sizeof(std::uint64_t) == 0
                                         ? memory_.host_range(entry.address, sizeof(std::uint64_t))
                                         : std::span<std::byte>();
  if (place.size() < sizeof(std::uint64_t)) {
    words_.published.store(words_.published.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return;
  }
  bulkhead_publish(reinterpret_cast<std::uint64_t*>(place.data()), entry.value, &words_.published);
}

}  // namespace bulkhead::devproc
