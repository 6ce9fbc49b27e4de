// The guest of the network and disk figures: a driver for one virtio network card, and a disk if there is one, that
// polls and takes no interrupts. It looks for them on PCI bus 0, brings them up, and then does what messages in frames
// ask it for (net_messages.h).
//
// Document: VIRTIO 1.2, sections 2.7 (split virtqueues), 4.1 (PCI), 5.1 (network device) and 5.2 (block device).
// As Linux's driver it negotiates the event index and rings only when the device has asked for it, sends header and
// frame in one buffer, has mergeable receive buffers, and gives them back when half of a poll's worth is free.
// Runs at CPL 3 on its own, from entry.S: no library, no interrupts, memory below 64 MiB.
#include <cstddef>
#include <cstdint>

#include "tests/bench/guest/net_messages.h"

namespace {

using namespace bulkhead::bench;

// ---- The machine ----

void out32(std::uint16_t port, std::uint32_t value) { asm volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
std::uint32_t in32(std::uint16_t port) {
  std::uint32_t value = 0;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
std::uint64_t ticks() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
  return std::uint64_t{high} << 32 | low;
}
void relax() { asm volatile("pause" ::: "memory"); }
void order() { asm volatile("" ::: "memory"); }  // loads and stores stay in order by themselves
void full_fence() { asm volatile("mfence" ::: "memory"); }
[[noreturn]] void give_up() {
  for (;;) relax();  // the host waits for an answer, and no longer than it likes
}

template <class T>
T load(std::uint64_t address) {
  return *reinterpret_cast<volatile T*>(address);
}
template <class T>
void store(std::uint64_t address, T value) {
  *reinterpret_cast<volatile T*>(address) = value;
}

std::uint32_t config_read(unsigned slot, unsigned offset) {
  out32(0xcf8, 0x80000000 | slot << 11 | (offset & 0xfc));
  return in32(0xcfc) >> 8 * (offset & 3);
}
void config_write(unsigned slot, unsigned offset, std::uint32_t value) {
  out32(0xcf8, 0x80000000 | slot << 11 | offset);
  out32(0xcfc, value);
}

// ---- The card ----

constexpr std::uint64_t kBars = 0xf0000000;  // 1 MiB each; where no firmware has put any
constexpr std::uint64_t kDiskBars = kBars + 0x800000;
constexpr std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }
// CSUM, GUEST_CSUM, MAC, HOST_TSO4, MRG_RXBUF, STATUS, INDIRECT_DESC, EVENT_IDX, VERSION_1; not GUEST_TSO4, so that
// received frames are of Ethernet's size
constexpr std::uint64_t kWanted = bit(0) | bit(1) | bit(5) | bit(11) | bit(15) | bit(16) | bit(28) | bit(29) | bit(32);

struct Card {
  std::uint64_t common = 0;
  std::uint64_t notify = 0;
  std::uint32_t notify_multiplier = 0;
};

// `id`: device << 16 | vendor. Its BARs go to `bars` and what follows; without such a function, nothing is anywhere.
Card find_card(std::uint32_t id, std::uint64_t bars) {
  unsigned slot = 0;
  while (slot < 32 && config_read(slot, 0) != id) ++slot;
  if (slot == 32) return {};
  for (unsigned bar = 0; bar < 6; ++bar) {
    const unsigned at = 0x10 + 4 * bar;
    config_write(slot, at, 0xffffffff);
    const std::uint32_t kind = config_read(slot, at);
    if (kind == 0 || (kind & 1) != 0) continue;
    config_write(slot, at, static_cast<std::uint32_t>(bars + (std::uint64_t{bar} << 20)));
    if ((kind & 6) != 4) continue;
    config_write(slot, at + 4, 0);
    ++bar;
  }
  config_write(slot, 0x04, 0x406);  // memory space, bus master, no INTx
  Card card;
  for (unsigned at = config_read(slot, 0x34) & 0xff; at != 0; at = config_read(slot, at + 1) & 0xff) {
    if ((config_read(slot, at) & 0xff) != 9) continue;
    const std::uint64_t place =
        bars + (std::uint64_t{config_read(slot, at + 4) & 0xff} << 20) + config_read(slot, at + 8);
    const unsigned type = config_read(slot, at + 3) & 0xff;
    if (type == 1) card.common = place;
    if (type == 2) {
      card.notify = place;
      card.notify_multiplier = config_read(slot, at + 16);
    }
  }
  if (card.common == 0 || card.notify == 0) give_up();
  return card;
}

// Up to where the driver may set queues up.
void negotiate(const Card& card, std::uint64_t features) {
  const auto status = [&](std::uint8_t value) { store(card.common + 0x14, value); };
  status(0);
  while (load<std::uint8_t>(card.common + 0x14) != 0) relax();
  status(1);
  status(3);
  for (std::uint32_t half = 0; half < 2; ++half) {
    store(card.common + 0x00, half);
    const auto offered = load<std::uint32_t>(card.common + 0x04);
    const auto wanted = static_cast<std::uint32_t>(features >> 32 * half);
    if ((offered & wanted) != wanted) give_up();
    store(card.common + 0x08, half);
    store(card.common + 0x0c, wanted);
  }
  status(11);
  if ((load<std::uint8_t>(card.common + 0x14) & 8) == 0) give_up();
}

// ---- Queues ----

constexpr unsigned kSize = 256;
constexpr std::uint16_t kWrites = 2;  // descriptor flags
constexpr std::uint16_t kIndirect = 4;
constexpr unsigned kHeader = 12;  // struct virtio_net_hdr

struct Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};
struct alignas(4096) Rings {
  Descriptor table[kSize];
  alignas(64) struct { std::uint16_t flags, index, ring[kSize], used_event; } available;
  alignas(4096) struct {
    std::uint16_t flags, index;
    struct {
      std::uint32_t id, length;
    } ring[kSize];
    std::uint16_t available_event;
  } used;
};

