// Keys as people write them, as InputEvents of a US keyboard.
//
//   ls -l<enter>      characters type themselves, with shift where they need it
//   <ctrl-alt-del>    names in <>, the last one pressed while the others are held
//   <<                the character <
//
// Errors: what is no key, in one sentence. Source of the codes: Linux include/uapi/linux/input-event-codes.h.
#pragma once

#include <string_view>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/wire/input_event.h"

namespace bulkhead::cli {

// Each key with those that are held: presses, then releases in the opposite order.
using KeyStroke = std::vector<InputEvent>;
[[nodiscard]] Result<std::vector<KeyStroke>> parse_keys(std::string_view text);

}  // namespace bulkhead::cli
