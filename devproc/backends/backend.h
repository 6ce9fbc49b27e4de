// Backend: what the host of a role sees of a block or frame backend (devproc/core/{block,frame}_backend.h is what the
// model sees): when it has something for the model, and that what the model asked for may begin.
//
// Threading: single-threaded. Errors: none here. Trust: as the backend's own header says.
#pragma once

#include <cstdint>

#include "ipc/base/unique_fd.h"

namespace bulkhead::devproc {

class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  // Tells of news by becoming readable or writable; invalid: it never has any of its own accord.
  [[nodiscard]] virtual BorrowedFd watched() const { return {}; }
  // What epoll(7), by edges, said of watched(): EPOLLIN and so on. The model is asked next.
  virtual void on_events(std::uint32_t /*epoll_events*/) {}
  // Before the first input, which starts the device or (`resumed`) goes on from a predecessor's last commit: state of
  // its own is put in place or brought into range, as part of that input.
  virtual void start(bool /*resumed*/) {}
  // The process is about to sleep until a descriptor wakes it, and looks at ready() once more; or it is awake again.
  virtual void set_asleep(bool /*asleep*/) {}
  // It has something for the model now.
  [[nodiscard]] virtual bool ready() const { return false; }
  // Something that the model has given up is still under way, and may touch guest memory.
  [[nodiscard]] virtual bool draining() const { return false; }
  // An input was committed: what the model submitted with it begins. After a take-over, what restore() submitted.
  virtual void begin() {}
};

}  // namespace bulkhead::devproc