class Queue {
 public:
  void start(const Card& card, std::uint16_t number, Rings& rings) {
    rings_ = &rings;
    store<std::uint16_t>(card.common + 0x16, number);
    if (load<std::uint16_t>(card.common + 0x18) < kSize) give_up();
    store<std::uint16_t>(card.common + 0x18, kSize);
    const auto place = [&](unsigned at, const void* what) {
      store(card.common + at, static_cast<std::uint32_t>(reinterpret_cast<std::uint64_t>(what)));
      store(card.common + at + 4, std::uint32_t{0});
    };
    place(0x20, rings.table);
    place(0x28, &rings.available);
    place(0x30, &rings.used);
    doorbell_ = card.notify + std::uint64_t{load<std::uint16_t>(card.common + 0x1e)} * card.notify_multiplier;
    number_ = number;
    // No interrupt is ever asked for: `used_event` stays behind what is used.
    rings.available.used_event = 0xffff;
    store<std::uint16_t>(card.common + 0x1c, 1);
  }
  [[nodiscard]] Descriptor& descriptor(unsigned n) { return rings_->table[n]; }
  [[nodiscard]] unsigned room() const { return kSize - static_cast<std::uint16_t>(next_ - seen_); }
  // Descriptor `n` as a chain, seen by the device at the next publish().
  void add(unsigned n) { rings_->available.ring[next_++ % kSize] = static_cast<std::uint16_t>(n); }
  void publish() {
    order();
    store(reinterpret_cast<std::uint64_t>(&rings_->available.index), next_);
    full_fence();
    const auto event = load<std::uint16_t>(reinterpret_cast<std::uint64_t>(&rings_->used.available_event));
    const auto since = static_cast<std::uint16_t>(next_ - event - 1);
    const bool wanted = since < static_cast<std::uint16_t>(next_ - published_);
    published_ = next_;
    if (!wanted) return;
    store(doorbell_, number_);
    ++kicks_;
  }
  // The next chain that the device has used: its descriptor, or -1.
  int take() {
    if (load<std::uint16_t>(reinterpret_cast<std::uint64_t>(&rings_->used.index)) == seen_) return -1;
    order();
    return static_cast<int>(rings_->used.ring[seen_++ % kSize].id);
  }
  [[nodiscard]] std::uint64_t kicks() const { return kicks_; }

 private:
  Rings* rings_ = nullptr;
  std::uint64_t doorbell_ = 0;
  std::uint16_t number_ = 0;
  std::uint16_t next_ = 0;
  std::uint16_t published_ = 0;
  std::uint16_t seen_ = 0;
  std::uint64_t kicks_ = 0;
};

// ---- The disk ----

Rings disk_rings;
alignas(4096) std::uint8_t disk_buffers[4 << 20];
struct DiskRequest {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
  std::uint8_t status;
};
alignas(64) DiskRequest disk_requests[kReads];
alignas(4096) Descriptor disk_tables[kReads][4];

class Disk {
 public:
  void start() {
    const Card card = find_card(0x10421af4, kDiskBars);
    if (card.common == 0) return;
    negotiate(card, bit(28) | bit(29) | bit(32));
    queue_.start(card, 0, disk_rings);
    store(card.common + 0x14, std::uint8_t{15});
  }

