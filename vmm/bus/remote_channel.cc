#include "vmm/bus/remote_channel.h"

#include <algorithm>
#include <cstring>

#include "ipc/wire/bar_access.h"
#include "ipc/wire/fw_cfg_transfer.h"

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
    std::uint32_t count = std::min(access.count - done, most);
    const std::span<std::byte> part = out.subspan(std::size_t{done} * access.size, std::size_t{count} * access.size);
    requests_.fetch_add(1, std::memory_order_relaxed);
    const std::optional<ipc::Reply> reply =
        ring_.call(to_request(ipc::RequestKind::kRead, access, count), waits_[vcpu]);
    if (!reply) {
      std::fill(part.begin(), part.end(), std::byte{0xff});
    } else if (redirects(*reply, access)) {
      // The first element's. The next ones are asked for when it is done.
      read_bar(vcpu, *reply, part.first(access.size));
      count = 1;
    } else {
      complete(*reply, part);
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
    case ipc::ReplyStatus::kBarAccess:
    case ipc::ReplyStatus::kFwCfgTransfer:
    case ipc::ReplyStatus::kDropped:
    case ipc::ReplyStatus::kPoisoned: break;
  }
  std::fill(out.begin(), out.end(), std::byte{0xff});
}

// VIRTIO 1.2, section 4.1.4.9.1: the BAR's bytes are the first ones of pci_cfg_data.
void RemoteChannel::read_bar(std::uint32_t vcpu, const ipc::Reply& reply, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0xff});
  const std::optional<BarAccess> access = ipc::parse_bar_access(reply, out.size());
  if (!access) return;
  std::byte data[sizeof access->value];
  std::memcpy(data, &access->value, sizeof data);
  if (!bars_->read(vcpu, *access, std::span(data).first(access->size))) return;
  std::memcpy(out.data() + access->lead, data + access->first, out.size() - access->lead);
}

void RemoteChannel::write_bar(std::uint32_t vcpu, const ipc::Reply& reply, std::size_t size) {
  const std::optional<BarAccess> access = ipc::parse_bar_access(reply, size);
  if (!access) return;
  std::byte data[sizeof access->value];
  std::memcpy(data, &access->value, sizeof data);
  bars_->write(vcpu, *access, std::span(data).first(access->size));
}

// The item's position is the device's state: it hears of the new one before the vCPU goes on.
void RemoteChannel::do_transfer(std::uint32_t vcpu, const ipc::Reply& reply, const BusAccess& access) {
  const std::optional<FwCfgTransfer> transfer = ipc::parse_fw_cfg_transfer(reply);
  if (!transfer) return;
  const FwCfgTransfers::Position end = transfers_->transfer(*transfer);
  ipc::Request done;
  done.kind = ipc::RequestKind::kTransferDone;
  done.instance = access.instance;
  done.offset = end.offset;
  const std::uint32_t selector = end.selector;
  std::memcpy(done.payload, &selector, sizeof selector);
  ring_.call(done, waits_[vcpu]);
}

void RemoteChannel::write(std::uint32_t vcpu, const BusAccess& access, std::span<const std::byte> in) {
  const std::uint32_t most = ipc::kPayloadBytes / access.size;
  for (std::uint32_t done = 0; done < access.count;) {
    std::uint32_t count = std::min(access.count - done, most);
    ipc::Request request = to_request(ipc::RequestKind::kWrite, access, count);
    std::memcpy(request.payload, in.data() + std::size_t{done} * access.size, std::size_t{count} * access.size);
    if (access.posted) {
      posted_.fetch_add(1, std::memory_order_relaxed);
      if (!ring_.post(request)) return;
    } else {
      requests_.fetch_add(1, std::memory_order_relaxed);
      const std::optional<ipc::Reply> reply = ring_.call(request, waits_[vcpu]);
      if (!reply) return;
      if (redirects(*reply, access)) {
        write_bar(vcpu, *reply, access.size);
        count = 1;
      } else if (reply->status == ipc::ReplyStatus::kFwCfgTransfer && transfers_ != nullptr) {
        do_transfer(vcpu, *reply, access);
        count = 1;
      }
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
  return this->request(request);
}

std::optional<ipc::Reply> RemoteChannel::request(const ipc::Request& request) {
  ipc::AdaptiveWait wait;
  return ring_.call(request, wait);
}

}  // namespace bulkhead::vmm
