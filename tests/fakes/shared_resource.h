// SharedResource: allocations that processes forked later share with this one, as a role's regions are
// shared.
#pragma once

#include <sys/mman.h>

#include <memory_resource>
#include <new>

namespace bulkhead {

class SharedResource final : public std::pmr::memory_resource {
 public:
  static SharedResource* instance() {
    static SharedResource resource;
    return &resource;
  }

 private:
  void* do_allocate(std::size_t size, std::size_t) override {
    void* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    return at;
  }
  void do_deallocate(void* at, std::size_t size, std::size_t) override { ::munmap(at, size); }
  [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

}  // namespace bulkhead
