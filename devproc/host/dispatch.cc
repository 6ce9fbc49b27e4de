#include "devproc/host/dispatch.h"

#include <cstring>

#include "ipc/base/checked.h"

namespace bulkhead::devproc {
namespace {

// The widest access, at most `size` bytes and naturally placed within [offset, offset + size), that the
// region's registers take.
std::uint8_t piece_size(const RegionSpec& region, std::uint64_t offset, std::uint8_t size) {
  for (std::uint8_t piece = 8; piece > 1; piece /= 2) {
    if (piece <= size && (region.sizes & piece) != 0 && offset % piece == 0) return piece;
  }
  return 1;
}

// Whether the region takes this access as it is, aligned or not.
bool takes_whole(const RegionSpec& region, std::uint8_t size) { return (region.sizes & size) != 0; }

bool redirected(ipc::ReplyStatus status) {
  return status == ipc::ReplyStatus::kPendingBits || status == ipc::ReplyStatus::kBarAccess ||
         status == ipc::ReplyStatus::kFwCfgTransfer;
}

}  // namespace

bool dispatch_read(Device& device, const Access& access, std::uint64_t& value) {
  const RegionSpec& region = device.regions()[access.region];
  value = all_ones(access.size);
  if (takes_whole(region, access.size)) {
    const std::optional<std::uint64_t> answer = device.read(access);
    if (!answer) return false;
    value = *answer & all_ones(access.size);
    return true;
  }
  bool all_known = true;
  std::uint64_t joined = 0;
  for (std::uint8_t done = 0; done < access.size;) {
    Access part = access;
    part.offset = access.offset + done;
    part.size = piece_size(region, part.offset, static_cast<std::uint8_t>(access.size - done));
    const std::optional<std::uint64_t> answer = device.read(part);
    all_known = all_known && answer.has_value();
    joined |= (answer.value_or(all_ones(part.size)) & all_ones(part.size)) << (8 * done);
    done = static_cast<std::uint8_t>(done + part.size);
  }
  value = joined;
  return all_known;
}

bool dispatch_write(Device& device, const Access& access, std::uint64_t value) {
  const RegionSpec& region = device.regions()[access.region];
  if (takes_whole(region, access.size)) return device.write(access, value & all_ones(access.size));
  bool all_known = true;
  for (std::uint8_t done = 0; done < access.size;) {
    Access part = access;
    part.offset = access.offset + done;
    part.size = piece_size(region, part.offset, static_cast<std::uint8_t>(access.size - done));
    if (!device.write(part, (value >> (8 * done)) & all_ones(part.size))) all_known = false;
    done = static_cast<std::uint8_t>(done + part.size);
  }
  return all_known;
}

bool dispatch_access(Device& device, const ipc::Request& request, ipc::Reply& reply) {
  const bool is_read = request.kind == ipc::RequestKind::kRead;
  if (is_read) std::memset(reply.payload, 0xff, sizeof reply.payload);
  const std::uint8_t size = request.size;
  const bool size_ok = size == 1 || size == 2 || size == 4 || size == 8;
  if (!size_ok || request.count == 0 || std::uint32_t{request.count} * size > ipc::kPayloadBytes) return false;
  if (request.region >= device.regions().size()) return false;
  if (!fits(request.offset, size, device.regions()[request.region].length)) return false;
  const Access access{request.region, request.offset, size};
  bool all_known = true;
  for (std::size_t i = 0; i < request.count; ++i) {
    std::uint64_t value = 0;
    if (is_read) {
      if (!dispatch_read(device, access, value)) all_known = false;
      // The payload is the redirect's now; what the model returned beside it means nothing.
      if (redirected(reply.status)) return all_known;
      std::memcpy(reply.payload + i * size, &value, size);
    } else {
      std::memcpy(&value, request.payload + i * size, size);
      if (!dispatch_write(device, access, value)) all_known = false;
      // The VMM does this element's write before it asks for the next ones.
      if (redirected(reply.status)) return all_known;
    }
  }
  return all_known;
}

}  // namespace bulkhead::devproc
