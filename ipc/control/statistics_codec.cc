#include "ipc/control/statistics_codec.h"

#include "ipc/control/capnp_codec.h"

namespace bulkhead::control::codec {

void write_statistics(schema::Statistics::Builder out, const Statistics& statistics) {
  out.setRequestsServed(statistics.requests_served);
  out.setPostedServed(statistics.posted_served);
  out.setCommits(statistics.commits);
  out.setTimersFired(statistics.timers_fired);
  out.setStreamEvents(statistics.stream_events);
  out.setLinesRaised(statistics.lines_raised);
  out.setMessagesSent(statistics.messages_sent);
  out.setEffects(statistics.effects);
  out.setRefusedAccesses(statistics.refused_accesses);
  out.setSpuriousWakeups(statistics.spurious_wakeups);
  out.setSpinsWon(statistics.spins_won);
  out.setSpinsLost(statistics.spins_lost);
  out.setSleeps(statistics.sleeps);
}

Statistics read_statistics(schema::Statistics::Reader in) {
  return {.requests_served = in.getRequestsServed(),
          .posted_served = in.getPostedServed(),
          .commits = in.getCommits(),
          .timers_fired = in.getTimersFired(),
          .stream_events = in.getStreamEvents(),
          .lines_raised = in.getLinesRaised(),
          .messages_sent = in.getMessagesSent(),
          .effects = in.getEffects(),
          .refused_accesses = in.getRefusedAccesses(),
          .spurious_wakeups = in.getSpuriousWakeups(),
          .spins_won = in.getSpinsWon(),
          .spins_lost = in.getSpinsLost(),
          .sleeps = in.getSleeps()};
}

void write_inspected(capnp::List<schema::InspectedInstance>::Builder out,
                     const std::vector<InspectedInstance>& instances) {
  for (unsigned i = 0; i < out.size(); ++i) {
    out[i].setName(text(instances[i].name));
    auto fields = out[i].initFields(static_cast<unsigned>(instances[i].fields.size()));
    for (unsigned k = 0; k < fields.size(); ++k) {
      fields[k].setName(text(instances[i].fields[k].name));
      fields[k].setValue(instances[i].fields[k].value);
    }
  }
}

std::vector<InspectedInstance> read_inspected(capnp::List<schema::InspectedInstance>::Reader in) {
  std::vector<InspectedInstance> instances;
  check_size(in, "instances", kMaxInstances);
  for (const auto item : in) {
    InspectedInstance instance{.name = read_name(item.getName(), "the name of an instance"), .fields = {}};
    const auto fields = item.getFields();
    check_size(fields, "fields", kMaxFields);
    for (const auto field : fields)
      instance.fields.push_back(
          {.name = read_sentence(field.getName(), "the name of a field", kMaxNameLength), .value = field.getValue()});
    instances.push_back(std::move(instance));
  }
  return instances;
}

}  // namespace bulkhead::control::codec
