// BarAccess in a reply: ReplyStatus::kBarAccess.
//
// Trust: the reply was written by a device process that may be hostile; parse_bar_access() works on the VMM's copy.
// Which functions and BARs there are, and how long they are, the VMM's plan says.
#pragma once

#include <cstddef>
#include <cstring>
#include <optional>

#include "ipc/roles/bar_access.h"
#include "ipc/wire/io_message.h"

namespace bulkhead::ipc {

static_assert(sizeof(BarAccess) <= kPayloadBytes);

inline void store_bar_access(Reply& reply, const BarAccess& access) {
  reply.status = ReplyStatus::kBarAccess;
  std::memcpy(reply.payload, &access, sizeof access);
}

// `bytes`: of the access that was redirected. nullopt: no honest process answers it like this.
[[nodiscard]] inline std::optional<BarAccess> parse_bar_access(const Reply& copy, std::size_t bytes) {
  if (copy.status != ReplyStatus::kBarAccess) return std::nullopt;
  BarAccess access;
  std::memcpy(&access, copy.payload, sizeof access);
  if (access.size != 1 && access.size != 2 && access.size != 4) return std::nullopt;
  if (access.devfn > 0xff || access.bar > 5 || access.reserved != 0) return std::nullopt;
  // One dword of config space holds all that is asked for.
  if (access.lead >= bytes || access.first + (bytes - access.lead) > sizeof access.value) return std::nullopt;
  return access;
}

}  // namespace bulkhead::ipc
