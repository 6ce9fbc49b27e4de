#include "vmm/bus/address_space.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ipc/base/log.h"

namespace bulkhead::vmm {
namespace {

constinit LogLimiter unclaimed_limiter{4};

}  // namespace

// Keeps one table alive while a vCPU is inside it.
class AddressSpace::Pin {
 public:
  Pin(const AddressSpace& space, std::uint32_t reader) : hazard_(space.hazards_[reader].table) {
    table_ = space.current_.load(std::memory_order_acquire);
    for (;;) {
      hazard_.exchange(table_, std::memory_order_seq_cst);
      const Table* again = space.current_.load(std::memory_order_seq_cst);
      if (again == table_) return;
      table_ = again;
    }
  }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  ~Pin() { hazard_.store(nullptr, std::memory_order_release); }
  const Table& operator*() const { return *table_; }

 private:
  std::atomic<const Table*>& hazard_;
  const Table* table_;
};

AddressSpace::AddressSpace() : current_(new Table) {}

AddressSpace::~AddressSpace() { delete current_.load(); }

Status AddressSpace::publish(std::vector<Claim> claims) {
  auto table = std::make_unique<Table>();
  std::string problems;
  for (Claim& claim : claims) {
    const std::optional<Range> range = Range::make(claim.base, claim.length);
    if (!range || (claim.space == Space::kPort && range->last() > 0xffff)) {
      problems += fmt::format("{} claims a range that does not exist; ", claim.owner);
      continue;
    }
    std::vector<Entry>& entries = table->spaces[static_cast<std::size_t>(claim.space)];
    entries.push_back({range->first(), range->last(), std::move(claim)});
  }
  for (std::vector<Entry>& entries : table->spaces) {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.first < b.first; });
    for (std::size_t i = 0; i < entries.size(); ++i) {
      for (std::size_t j = i + 1; j < entries.size() && entries[j].first <= entries[i].last; ++j)
        problems +=
            fmt::format("{} ({:#x}-{:#x}) overlaps {} ({:#x}-{:#x}); ", entries[j].claim.owner, entries[j].first,
                        entries[j].last, entries[i].claim.owner, entries[i].first, entries[i].last);
    }
  }
  if (!problems.empty()) return make_error(problems.substr(0, problems.size() - 2));
  const Table* old = current_.exchange(table.release(), std::memory_order_seq_cst);
  retired_.emplace_back(old);
  free_retired();
  return ok();
}

void AddressSpace::free_retired() {
  std::erase_if(retired_, [this](const std::unique_ptr<const Table>& table) {
    return std::none_of(hazards_.begin(), hazards_.end(), [&](const Hazard& hazard) {
      return hazard.table.load(std::memory_order_seq_cst) == table.get();
    });
  });
}

const AddressSpace::Entry* AddressSpace::find(const Table& table, Space space, std::uint64_t address) {
  const std::vector<Entry>& entries = table.spaces[static_cast<std::size_t>(space)];
  const auto after = std::upper_bound(entries.begin(), entries.end(), address,
                                      [](std::uint64_t a, const Entry& entry) { return a < entry.first; });
  if (after == entries.begin()) return nullptr;
  const Entry& entry = *std::prev(after);
  return address <= entry.last ? &entry : nullptr;
}

bool AddressSpace::unclaimed_run(const Table& table, Space space, std::uint64_t address, std::uint64_t size) {
  const std::vector<Entry>& entries = table.spaces[static_cast<std::size_t>(space)];
  const auto at_or_after = std::lower_bound(entries.begin(), entries.end(), address,
                                            [](const Entry& entry, std::uint64_t a) { return entry.last < a; });
  return at_or_after == entries.end() || (at_or_after->first > address && at_or_after->first - address >= size);
}

void AddressSpace::count_unclaimed(Space space, std::uint64_t address, std::uint32_t accesses, bool is_write) {
  unclaimed_.fetch_add(accesses, std::memory_order_relaxed);
  if (log_enabled(LogLevel::kDebug) && unclaimed_limiter.allow())
    log(LogLevel::kDebug, "nobody answers a {} at {} {:#x}", is_write ? "write" : "read",
        space == Space::kPort ? "port" : "address", address);
}

