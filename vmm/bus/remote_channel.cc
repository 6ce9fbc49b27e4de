#include "vmm/bus/remote_channel.h"

#include <algorithm>
#include <cstring>

namespace bulkhead::vmm {
namespace {

ipc::Request to_request(ipc::RequestKind kind, const BusAccess& access, std::uint32_t count) {
  ipc::Request request;
  request.kind = kind;
  request.size = access.size;
  request.count = static_cast<std::uint8_t>(count);
  request.instance = access.instance;
  request.region = access.region;
  request.offset = access.offset;
  return request;
}

}  // namespace

void RemoteChannel::read(std::uint32_t vcpu, const BusAccess& access, std::span<std::byte> out) {
  const std::uint32_t most = ipc::kPayloadBytes / access.size;
  for (std::uint32_t done = 0; done < access.count;) {
    const std::uint32_t count = std::min(access.count - done, most);
    const std::span<std::byte> part = out.subspan(std::size_t{done} * access.size, std::size_t{count} * access.size);
    requests_.fetch_add(1, std::memory_order_relaxed);
    const std::optional<ipc::Reply> reply =
        ring_.call(to_request(ipc::RequestKind::kRead, access, count), waits_[vcpu]);
    if (reply) {
      complete(*reply, part);
    } else {
      std::fill(part.begin(), part.end(), std::byte{0xff});
    }
    done += count;
  }
}

void RemoteChannel::complete(const ipc::Reply& reply, std::span<std::byte> out) {
  switch (reply.status) {
    case ipc::ReplyStatus::kDone: std::memcpy(out.data(), reply.payload, out.size()); return;
    case ipc::ReplyStatus::kPendingBits: {
      std::uint16_t first_vector = 0;
      std::memcpy(&first_vector, reply.payload, sizeof first_vector);
      const std::uint8_t byte = reply.payload[2];
      if (reply.function > 0xff || byte > 7 || out.size() > 8U - byte) break;
      const std::uint64_t bits = pending_.pending_bits(static_cast<std::uint8_t>(reply.function), first_vector);
      std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&bits) + byte, out.size());
      return;
    }
    case ipc::ReplyStatus::kDropped:
    case ipc::ReplyStatus::kPoisoned: break;
  }
  std::fill(out.begin(), out.end(), std::byte{0xff});
}

void RemoteChannel::write(std::uint32_t vcpu, const BusAccess& access, std::span<const std::byte> in) {
  const std::uint32_t most = ipc::kPayloadBytes / access.size;
  for (std::uint32_t done = 0; done < access.count;) {
    const std::uint32_t count = std::min(access.count - done, most);
    ipc::Request request = to_request(ipc::RequestKind::kWrite, access, count);
    std::memcpy(request.payload, in.data() + std::size_t{done} * access.size, std::size_t{count} * access.size);
    if (access.posted) {
      posted_.fetch_add(1, std::memory_order_relaxed);
      if (!ring_.post(request)) return;
    } else {
      requests_.fetch_add(1, std::memory_order_relaxed);
      if (!ring_.call(request, waits_[vcpu])) return;
    }
    done += count;
  }
}

std::optional<ipc::Reply> RemoteChannel::request(ipc::RequestKind kind, std::uint16_t instance, std::uint32_t payload,
                                                 std::uint64_t offset) {
  ipc::Request request;
  request.kind = kind;
  request.instance = instance;
  request.offset = offset;
  std::memcpy(request.payload, &payload, sizeof payload);
  ipc::AdaptiveWait wait;
  return ring_.call(request, wait);
}

}  // namespace bulkhead::vmm
