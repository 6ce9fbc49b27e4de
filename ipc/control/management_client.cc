#include "ipc/control/management_client.h"

#include "ipc/base/printable.h"
#include "ipc/control/capnp_codec.h"
#include "ipc/control/management_codec.h"
#include "ipc/control/rpc_loop.h"
#include "ipc/control/statistics_codec.h"

namespace bulkhead::control {
namespace {

constexpr std::size_t kMaxAnswerBytes = std::size_t{4} << 20;
constexpr auto kReplacePatience = 120 * kj::SECONDS;

// One connection with everything under it, in order of construction.
struct Connection {
  explicit Connection(UniqueFd socket)
      : loop(port),
        scope(loop),
        stream(port, std::move(socket), {.message_bytes = kMaxAnswerBytes}, nullptr),
        network(stream, capnp::rpc::twoparty::Side::CLIENT),
        rpc(capnp::makeRpcClient(network)),
        management(bootstrap(rpc)) {}

  static schema::Management::Client bootstrap(capnp::RpcSystem<capnp::rpc::twoparty::VatId>& rpc) {
    capnp::MallocMessageBuilder message;
    auto server = message.initRoot<capnp::rpc::twoparty::VatId>();
    server.setSide(capnp::rpc::twoparty::Side::SERVER);
    return rpc.bootstrap(server).castAs<schema::Management>();
  }

  rpc::PollPort port;
  kj::EventLoop loop;
  kj::WaitScope scope;
  rpc::RpcStream stream;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
  schema::Management::Client management;
};

class Client final : public ManagementClient {
 public:
  Client(UniqueFd socket, std::chrono::milliseconds timeout)
      : timeout_(timeout.count() * kj::MILLISECONDS), connection_(kj::heap<Connection>(std::move(socket))) {}
  // KJ's destructors may throw; ours does not.
  ~Client() noexcept override {
    try {
      connection_ = nullptr;
    } catch (const kj::Exception&) {
    }
  }

  Result<VmStatus> status() override {
    return call<VmStatus>(connection_->management.statusRequest(), [](auto response) -> Result<VmStatus> {
      const auto answer = response.getAnswer();
      if (answer.isFailed()) return failure(answer.getFailed());
      return codec::read_status(answer.getStatus());
    });
  }

  Result<std::vector<DeviceInfo>> devices() override {
    using Devices = std::vector<DeviceInfo>;
    return call<Devices>(connection_->management.devicesRequest(), [](auto response) -> Result<Devices> {
      const auto answer = response.getAnswer();
      if (answer.isFailed()) return failure(answer.getFailed());
      return codec::read_devices(answer.getDevices());
    });
  }

  Result<std::vector<InspectedInstance>> inspect(const std::string& instance) override {
    using Instances = std::vector<InspectedInstance>;
    auto request = connection_->management.inspectRequest();
    request.setInstance(codec::text(instance));
    return call<Instances>(std::move(request), [](auto response) -> Result<Instances> {
      const auto answer = response.getAnswer();
      if (answer.isFailed()) return failure(answer.getFailed());
      return codec::read_inspected(answer.getInstances());
    });
  }

  Status power_button() override { return act(connection_->management.powerButtonRequest()); }
  Status kill() override { return act(connection_->management.killRequest()); }
  Status pause() override { return act(connection_->management.pauseRequest()); }
  Status resume() override { return act(connection_->management.resumeRequest()); }
  Status reset() override { return act(connection_->management.resetRequest()); }

  Status fault(const std::string& role, int signal) override {
    auto request = connection_->management.faultRequest();
    request.setRole(codec::text(role));
    request.setSignal(signal);
    return act(std::move(request));
  }

  Status upgrade(const std::string& role, const std::string& path) override {
    auto request = connection_->management.upgradeRequest();
    request.setRole(codec::text(role));
    request.setPath(codec::text(path));
    return act(std::move(request), kReplacePatience);
  }

  Status restore(const std::string& role) override {
    auto request = connection_->management.restoreRequest();
    request.setRole(codec::text(role));
    return act(std::move(request), kReplacePatience);
  }

  Status limit(const std::string& instance, const std::vector<Property>& properties) override {
    auto request = connection_->management.limitRequest();
    request.setInstance(codec::text(instance));
    codec::write_properties(request.initProperties(static_cast<unsigned>(properties.size())), properties);
    return act(std::move(request), kReplacePatience);
  }

  Status set_balloon(std::uint64_t bytes) override {
    auto request = connection_->management.setBalloonRequest();
    request.setBytes(bytes);
    return act(std::move(request));
  }

  Result<screen::VgaRegisters> screen() override {
    ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, read_bytes(connection_->management.screenRequest()));
    screen::VgaRegisters registers;
    if (bytes.size() != sizeof registers) return make_error("this program is of another version than the VM");
    std::memcpy(static_cast<void*>(&registers), bytes.data(), sizeof registers);
    return registers;
  }

