// VirtioNet's reception: VIRTIO 1.2, sections 5.1.6.3 (receive buffers) and 5.1.6.4 (incoming packets).
#include <algorithm>
#include <cstring>

#include "devproc/models/virtio/spec.h"
#include "devproc/models/virtio_net/virtio_net.h"

namespace bulkhead::devproc {

using namespace virtio;
using namespace virtio_net_spec;

namespace {

OffloadRules receive_rules(std::uint64_t on) {
  const bool checksum = has_feature(on, kNetFGuestCsum);
  return {.checksum = checksum,
          .tso4 = checksum && has_feature(on, kNetFGuestTso4),
          .tso6 = checksum && has_feature(on, kNetFGuestTso6),
          .ecn = has_feature(on, kNetFGuestEcn),
          .data_valid = checksum,
          .gso_needs_checksum = false};
}

}  // namespace

void VirtioNet::want_frames(std::uint16_t pair, bool wanted) {
  for (std::size_t i = pair; i < frames_.size(); i += state_->pairs) frames_[i]->set_wanted(wanted);
}

void VirtioNet::want_all(bool wanted) {
  for (FrameBackend* frames : frames_) frames->set_wanted(wanted);
}

// The driver has added buffers. Without frames, kicks stay off: on_backend() looks for buffers by itself.
QueueWork VirtioNet::receive_all(VirtioPort& port, std::uint16_t pair) {
  want_frames(pair, true);
  for (std::size_t backend = pair; backend < frames_.size(); backend += state_->pairs) {
    switch (receive(port, backend)) {
      case Receiving::kDone:
      case Receiving::kNoRoom: return QueueWork::kMore;
      case Receiving::kNoFrames: break;
      case Receiving::kNoBuffers:  // kicks are on
      case Receiving::kBroken: want_frames(pair, false); return QueueWork::kBlocked;
    }
  }
  return QueueWork::kBlocked;
}

// kDone: as many frames as one input handles.
VirtioNet::Receiving VirtioNet::receive(VirtioPort& port, std::size_t backend) {
  FrameBackend& from = *frames_[backend];
  VirtQueue& queue = port.queue(static_cast<QueueId>(2 * pair_of(backend)));
  std::uint64_t bytes = 0;
  for (unsigned i = 0; i < kMostFrames && bytes < kMostBytes; ++i) {
    const std::span<const std::byte> frame = from.receive();
    if (frame.empty()) return Receiving::kNoFrames;
    bytes += frame.size();
    if (const std::optional<NetHdr> header = admit(port, frame)) {
      const Receiving result = deliver(port, queue, frame, *header);
      if (result != Receiving::kDone) return result;
    }
    from.consume();
  }
  return Receiving::kDone;
}

// The frame's header as the driver will see it; nothing: the frame is dropped, and counted.
std::optional<NetHdr> VirtioNet::admit(const VirtioPort& port, std::span<const std::byte> frame) {
  if (frame.size() < sizeof(NetHdr) + kEthernetHeader || frame.size() > kMostFrame) {
    count(&VirtioNetCounters::received_bad_length);
    return std::nullopt;
  }
  NetHdr header;
  std::memcpy(&header, frame.data(), sizeof(header));
  const auto ethernet = frame.subspan(sizeof(header));
  const bool by_address = has_feature(port.features(), kNetFCtrlRx);
  if (!filter_->accepts(ethernet, by_address, has_feature(port.features(), kNetFCtrlVlan))) {
    count(&VirtioNetCounters::received_filtered);
    return std::nullopt;
  }
  // The backend knows what the driver takes, but frames that came before it was told may be there still.
  switch (clean_header(header, ethernet.size(), receive_rules(state_->guest_offloads & port.features()))) {
    case HeaderVerdict::kNotAgreed: count(&VirtioNetCounters::received_not_agreed); return std::nullopt;
    case HeaderVerdict::kMalformed: count(&VirtioNetCounters::received_bad_header); return std::nullopt;
    case HeaderVerdict::kGood: break;
  }
  header.num_buffers = 1;  // "The device MUST set num_buffers to 1" without MRG_RXBUF
  return header;
}

// Whatever it takes and does not use it puts back: then the frame stays, too.
VirtioNet::Receiving VirtioNet::deliver(VirtioPort& port, VirtQueue& queue, std::span<const std::byte> frame,
                                        const NetHdr& header) {
  const std::size_t most_chains = has_feature(port.features(), kNetFMrgRxbuf) ? kMaxShown : 1;
  const std::uint16_t before = queue.mark();
  const auto does_not_fit = [&] {
    queue.put_back(before);
    count(&VirtioNetCounters::received_no_fit);
    return Receiving::kDone;
  };
  const bool packed = has_feature(port.features(), kVirtioFRingPacked);
  std::size_t chains = 0;
  std::size_t slots = 0;  // of the ring, that this frame's chains take
  std::size_t last_slots = 0;
  bool looked_again = false;
  for (std::size_t done = 0; done < frame.size();) {
    if (chains == most_chains) return does_not_fit();
    if (chains == queue.room()) {
      queue.put_back(before);
      return Receiving::kNoRoom;
    }
    Chain chain;
    const Pop pop = queue.pop(chain);
    if (pop == Pop::kBroken) return Receiving::kBroken;
    if (pop == Pop::kEmpty) {
      // A driver that has no descriptor left for one more such chain would never kick.
      if (chains != 0 && slots + last_slots > queue.state().size) return does_not_fit();
      // Asks for a kick at the chain behind those that are taken; they are put back only then.
      queue.set_kicks(true);
      if (!looked_again && queue.has_more()) {
        looked_again = true;
        continue;
      }
      queue.put_back(before);
      return Receiving::kNoBuffers;
    }
    if (chains == 0 && chain.writable_bytes < sizeof(NetHdr)) return does_not_fit();
    const auto here = static_cast<std::uint32_t>(std::min<std::uint64_t>(frame.size() - done, chain.writable_bytes));
    if (!fill(chain, done, frame.subspan(done, here), header)) {
      port.needs_reset();
      return Receiving::kBroken;
    }
    last_slots = packed ? chain.descriptors : chain.readable.size() + chain.writable.size();
    slots += last_slots;
    taken_[chains++] = {chain.id, chain.descriptors, here};
    done += here;
  }
  if (chains > 1 && !set_num_buffers(static_cast<std::uint16_t>(chains))) {
    port.needs_reset();
    return Receiving::kBroken;
  }
  for (const UsedElement& element : std::span(taken_).first(chains)) queue.push(element);
  count(&VirtioNetCounters::received_frames);
  count(&VirtioNetCounters::received_bytes, frame.size() - sizeof(header));
  return Receiving::kDone;
}

// The frame's bytes from `done` on, with `header` in place of its own. False: not RAM.
bool VirtioNet::fill(const Chain& chain, std::size_t done, std::span<const std::byte> piece, const NetHdr& header) {
  if (done != 0) return write_segments(memory_, chain.writable, 0, piece);
  // num_buffers is known when all chains are: remembers where the header lies.
  std::uint32_t covered = 0;
  head_segments_ = 0;
  for (std::size_t i = 0; covered < sizeof(header); ++i) {
    head_[head_segments_++] = chain.writable[i];
    covered += std::min<std::uint32_t>(chain.writable[i].length, sizeof(header));
  }
  return write_segments(memory_, chain.writable, 0, std::as_bytes(std::span(&header, 1))) &&
         write_segments(memory_, chain.writable, sizeof(header), piece.subspan(sizeof(header)));
}

bool VirtioNet::set_num_buffers(std::uint16_t count) {
  return write_segments(memory_, std::span(head_).first(head_segments_), offsetof(NetHdr, num_buffers),
                        std::as_bytes(std::span(&count, 1)));
}

}  // namespace bulkhead::devproc
