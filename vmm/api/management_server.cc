#include "vmm/api/management_server.h"

#include <kj/exception.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <list>
#include <map>
#include <optional>
#include <thread>

#include "ipc/base/log.h"
#include "ipc/control/capnp_codec.h"
#include "ipc/control/management_codec.h"
#include "ipc/control/rpc_loop.h"
#include "ipc/control/statistics_codec.h"
#include "ipc/control/vm_config.h"
#include "vmm/api/worker.h"

namespace bulkhead::vmm {
namespace {

namespace schema = control::schema;
namespace codec = control::codec;
namespace rpc = control::rpc;
using VatId = capnp::rpc::twoparty::VatId;

constexpr auto kLastAnswers = 200 * kj::MILLISECONDS;
constexpr std::uint64_t kFlowWords = std::uint64_t{32} << 10;  // of calls in flight, per connection

void write_outcome(schema::Outcome::Builder out, const Status& status) {
  if (status)
    out.setDone();
  else
    out.setFailed(codec::text(status.error().message));
}

// KJ's interfaces have no virtual destructors; nothing here is destroyed through one.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"

// The bootstrap capability: each method is one call of VmControl. Calls that take long are the worker's, and who asks
// for events that are yet to come waits in a list; both are told through one eventfd.
class ManagementImpl final : public schema::Management::Server {
 public:
  ManagementImpl(VmControl& vm, rpc::PollPort& port)
      : vm_(vm),
        port_(port),
        notify_(std::make_shared<UniqueFd>(UniqueFd::create_eventfd().value())),
        watching_(watch().eagerlyEvaluate([](kj::Exception&& exception) {
          log(LogLevel::kError, "management hears of no more events: {}", exception.getDescription().cStr());
        })) {
    // The listener may still be at work on another thread when it is taken away.
    vm_.events().set_listener([notify = notify_] { signal_eventfd(notify->borrow()); });
  }
  ~ManagementImpl() noexcept(false) { vm_.events().set_listener({}); }

  kj::Promise<void> status(StatusContext context) override {
    const auto status = vm_.status();
    auto answer = context.getResults().initAnswer();
    if (status)
      codec::write_status(answer.initStatus(), *status);
    else
      answer.setFailed(codec::text(status.error().message));
    return kj::READY_NOW;
  }

  kj::Promise<void> devices(DevicesContext context) override {
    const auto devices = vm_.devices();
    auto answer = context.getResults().initAnswer();
    if (devices)
      codec::write_devices(answer.initDevices(static_cast<unsigned>(devices->size())), *devices);
    else
      answer.setFailed(codec::text(devices.error().message));
    return kj::READY_NOW;
  }

  kj::Promise<void> inspect(InspectContext context) override {
    const std::string instance(codec::view(context.getParams().getInstance()));
    auto answer = context.getResults().initAnswer();
    if (!instance.empty() && !control::is_name(instance)) {
      answer.setFailed("that is not the name of a device instance");
      return kj::READY_NOW;
    }
    const auto found = vm_.inspect(instance);
    if (found)
      codec::write_inspected(answer.initInstances(static_cast<unsigned>(found->size())), *found);
    else
      answer.setFailed(codec::text(found.error().message));
    return kj::READY_NOW;
  }

  kj::Promise<void> powerButton(PowerButtonContext context) override {
    write_outcome(context.getResults().initOutcome(), vm_.power_button());
    return kj::READY_NOW;
  }
  kj::Promise<void> kill(KillContext context) override {
    write_outcome(context.getResults().initOutcome(), vm_.kill());
    return kj::READY_NOW;
  }
  kj::Promise<void> pause(PauseContext context) override {
    return run_aside(context, machine_, [this] { return vm_.pause(); });
  }
  kj::Promise<void> resume(ResumeContext context) override {
    return run_aside(context, machine_, [this] { return vm_.resume(); });
  }
  kj::Promise<void> reset(ResetContext context) override {
    return run_aside(context, machine_, [this] { return vm_.reset(); });
  }

  kj::Promise<void> fault(FaultContext context) override {
    const std::string role(codec::view(context.getParams().getRole()));
    auto outcome = context.getResults().initOutcome();
    if (control::is_name(role))
      write_outcome(outcome, vm_.fault(role, context.getParams().getSignal()));
    else
      outcome.setFailed(kNoRole);
    return kj::READY_NOW;
  }

  kj::Promise<void> upgrade(UpgradeContext context) override {
    const auto params = context.getParams();
    std::string role(codec::view(params.getRole()));
    std::string path(codec::view(params.getPath()));
    if (!path.starts_with('/') || path.size() > control::kMaxPathLength || path.find('\0') != std::string::npos) {
      context.getResults().initOutcome().setFailed("that is not the absolute path of an executable");
      return kj::READY_NOW;
    }
    return run_aside_for(context, role, [this, role, path] { return vm_.upgrade(role, path); });
  }