  Result<std::vector<std::byte>> video_memory(std::uint64_t offset, std::uint32_t length) override {
    auto request = connection_->management.videoMemoryRequest();
    request.setOffset(offset);
    request.setLength(length);
    ASSIGN_OR_RETURN(std::vector<std::byte> bytes, read_bytes(std::move(request)));
    if (bytes.size() != length) return make_error("the VM sent less of its video memory than was asked for");
    return bytes;
  }

  Status send_input(std::span<const InputEvent> events) override {
    auto request = connection_->management.sendInputRequest();
    const auto bytes = std::as_bytes(events);
    request.setEvents(kj::arrayPtr(reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()));
    return act(std::move(request));
  }

  Result<ConsoleOutput> console(std::uint64_t after) override {
    auto request = connection_->management.consoleRequest();
    request.setAfter(after);
    return call<ConsoleOutput>(std::move(request), [](auto response) -> Result<ConsoleOutput> {
      const auto answer = response.getAnswer();
      if (answer.isFailed()) return failure(answer.getFailed());
      const auto output = answer.getOutput();
      const auto bytes = std::as_bytes(std::span(output.getBytes().begin(), output.getBytes().size()));
      return ConsoleOutput{.bytes = {bytes.begin(), bytes.end()}, .next = output.getNext()};
    });
  }

  Status type_on_console(std::span<const std::byte> bytes) override {
    auto request = connection_->management.typeOnConsoleRequest();
    request.setBytes(kj::arrayPtr(reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()));
    return act(std::move(request));
  }

  Result<std::vector<DeviceEvent>> events(std::uint64_t after, bool wait) override {
    using Events = std::vector<DeviceEvent>;
    auto request = connection_->management.eventsRequest();
    request.setAfter(after);
    request.setMost(kMaxEventsAtOnce);
    request.setWait(wait);
    const auto read = [](auto response) -> Result<Events> {
      const auto answer = response.getAnswer();
      if (answer.isFailed()) return failure(answer.getFailed());
      return codec::read_events(answer.getEvents());
    };
    const auto patience = wait ? kEventsPatience.count() * kj::SECONDS : 0 * kj::SECONDS;
    return call<Events>(std::move(request), read, timeout_ + patience);
  }

 private:
  static Error failure(capnp::Text::Reader sentence) {
    return make_error(codec::read_sentence(sentence, "the answer", kMaxSentenceLength));
  }

  template <class Request>
  Result<std::vector<std::byte>> read_bytes(Request request) {
    using Bytes = std::vector<std::byte>;
    return call<Bytes>(std::move(request), [](auto response) -> Result<Bytes> {
      const auto answer = response.getAnswer();
      if (answer.isFailed()) return failure(answer.getFailed());
      const auto bytes = std::as_bytes(std::span(answer.getBytes().begin(), answer.getBytes().size()));
      return Bytes(bytes.begin(), bytes.end());
    });
  }

  // Sends `request`, waits for the answer or the deadline, and reads it.
  template <class T, class Request, class Read>
  Result<T> call(Request request, Read read) {
    return call<T>(std::move(request), std::move(read), timeout_);
  }
  template <class T, class Request, class Read>
  Result<T> call(Request request, Read read, kj::Duration timeout) {
    try {
      auto promise = request.send();
      auto response = connection_->port.timer().timeoutAfter(timeout, kj::mv(promise)).wait(connection_->scope);
      return read(std::move(response));
    } catch (const codec::Refused& refused) {
      return codec::bad_message(refused.why);
    } catch (const kj::Exception& exception) {
      switch (exception.getType()) {
        case kj::Exception::Type::DISCONNECTED: return Error{"the VM closed the connection", kPeerClosed};
        case kj::Exception::Type::OVERLOADED: return Error{"the VM does not answer", kTimedOut};
        default:
          return make_error(
              fmt::format("the VM's answer cannot be used: {}", printable(exception.getDescription().cStr())));
      }
    }
  }

  template <class Request>
  Status act(Request request) {
    return act(std::move(request), timeout_);
  }
  template <class Request>
  Status act(Request request, kj::Duration timeout) {
    const auto read = [](auto response) -> Status {
      const auto outcome = response.getOutcome();
      if (outcome.isFailed()) return failure(outcome.getFailed());
      return ok();
    };
    return call<void>(std::move(request), read, timeout);
  }

  kj::Duration timeout_;
  kj::Own<Connection> connection_;
};

}  // namespace

Result<std::unique_ptr<ManagementClient>> ManagementClient::create(UniqueFd socket, std::chrono::milliseconds timeout) {
  return codec::guarded<std::unique_ptr<ManagementClient>>([&]() -> Result<std::unique_ptr<ManagementClient>> {
    return std::unique_ptr<ManagementClient>(std::make_unique<Client>(std::move(socket), timeout));
  });
}

}  // namespace bulkhead::control
