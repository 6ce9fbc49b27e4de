// Every decoder of ipc/control on arbitrary bytes. The first byte chooses the message's direction and how
// many descriptors came with it; the rest is the message. What is accepted must keep the rules that
// encoding checks.
#include <fcntl.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "ipc/control/device_messages.h"
#include "ipc/control/vm_config.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::control;

void require(bool condition) {
  if (!condition) std::abort();
}

// Aliased pointers may make a copy larger than its source; anything else that was accepted can be sent on.
template <class T>
void require_encodable(const Result<T>& again) {
  require(again || again.error().message.find("bytes long") != std::string::npos);
}

void try_to_device(std::span<const std::byte> bytes, std::size_t fd_count) {
  const auto decoded = decode_to_device(bytes, fd_count);
  if (!decoded) return;
  if (const auto* role = std::get_if<TakeRole>(&*decoded)) {
    require(role->fds.size() == fd_count);
    for (const GuestRange& range : role->guest_ram)
      require(range.fd_index < fd_count && role->fds[range.fd_index].purpose == FdPurpose::kGuestRam);
  }
  require_encodable(encode(*decoded));
}

void try_from_device(std::span<const std::byte> bytes) {
  const auto decoded = decode_from_device(bytes);
  if (!decoded) return;
  if (const auto* failed = std::get_if<Failed>(&*decoded)) {
    for (const char c : failed->sentence) require(c >= 0x20 && c < 0x7f);
  }
  require_encodable(encode(*decoded));
}

void try_to_vmm(std::span<const std::byte> bytes, std::size_t fd_count) {
  static const UniqueFd null = UniqueFd::open("/dev/null", O_RDWR).value();
  Message message{.bytes = {bytes.begin(), bytes.end()}, .fds = {}};
  for (std::size_t i = 0; i < fd_count; ++i) message.fds.push_back(UniqueFd::duplicate(null.borrow()).value());
  const auto decoded = decode_to_vmm(std::move(message));
  if (!decoded) return;
  if (const auto* config = std::get_if<VmConfig>(&*decoded)) {
    require(is_name(config->name) && config->cpus >= 1 && config->cpus <= kMaxCpus);
    require_encodable(encode(*config));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  const std::size_t fd_count = data[0] >> 2 & 0xf;
  switch (data[0] & 3) {
    case 0: try_to_device(bytes, fd_count); break;
    case 1: try_from_device(bytes); break;
    case 2: try_to_vmm(bytes, fd_count); break;
    default: {
      const auto decoded = decode_from_vmm(Message{.bytes = {bytes.begin(), bytes.end()}, .fds = {}});
      if (decoded) require_encodable(encode(*decoded));
    }
  }
  return 0;
}
