// FwCfgTransfer in a reply: ReplyStatus::kFwCfgTransfer.
//
// Trust: the reply was written by a device process that may be hostile; parse_fw_cfg_transfer() works on the VMM's
// copy. What there is to transfer, and where guest memory is, the VMM knows itself.
#pragma once

#include <cstring>
#include <optional>

#include "ipc/roles/fw_cfg_decl.h"
#include "ipc/wire/io_message.h"

namespace bulkhead::ipc {

static_assert(sizeof(FwCfgTransfer) <= kPayloadBytes);

inline void store_fw_cfg_transfer(Reply& reply, const FwCfgTransfer& transfer) {
  reply.status = ReplyStatus::kFwCfgTransfer;
  std::memcpy(reply.payload, &transfer, sizeof transfer);
}

// nullopt: no honest process answers it like this.
[[nodiscard]] inline std::optional<FwCfgTransfer> parse_fw_cfg_transfer(const Reply& copy) {
  if (copy.status != ReplyStatus::kFwCfgTransfer) return std::nullopt;
  FwCfgTransfer transfer;
  std::memcpy(&transfer, copy.payload, sizeof transfer);
  if (transfer.reserved != 0) return std::nullopt;
  return transfer;
}

}  // namespace bulkhead::ipc