  kj::Promise<void> restore(RestoreContext context) override {
    std::string role(codec::view(context.getParams().getRole()));
    return run_aside_for(context, role, [this, role] { return vm_.restore(role); });
  }

  kj::Promise<void> limit(LimitContext context) override {
    std::string instance(codec::view(context.getParams().getInstance()));
    std::vector<control::Property> properties = codec::read_properties(context.getParams().getProperties());
    if (control::is_name(instance))
      return run_aside(context, devices_, [this, instance = std::move(instance), properties = std::move(properties)] {
        return vm_.limit(instance, properties);
      });
    context.getResults().initOutcome().setFailed("that is not the name of a device instance");
    return kj::READY_NOW;
  }

  kj::Promise<void> setBalloon(SetBalloonContext context) override {
    write_outcome(context.getResults().initOutcome(), vm_.set_balloon(context.getParams().getBytes()));
    return kj::READY_NOW;
  }

  kj::Promise<void> screen(ScreenContext context) override {
    auto answer = context.getResults().initAnswer();
    const auto registers = vm_.screen();
    if (registers)
      set_bytes(answer, std::as_bytes(std::span(&*registers, 1)));
    else
      answer.setFailed(codec::text(registers.error().message));
    return kj::READY_NOW;
  }

  kj::Promise<void> videoMemory(VideoMemoryContext context) override {
    const auto params = context.getParams();
    auto answer = context.getResults().initAnswer();
    if (params.getLength() > control::kMaxVideoPart) {
      answer.setFailed("that is more of the video memory than is given at once");
      return kj::READY_NOW;
    }
    const auto part = vm_.video_memory(params.getOffset(), params.getLength());
    if (part)
      set_bytes(answer, *part);
    else
      answer.setFailed(codec::text(part.error().message));
    return kj::READY_NOW;
  }

  kj::Promise<void> sendInput(SendInputContext context) override {
    const auto bytes = context.getParams().getEvents();
    auto outcome = context.getResults().initOutcome();
    std::vector<InputEvent> events(bytes.size() / sizeof(InputEvent));
    if (bytes.size() % sizeof(InputEvent) != 0 || events.size() > control::kMaxInputEvents) {
      outcome.setFailed("these are no input events");
      return kj::READY_NOW;
    }
    std::memcpy(events.data(), bytes.begin(), bytes.size());
    write_outcome(outcome, vm_.send_input(events));
    return kj::READY_NOW;
  }

  kj::Promise<void> console(ConsoleContext context) override {
    auto answer = context.getResults().initAnswer();
    const auto part = vm_.console(context.getParams().getAfter());
    if (!part) {
      answer.setFailed(codec::text(part.error().message));
      return kj::READY_NOW;
    }
    auto output = answer.initOutput();
    output.setBytes(kj::arrayPtr(reinterpret_cast<const kj::byte*>(part->bytes.data()), part->bytes.size()));
    output.setNext(part->next);
    return kj::READY_NOW;
  }

  kj::Promise<void> typeOnConsole(TypeOnConsoleContext context) override {
    const auto bytes = context.getParams().getBytes();
    auto outcome = context.getResults().initOutcome();
    if (bytes.size() > control::kMaxConsoleInput)
      outcome.setFailed("that is more than a console takes at once");
    else
      write_outcome(outcome, vm_.type_on_console(std::as_bytes(std::span(bytes.begin(), bytes.size()))));
    return kj::READY_NOW;
  }

  kj::Promise<void> events(EventsContext context) override {
    const auto params = context.getParams();
    const std::uint64_t after = params.getAfter();
    const std::uint32_t most = std::min(params.getMost(), control::kMaxEventsAtOnce);
    const bool wait = params.getWait() && most != 0 && vm_.events().since(after, 1).empty();
    context.releaseParams();
    if (wait && waiters_.size() >= kMaxWaiters) {
      context.getResults().initAnswer().setFailed("too many callers wait for events");
      return kj::READY_NOW;
    }
    auto answer = [this, context, after, most]() mutable {
      const auto found = vm_.events().since(after, most);
      codec::write_events(context.getResults().initAnswer().initEvents(static_cast<unsigned>(found.size())), found);
    };
    if (!wait) {
      answer();
      return kj::READY_NOW;
    }
    context.allowCancellation();  // a client that goes away leaves nobody waiting
    return kj::newAdaptedPromise<void, Waiter>(*this)
        .exclusiveJoin(port_.timer().afterDelay(control::kEventsPatience.count() * kj::SECONDS))
        .then(std::move(answer));
  }