  // How many reads of `bytes` were done. As a program that has `depth` of them under way and asks for the next one when
  // one is done: small ones at random places, large ones in order.
  std::uint64_t read(std::uint64_t until, unsigned depth, std::uint32_t bytes) {
    bytes_ = bytes;
    for (unsigned n = 0; n < depth; ++n) ask(n);
    std::uint64_t done = 0;
    unsigned under_way = depth;
    while (under_way != 0) {
      const int id = queue_.take();
      if (id < 0) {
        relax();
        continue;
      }
      if (load<std::uint8_t>(reinterpret_cast<std::uint64_t>(&disk_requests[id].status)) != 0) give_up();
      ++done;
      if (ticks() < until) {
        ask(static_cast<unsigned>(id));
      } else {
        --under_way;
      }
    }
    return done;
  }

 private:
  std::uint64_t place() {
    constexpr unsigned kSector = 512;
    if (bytes_ > 4096) {
      next_ = (next_ + bytes_) % kDiskBytes;
      return next_ / bytes_ * bytes_ / kSector;
    }
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_ % (kDiskBytes / bytes_) * (bytes_ / kSector);
  }
  void ask(unsigned n) {
    DiskRequest& request = disk_requests[n];
    request = {0, 0, place(), 0xff};
    const auto at = reinterpret_cast<std::uint64_t>(&request);
    Descriptor* table = disk_tables[n];
    table[0] = {at, 16, 1, 1};
    table[1] = {reinterpret_cast<std::uint64_t>(disk_buffers) + std::uint64_t{n} * bytes_, bytes_, 1 | kWrites, 2};
    table[2] = {at + 16, 1, kWrites, 0};
    queue_.descriptor(n) = {reinterpret_cast<std::uint64_t>(table), 3 * sizeof(Descriptor), kIndirect, 0};
    queue_.add(n);
    queue_.publish();
  }

  Queue queue_;
  std::uint32_t bytes_ = 4096;
  std::uint64_t next_ = 0;
  std::uint64_t random_ = 88172645463325252ULL;
};

// ---- Frames ----

constexpr unsigned kBuffer = 2048;
constexpr unsigned kReceiveBytes = 1536;  // what Linux's driver begins with
constexpr unsigned kGiveBack = 32;
constexpr unsigned kPoll = 64;      // frames between two looks at anything else
constexpr unsigned kPiece = 32768;  // of the data of a big frame: what Linux allocates for a socket
constexpr unsigned kBigHead = kHeader + kEthernetBytes + 40;
constexpr unsigned kBigBuffer = 4096 + 2 * kPiece;
constexpr unsigned kBigFrames = 64;  // different ones; each is in the ring several times

Rings receive_rings, send_rings;
alignas(4096) std::uint8_t receive_buffers[kSize][kBuffer];
alignas(4096) std::uint8_t send_buffers[kSize][kBuffer];
alignas(4096) std::uint8_t big_buffers[kBigFrames][kBigBuffer];
alignas(4096) Descriptor indirect[kSize][4];

class Driver {
 public:
  void start() {
    const Card card = find_card(0x10411af4, kBars);
    if (card.common == 0) give_up();
    negotiate(card, kWanted);
    receive_.start(card, 0, receive_rings);
    send_.start(card, 1, send_rings);
    store(card.common + 0x14, std::uint8_t{15});
    disk_.start();
    for (unsigned i = 0; i < kSize; ++i) {
      receive_.descriptor(i) = {reinterpret_cast<std::uint64_t>(receive_buffers[i]), kReceiveBytes, kWrites, 0};
      receive_.add(i);
      free_[i] = static_cast<std::uint16_t>(i);
      make_plain(i);
    }
    receive_.publish();
    for (unsigned i = 0; i < kBigFrames; ++i) make_big(big_buffers[i]);
    say({NetOp::kReady, 0, 0, 0, 0});
  }

  void serve() {
    for (;;) {
      NetMessage message;
      if (!next_message(message)) continue;
      round_ = message.round;
      const std::uint64_t kicks = send_.kicks() + receive_.kicks();
      const std::uint64_t until = ticks() + message.ticks;
      NetMessage report{NetOp::kReport, round_, 0, 0, 0};
      switch (message.op) {
        case NetOp::kSend: report.frames = send_load(until, false); break;
        case NetOp::kSendBig: report.frames = send_load(until, true); break;
        case NetOp::kReceive: report = receive_load(until, message.frames); break;
        case NetOp::kEcho: report.frames = echo(until); break;
        case NetOp::kRead: report.frames = disk_.read(until, kReads, 4096); break;
        case NetOp::kReadAhead: report.frames = disk_.read(until, 4, 1 << 20); break;
        default: continue;
      }
      report.kicks = send_.kicks() + receive_.kicks() - kicks;
      say(report);
    }
  }

 private:
  // Descriptor `n` sends send_buffers[n], a full frame unless it says otherwise.
  void make_plain(unsigned n) {
    put_ethernet(send_buffers[n] + kHeader, kLoadType);
    send_.descriptor(n) = {reinterpret_cast<std::uint64_t>(send_buffers[n]), kHeader + kFullFrame, 0, 0};
  }