void AddressSpace::read(std::uint32_t vcpu, Space space, std::uint64_t address, std::uint8_t size, std::uint32_t count,
                        std::span<std::byte> out) {
  const Pin pin(*this, vcpu);
  const Entry* entry = find(*pin, space, address);
  if (entry != nullptr && std::has_single_bit(size) && size - 1U <= entry->last - address) {
    const Claim& claim = entry->claim;
    claim.channel->read(vcpu, {claim.instance, claim.region, size, count, address - entry->first, false}, out);
    return;
  }
  if (entry == nullptr && unclaimed_run(*pin, space, address, size)) {
    std::fill(out.begin(), out.end(), std::byte{0xff});
    return count_unclaimed(space, address, count, false);
  }
  for (std::uint32_t i = 0; i < count; ++i)
    read_one(*pin, vcpu, space, address, out.subspan(std::size_t{i} * size, size));
}

void AddressSpace::read_one(const Table& table, std::uint32_t vcpu, Space space, std::uint64_t address,
                            std::span<std::byte> out) {
  const Entry* entry = find(table, space, address);
  if (entry != nullptr && out.size() - 1 <= entry->last - address && std::has_single_bit(out.size())) {
    const Claim& claim = entry->claim;
    claim.channel->read(
        vcpu, {claim.instance, claim.region, static_cast<std::uint8_t>(out.size()), 1, address - entry->first, false},
        out);
    return;
  }
  if (out.size() > 1 && out.size() - 1 <= UINT64_MAX - address) {
    const std::size_t half = std::bit_floor(out.size() - 1);
    read_one(table, vcpu, space, address, out.first(half));
    read_one(table, vcpu, space, address + half, out.subspan(half));
    return;
  }
  std::fill(out.begin(), out.end(), std::byte{0xff});
  count_unclaimed(space, address, 1, false);
}

void AddressSpace::write(std::uint32_t vcpu, Space space, std::uint64_t address, std::uint8_t size, std::uint32_t count,
                         std::span<const std::byte> in) {
  const Pin pin(*this, vcpu);
  const Entry* entry = find(*pin, space, address);
  if (entry != nullptr && std::has_single_bit(size) && size - 1U <= entry->last - address) {
    const Claim& claim = entry->claim;
    claim.channel->write(vcpu, {claim.instance, claim.region, size, count, address - entry->first, claim.posted}, in);
    return;
  }
  if (entry == nullptr && unclaimed_run(*pin, space, address, size))
    return count_unclaimed(space, address, count, true);
  for (std::uint32_t i = 0; i < count; ++i)
    write_one(*pin, vcpu, space, address, in.subspan(std::size_t{i} * size, size));
}

void AddressSpace::write_one(const Table& table, std::uint32_t vcpu, Space space, std::uint64_t address,
                             std::span<const std::byte> in) {
  const Entry* entry = find(table, space, address);
  if (entry != nullptr && in.size() - 1 <= entry->last - address && std::has_single_bit(in.size())) {
    const Claim& claim = entry->claim;
    claim.channel->write(
        vcpu,
        {claim.instance, claim.region, static_cast<std::uint8_t>(in.size()), 1, address - entry->first, claim.posted},
        in);
    return;
  }
  if (in.size() > 1 && in.size() - 1 <= UINT64_MAX - address) {
    const std::size_t half = std::bit_floor(in.size() - 1);
    write_one(table, vcpu, space, address, in.first(half));
    write_one(table, vcpu, space, address + half, in.subspan(half));
    return;
  }
  count_unclaimed(space, address, 1, true);
}

std::vector<Claim> AddressSpace::claims() const {
  const std::lock_guard lock(claims_lock_);
  const Pin pin(*this, kReaders - 1);
  std::vector<Claim> all;
  for (const std::vector<Entry>& entries : (*pin).spaces)
    for (const Entry& entry : entries) all.push_back(entry.claim);
  return all;
}

}  // namespace bulkhead::vmm