 private:
  // The memory may change while it is copied, by its guest.
  static void set_bytes(control::schema::BytesAnswer::Builder answer, std::span<const std::byte> bytes) {
    auto out = answer.initBytes(static_cast<unsigned>(bytes.size()));
    std::memcpy(out.begin(), bytes.data(), bytes.size());
  }

  static constexpr const char* kNoRole = "that is not the name of a device process";

  // Lives inside the promise; dropping the promise takes it off the list.
  class Waiter {
   public:
    Waiter(kj::PromiseFulfiller<void>& fulfiller, ManagementImpl& owner)
        : owner_(owner), position_(owner.waiters_.insert(owner.waiters_.end(), &fulfiller)) {}
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;
    ~Waiter() { owner_.waiters_.erase(position_); }

   private:
    ManagementImpl& owner_;
    std::list<kj::PromiseFulfiller<void>*>::iterator position_;
  };

  // Calls that take long, of one kind: one after the other, and nobody else waits for them.
  struct Aside {
    const char* too_many;
    std::map<std::uint64_t, kj::Own<kj::PromiseFulfiller<Status>>> calls;
    std::optional<Worker> worker;
  };

  template <class Context>
  kj::Promise<void> run_aside_for(Context context, const std::string& role, std::function<Status()> call) {
    if (control::is_name(role)) return run_aside(context, devices_, std::move(call));
    context.getResults().initOutcome().setFailed(kNoRole);
    return kj::READY_NOW;
  }

  template <class Context>
  kj::Promise<void> run_aside(Context context, Aside& aside, std::function<Status()> call) {
    if (!aside.worker) aside.worker.emplace(notify_->borrow());
    const std::uint64_t number = aside.worker->start(std::move(call));
    if (number == 0) {
      context.getResults().initOutcome().setFailed(aside.too_many);
      return kj::READY_NOW;
    }
    context.allowCancellation();  // the call itself goes on; its outcome is then nobody's
    auto paf = kj::newPromiseAndFulfiller<Status>();
    aside.calls.emplace(number, kj::mv(paf.fulfiller));
    return paf.promise.then(
        [context](Status&& status) mutable { write_outcome(context.getResults().initOutcome(), status); });
  }

  kj::Promise<void> watch() {
    return port_.when_ready(notify_->borrow(), POLLIN).then([this] {
      static_cast<void>(drain_eventfd(notify_->borrow()));
      for (Aside* aside : {&devices_, &machine_}) {
        if (!aside->worker) continue;
        for (Worker::Done& done : aside->worker->take_done()) {
          const auto found = aside->calls.find(done.number);
          found->second->fulfill(std::move(done.status));
          aside->calls.erase(found);
        }
      }
      if (const std::uint64_t last = vm_.events().last(); last != last_event_) {
        last_event_ = last;
        for (kj::PromiseFulfiller<void>* waiter : waiters_) waiter->fulfill();
      }
      return watch();
    });
  }

  VmControl& vm_;
  rpc::PollPort& port_;
  std::shared_ptr<UniqueFd> notify_;
  std::uint64_t last_event_ = 0;
  std::list<kj::PromiseFulfiller<void>*> waiters_;
  kj::Promise<void> watching_;
  Aside devices_{.too_many = "too many devices are being replaced already", .calls = {}, .worker = {}};
  Aside machine_{.too_many = "too many calls wait for this VM already", .calls = {}, .worker = {}};
};

#pragma GCC diagnostic pop

struct Client {
  Client(rpc::PollPort& port, UniqueFd socket, schema::Management::Client management,
         std::function<void(const std::string&)> on_error)
      : stream(port, std::move(socket), rpc::StreamLimits(), std::move(on_error)),
        network(stream, capnp::rpc::twoparty::Side::SERVER, options()),
        system(capnp::makeRpcServer(network, kj::mv(management))) {
    system.setFlowLimit(kFlowWords);
  }

  // To the RPC system this is the largest message that it may send; what the stream reads has limits of its
  // own.
  static capnp::ReaderOptions options() {
    return codec::reader_options(rpc::StreamLimits().unread_bytes / sizeof(capnp::word));
  }

  rpc::RpcStream stream;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<VatId> system;
};

// Root, or the user whose VM this is.
bool may_manage(BorrowedFd socket, uid_t& uid) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
  uid = peer.uid;
  return uid == 0 || uid == ::geteuid();
}

// What KJ itself would print to standard error goes to our log.
class KjLog final : public kj::ExceptionCallback {
 public:
  void logMessage(kj::LogSeverity severity, const char*, int, int, kj::String&& text) override {
    const bool bad = severity == kj::LogSeverity::ERROR || severity == kj::LogSeverity::FATAL;
    if (limiter_.allow()) log(bad ? LogLevel::kWarning : LogLevel::kDebug, "management: {}", text.cStr());
  }