  static void make_big(std::uint8_t* buffer) {
    __builtin_memcpy(buffer, &kBigHeader, sizeof(kBigHeader));
    put_big(buffer + kHeader);
  }

  // Descriptor `n` sends a big frame by its indirect table: the headers, then the data in two pieces.
  void use_big(unsigned n) {
    const auto buffer = reinterpret_cast<std::uint64_t>(big_buffers[n % kBigFrames]);
    constexpr std::uint32_t kData = kHeader + kBigFrame - kBigHead;
    indirect[n][0] = {buffer, kBigHead, 1, 1};
    indirect[n][1] = {buffer + 4096, kPiece, 1, 2};
    indirect[n][2] = {buffer + 4096 + kPiece, kData - kPiece, 0, 0};
    send_.descriptor(n) = {reinterpret_cast<std::uint64_t>(indirect[n]), 3 * sizeof(Descriptor), kIndirect, 0};
  }

  void collect_sent() {
    for (int id = send_.take(); id >= 0; id = send_.take()) free_[free_count_++] = static_cast<std::uint16_t>(id);
  }

  unsigned free_descriptor() {
    while (free_count_ == 0) {
      collect_sent();
      if (free_count_ == 0) relax();
    }
    return free_[--free_count_];
  }

  void say(const NetMessage& message) {
    const unsigned n = free_descriptor();
    make_plain(n);
    std::uint8_t* frame = send_buffers[n] + kHeader;
    put_ethernet(frame, kMessageType);
    __builtin_memcpy(frame + kEthernetBytes, &message, sizeof(message));
    send_.descriptor(n).length = kHeader + kSmallFrame;
    send_.add(n);
    send_.publish();
    collect_sent();
  }

  std::uint64_t send_load(std::uint64_t until, bool big) {
    std::uint64_t frames = 0;
    while (ticks() < until) {
      for (unsigned i = 0; i < kPoll; ++i) {
        const unsigned n = free_descriptor();
        if (big) {
          use_big(n);
        } else {
          make_plain(n);
        }
        send_.add(n);
        send_.publish();
        ++frames;
      }
    }
    while (free_count_ != kSize) collect_sent();
    return frames;
  }

  // The next received frame; nullptr: none, and buffers were given back if there are enough of them.
  const std::uint8_t* next_frame() {
    const int id = receive_.take();
    if (id >= 0) {
      receive_.add(static_cast<unsigned>(id));  // the device sees it at the next publish()
      ++unpublished_;
      return receive_buffers[id] + kHeader;
    }
    give_back(kGiveBack);
    return nullptr;
  }
  void give_back(unsigned least) {
    if (unpublished_ < least) return;
    receive_.publish();
    unpublished_ = 0;
  }
  static unsigned type_of(const std::uint8_t* frame) { return unsigned{frame[12]} << 8 | frame[13]; }

  bool next_message(NetMessage& message) {
    const std::uint8_t* frame = next_frame();
    if (frame == nullptr) {
      relax();
      return false;
    }
    const bool is_message = type_of(frame) == kMessageType;
    if (is_message) __builtin_memcpy(&message, frame + kEthernetBytes, sizeof(message));
    give_back(kGiveBack);
    return is_message;
  }

  NetMessage receive_load(std::uint64_t until, std::uint64_t wanted) {
    std::uint64_t frames = 0;
    std::uint64_t began = 0;
    std::uint64_t now = ticks();
    while (frames < wanted && now < until) {
      for (unsigned i = 0; i < kPoll; ++i) {
        const std::uint8_t* frame = next_frame();
        if (frame == nullptr) break;
        if (type_of(frame) == kIpv4Type && ++frames == kWarmUp) began = ticks();
      }
      give_back(kGiveBack);
      now = ticks();
    }
    return {NetOp::kReport, round_, now - began, frames < wanted ? 0 : frames - kWarmUp, 0};
  }

  std::uint64_t echo(std::uint64_t until) {
    std::uint64_t frames = 0;
    while (ticks() < until) {
      say({NetOp::kPing, round_, 0, frames, 0});
      NetMessage answer;
      while (!next_message(answer) || answer.op != NetOp::kPing || answer.frames != frames) {
        if (ticks() > until) return frames;
      }
      ++frames;
    }
    return frames;
  }

  Queue receive_;
  Queue send_;
  Disk disk_;
  std::uint16_t free_[kSize] = {};
  unsigned free_count_ = kSize;
  unsigned unpublished_ = 0;
  std::uint32_t round_ = 0;
};

Driver driver;

}  // namespace

extern "C" [[noreturn]] void run() {
  driver.start();
  driver.serve();
  give_up();
}