 private:
  LogLimiter limiter_;
};

// Everything on the server's thread.
class Service final : private kj::TaskSet::ErrorHandler {
 public:
  Service(UniqueFd listener, BorrowedFd stop, VmControl& vm)
      : listener_(std::move(listener)),
        stop_(stop),
        loop_(port_),
        scope_(loop_),
        management_(kj::heap<ManagementImpl>(vm, port_)),
        tasks_(*this) {}

  void run() {
    tasks_.add(accept_clients());
    port_.when_ready(stop_, POLLIN).wait(scope_);
    // What is ready to be read is answered, and answers on their way go out.
    auto last_answers = until_sent().exclusiveJoin(port_.timer().afterDelay(kLastAnswers));
    last_answers.wait(scope_);
  }

 private:
  kj::Promise<void> accept_clients() {
    return port_.when_ready(listener_.borrow(), POLLIN).then([this]() -> kj::Promise<void> {
      const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd >= 0) {
        admit(UniqueFd(fd));
      } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        // Out of descriptors: the listener stays readable, so wait before asking again.
        if (limiter_.allow())
          log(LogLevel::kWarning, "management: {}", make_errno_error("cannot accept a client").message);
        return port_.timer().afterDelay(100 * kj::MILLISECONDS).then([this] { return accept_clients(); });
      }
      return accept_clients();
    });
  }

  void admit(UniqueFd socket) {
    uid_t uid = 0;
    if (!may_manage(socket.borrow(), uid)) return refuse(fmt::format("user {} may not manage this VM", uid));
    if (clients_.size() >= kMaxClients) return refuse(fmt::format("{} clients are connected already", clients_.size()));
    const unsigned number = ++last_number_;
    auto client = kj::heap<Client>(port_, std::move(socket), management_, [this, number](const std::string& why) {
      if (limiter_.allow()) log(LogLevel::kWarning, "management: client {} loses its connection: {}", number, why);
    });
    auto gone = client->network.onDisconnect();
    clients_.emplace(number, kj::mv(client));
    // Run from the task set, not from inside the client's own promises.
    tasks_.add(gone.then([this, number] { clients_.erase(number); }));
  }

  void refuse(const std::string& why) {
    if (limiter_.allow()) log(LogLevel::kWarning, "management: a connection is closed: {}", why);
  }

  kj::Promise<void> until_sent() {
    return port_.timer().afterDelay(1 * kj::MILLISECONDS).then([this]() -> kj::Promise<void> {
      for (const auto& [number, client] : clients_) {
        if (client->stream.has_unsent()) return until_sent();
      }
      return kj::READY_NOW;
    });
  }

  void taskFailed(kj::Exception&& exception) override {
    if (limiter_.allow()) log(LogLevel::kWarning, "management: {}", exception.getDescription().cStr());
  }

  UniqueFd listener_;
  BorrowedFd stop_;
  rpc::PollPort port_;
  kj::EventLoop loop_;
  kj::WaitScope scope_;
  schema::Management::Client management_;
  std::map<unsigned, kj::Own<Client>> clients_;
  unsigned last_number_ = 0;
  LogLimiter limiter_;
  kj::TaskSet tasks_;
};

}  // namespace

struct ManagementServer::Impl {
  UniqueFd stop;
  std::thread thread;
};

Result<std::unique_ptr<ManagementServer>> ManagementServer::start(UniqueFd listener, VmControl& vm,
                                                                  std::function<void()> on_thread) {
  auto impl = std::make_unique<Impl>();
  ASSIGN_OR_RETURN(impl->stop, UniqueFd::create_eventfd());
  const BorrowedFd stop = impl->stop.borrow();
  // Signals are for the VM's own threads.
  sigset_t all{};
  sigset_t before{};
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    impl->thread = std::thread([listener = std::move(listener), stop, &vm, on_thread = std::move(on_thread)]() mutable {
      try {
        if (on_thread) on_thread();
        KjLog kj_log;
        Service(std::move(listener), stop, vm).run();
      } catch (const kj::Exception& exception) {
        log(LogLevel::kError, "management stopped: {}", exception.getDescription().cStr());
      } catch (const std::exception& exception) {
        log(LogLevel::kError, "management stopped: {}", exception.what());
      }
    });
  } catch (const std::system_error& error) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return make_errno_error("cannot start the management thread", error.code().value());
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return std::unique_ptr<ManagementServer>(new ManagementServer(std::move(impl)));
}

ManagementServer::ManagementServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ManagementServer::~ManagementServer() {
  signal_eventfd(impl_->stop.borrow());
  impl_->thread.join();
}

}  // namespace bulkhead::vmm
