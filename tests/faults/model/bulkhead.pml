/*
 * The protocol between the VMM and a device process (DESIGN.md, sections 3 and 4), for spin.
 *
 * One device process and its successors, killable at every step; callers (vCPUs, and one thread of the VMM's own); the
 * stream pump; the supervisor. Memory is sequentially consistent, and each store to shared memory is a step of its own,
 * in the order of the code. Where several stores are one step here, nobody but a successor can see them, and the
 * successor reads none of them before it has overwritten it; or they are one atomic operation in the code.
 *
 *   -DCALLS | -DPOSTED | -DWORLD | -DRESETS    which configuration (see "Scripts")
 *   -DDEATHS=n                                 how often a device process dies
 *   -DBREAK_...                                one rule broken; README.md lists them. spin must find a counter-example.
 *
 * A claim is an assertion with a name: CLAIM(name, condition). Names that begin with g_ are ghosts: they exist for claims
 * alone, and no process acts on them.
 */

#ifndef DEATHS
#define DEATHS 2
#endif

#define K 2                    /* slots of the ring: tickets 1 and 3 share one */
#define T 8                    /* tickets 1..T-1 */
#define R 4                    /* entries of the outbound queue and bytes of the stream */
#define slot(t) ((t) % K)

/* What a request is and does. */
#define POST 1                 /* posted */
#define EFFECT 2               /* has an effect: in the reply, or in the outbound queue if posted */
#define MSI 4                  /* raises an interrupt */
#define BYTE 8                 /* puts a byte on the output stream */
#define RESET 16
#define LATE 32                /* by a thread that a reset does not wait for */
#define END 64

/* --- Scripts: what caller `me` asks for, one after the other --- */

#if defined(CALLS)             /* two vCPUs, replies with effects, one slot used again: sleeping, waking, effects */
#define CALLERS 2
#define HANGS
#ifdef SHORT                   /* each asks once */
#define SCRIPT(me, i) ((i) > 0 -> END : EFFECT)
#else
#define SCRIPT(me, i) ((i) > 1 - (me) -> END : EFFECT)
#endif
#elif defined(POSTED)          /* posted requests that use a slot again, and a call among them */
#define CALLERS 2
#define SCRIPT(me, i) ((me) == 0 -> ((i) > 1 -> END : POST) : ((i) > 0 -> END : 0))
#elif defined(WORLD)           /* interrupts, a byte stream, and an input that is no request: a timer */
#define CALLERS 1
#define PUMP
#define TIMER
#define MSIS
#ifdef SHORT
#define SCRIPT(me, i) ((i) > 0 -> END : POST + MSI + BYTE + EFFECT)
#else
#define SCRIPT(me, i) ((i) > 1 -> END : ((i) == 0 -> POST + MSI + BYTE + EFFECT : MSI + BYTE))
#endif
#elif defined(RESETS)          /* caller 1 resets the machine; caller 2 is not stopped for it */
#ifdef SHORT                   /* without caller 2 */
#define CALLERS 2
#else
#define CALLERS 3
#endif
#ifndef VCPU
#define VCPU POST
#endif
#define SCRIPT(me, i) ((i) > 0 -> END : ((me) == 0 -> VCPU : ((me) == 1 -> RESET : LATE_OP)))
#ifdef BREAK_LATE_EFFECT       /* caller 2 asks for something that has an effect */
#define LATE_OP (LATE + EFFECT)
#else
#define LATE_OP LATE
#endif
#else
#error which configuration?
#endif

/* --- Claims --- */

bool no_deadlock, no_request_lost, none_applied_twice, state_is_the_commits, reply_is_the_commits,
     no_reply_of_an_old_generation, no_request_of_an_old_generation, effects_once_and_in_order,
     effects_before_the_guest_goes_on, no_effect_of_an_old_generation, interrupt_after_its_commit,
     interrupt_before_its_reply, no_interrupt_lost, outbound_exact, stream_exact;    /* all false: see CLAIM */
#define CLAIM(name, condition) assert(name || (condition))

/* --- The request area: written by the VMM --- */

typedef RequestSlot { byte ticket; byte flags; byte gen }
RequestSlot req[K];
bool waiter_asleep[K];
bool pump_asleep;

/* --- The reply area: written by the device --- */

#define DONE 1
#define DROPPED 2
#define WILD 99
/* `woken` stands for the futex word `wake`: whether it grew since the slot's waiter read it. */
typedef ReplySlot { byte ticket; byte inc; bool woken; byte value; byte gen; byte status; bool effects; byte total; byte effect }
ReplySlot rep[K];
bool asleep;                   /* the device waits for its doorbell */
byte outbound_produced;
byte outbound[R];
byte stream_produced;
byte stream[R];

/* --- The state region: written by the device, read by its successors --- */

typedef Bank {
  byte last; byte gen; byte msi;                                     /* InputRecord */
  byte r_value; byte r_gen; byte r_status; bool r_effects; byte r_total; byte effect;  /* the last request's answer */
  byte count;                                                        /* the model's State: requests since the reset */
  byte out; byte out_ring[R];                                        /* OutboundState */
  byte bytes;                                                        /* StreamState */
  bool timer                                                         /* TimerState: armed */
}
Bank bank[2];
bit word = 1;                  /* the commit word: its low bit, which is all that matters. The model begins after
                                * start_fresh() */

/* --- Private to the VMM --- */

byte next = 1;
byte gen = 1;                  /* RequestProducer::generation_ */
byte inc = 1;                  /* RequestProducer::incarnation_ */
byte free_for[K];
byte posted[K];
bool effects_lock;
byte scanned;                  /* effects_scanned_ */
byte applied;                  /* effects_applied_ */
bool stop;                     /* vCPUs are to stop, and how many are inside the ring */
byte inside;
byte role_gen = 1;             /* TakeRole */

/* --- The kernel --- */

bool bell;                     /* request doorbell */
bool pump_bell;                /* output doorbell */
bool futex[K];                 /* somebody sleeps on slot i's wake word */
bool killed;                   /* SIGKILL: the process takes no further step */
bool dead;                     /* its exit stop was seen */
byte deaths;

/* --- Ghosts --- */

bool g_done[T];                /* ticket t was committed, */
byte g_value[T];               /* with this answer, */
byte g_life[T];                /* in this life of the machine; */
byte g_effect[T];              /* and the last effect up to it was ticket's g_effect[t] */
byte g_count;                  /* what the model's state must be */
byte g_gen = 1;
byte g_last_effect;            /* committed in this generation */
byte g_applied;                /* the last effect that the VMM applied */
byte g_msis;                   /* committed, bit by ticket */
byte g_raised;
byte g_outs; byte g_out[R];
byte g_bytes; byte g_stream[R];
bool g_timer;                  /* fired and committed */
byte g_finished;

/* ================================================================ the device process ================== */

#define NEW n            /* after commit(): the bank that was committed; before: the one committed last */
#define SPARE (1 - n)
#define waiting(ticket_) (req[slot(ticket_)].ticket == ticket_)   /* RoleHost::request_waiting() */
#define TIMER_ID 7             /* what the timer's interrupt and effect are told by */

inline copy_input(to, from) {
    bank[to].last = bank[from].last; bank[to].gen = bank[from].gen; bank[to].msi = bank[from].msi;
    bank[to].r_value = bank[from].r_value; bank[to].r_gen = bank[from].r_gen; bank[to].r_status = bank[from].r_status;
    bank[to].r_effects = bank[from].r_effects; bank[to].r_total = bank[from].r_total;
    if :: bank[from].r_effects -> bank[to].effect = bank[from].effect :: else fi
}

inline copy_outbound(to, from) {
    bank[to].out = bank[from].out;
    bank[to].out_ring[0] = bank[from].out_ring[0]; bank[to].out_ring[1] = bank[from].out_ring[1];
    bank[to].out_ring[2] = bank[from].out_ring[2]; bank[to].out_ring[3] = bank[from].out_ring[3]
}

/* Checkpoint::commit(). The ghosts change in the same step: what is committed has happened. */
inline commit(input) {
  d_step {
    n = 1 - n;
    word = n;
    if
    :: input == 1 ->           /* a request */
       CLAIM(none_applied_twice, !g_done[t]);
       CLAIM(no_request_lost, ran || (f & LATE));   /* a vCPU's request is never dropped */
       g_done[t] = true;
       if
       :: f & RESET -> g_count = 0; g_gen = g; g_last_effect = 0
       :: !(f & RESET) && ran -> g_count++; CLAIM(no_request_of_an_old_generation, g == g_gen)
       :: else
       fi;
       if :: ran && (f & EFFECT) && !(f & POST) -> g_last_effect = t :: else fi;
       if :: ran && (f & EFFECT) && (f & POST) -> g_out[g_outs] = t; g_outs++ :: else fi;
       if :: ran && (f & BYTE) -> g_stream[g_bytes] = t; g_bytes++ :: else fi;
       if :: ran && (f & MSI) -> g_msis = g_msis | (1 << t) :: else fi;
       g_value[t] = (ran -> g_count : 255);
       g_life[t] = g_gen;
       g_effect[t] = g_last_effect
    :: input == 2 ->           /* the timer */
       CLAIM(none_applied_twice, !g_timer);
       g_timer = true; g_msis = g_msis | (1 << TIMER_ID);
       g_out[g_outs] = TIMER_ID; g_outs++
    :: else                    /* a take-over */
    fi;
    CLAIM(state_is_the_commits, bank[NEW].count == g_count && bank[NEW].out == g_outs && bank[NEW].bytes == g_bytes)
  }
}

/* Checkpoint::sync() */
inline sync() {
  d_step {
#ifndef BREAK_SYNC_INPUT
  copy_input(SPARE, NEW);
#endif
#ifndef BREAK_DIRTY_MASK
  if :: d_count -> bank[SPARE].count = bank[NEW].count :: else fi;
#endif
  if :: d_out -> copy_outbound(SPARE, NEW) :: else fi;
  if :: d_bytes -> bank[SPARE].bytes = bank[NEW].bytes :: else fi;
  if :: d_timer -> bank[SPARE].timer = bank[NEW].timer :: else fi;
  d_count = 0; d_out = 0; d_bytes = 0; d_timer = 0
  }
}

/* RoleHost::drive_world() */
inline drive_world(from) {
#ifdef MSIS
  atomic {
    if
    :: bank[from].msi != 0 ->
       CLAIM(interrupt_after_its_commit, g_msis & (1 << bank[from].msi));
       g_raised = g_raised | (1 << bank[from].msi)
    :: else
    fi
  }
#else
  skip
#endif
}

/* RoleHost::publish_streams() */
inline publish_streams(resuming) {
#ifdef PUMP
  atomic {
    if
    :: outbound_produced != bank[NEW].out ->
       outbound[0] = bank[NEW].out_ring[0]; outbound[1] = bank[NEW].out_ring[1];
       outbound[2] = bank[NEW].out_ring[2]; outbound[3] = bank[NEW].out_ring[3];
       changed = true
    :: else
    fi
  };
  if :: changed -> outbound_produced = bank[NEW].out :: else fi;
  atomic { if :: stream_produced != bank[NEW].bytes -> stream_produced = bank[NEW].bytes; changed = true :: else fi };
#ifndef BREAK_RESUME_PUMP      /* a predecessor may have died between its store and its signal */
  changed = changed || resuming;
#endif
  atomic { if :: changed && pump_asleep -> pump_bell = true :: else fi; changed = false }
#else
  skip
#endif
}

/* wake_waiter() */
inline wake_waiter(i) {
  rep[i].woken = true;
  futex[i] = false;
#ifdef BREAK_SLEEP_FLAG        /* the waker clears the flag */
  waiter_asleep[i] = false
#endif
}

/* RoleHost::publish_reply(). What lies in a slot is nobody's before its ticket is stored. */
inline publish_reply(x, from) {
#ifdef BREAK_REPLY_ORDER       /* the slot's ticket before its reply */
  rep[slot(x)].inc = me;
  rep[slot(x)].ticket = x;
#endif
  d_step {
    if :: bank[from].r_effects -> rep[slot(x)].effect = bank[from].effect :: else fi;
    rep[slot(x)].value = bank[from].r_value;
    rep[slot(x)].gen = bank[from].r_gen; rep[slot(x)].status = bank[from].r_status;
    rep[slot(x)].effects = bank[from].r_effects; rep[slot(x)].total = bank[from].r_total
  };
  rep[slot(x)].inc = me;
  rep[slot(x)].ticket = x;
#ifdef BREAK_WAKE              /* nobody looks at the flag */
  skip
#else
  if
  :: waiter_asleep[slot(x)] -> wake_waiter(slot(x))
  :: else
  fi
#endif
}

/* RoleHost::republish_after_takeover(). With two slots there is one ticket before the last that may be waited for. */
inline republish() {
#ifdef BREAK_REPUBLISH
  skip
#else
  t = bank[NEW].last;
  if
  :: t > 1 && rep[slot(t - 1)].ticket == t - 1 ->
     rep[slot(t - 1)].inc = me;
     wake_waiter(slot(t - 1))
  :: else                      /* served, and its slot serves a later ticket: never one that nobody answered */
     CLAIM(no_request_lost, t < 2 || req[slot(t - 1)].ticket != t - 1)
  fi;
  if
  :: t > 0 ->
#ifdef BREAK_RESUME_WAKE       /* a reply that is there is stamped anew, and nobody is woken */
     if :: rep[slot(t)].ticket == t -> rep[slot(t)].inc = me :: else -> publish_reply(t, NEW) fi
#else
     publish_reply(t, NEW);
     wake_waiter(slot(t))
#endif
  :: else
  fi
#endif
}

/* Checkpoint::open() and RoleHost::resume() */
inline resume() {
  d_step {
    n = word;
#ifndef BREAK_BANK_COPY
    copy_input(SPARE, NEW);
    copy_outbound(SPARE, NEW);
    bank[SPARE].count = bank[NEW].count; bank[SPARE].bytes = bank[NEW].bytes; bank[SPARE].timer = bank[NEW].timer;
#endif
    bank[SPARE].gen = role_gen /* mend_input() */
  };
#ifdef BREAK_POSTED_DROP       /* the successor goes on with what comes, not with what lies in the ring */
  if
  :: waiting(bank[SPARE].last + 1) && (req[slot(bank[SPARE].last + 1)].flags & POST) -> bank[SPARE].last = bank[SPARE].last + 1
  :: else
  fi;
#endif
#ifdef BREAK_LAST_TICKET       /* the last ticket is told from the reply area, not from the commit */
  if
  :: bank[SPARE].last > 0 && rep[slot(bank[SPARE].last)].ticket != bank[SPARE].last -> bank[SPARE].last = bank[SPARE].last - 1
  :: else
  fi;
#endif
#ifdef BREAK_RESUME_KEEPS_MSI  /* the take-over is an input like any other, whose own interrupts are none */
  t = bank[SPARE].msi;
  bank[SPARE].msi = 0;
  commit(0);
  if :: t != 0 -> g_raised = g_raised | (1 << t) :: else fi;
#else
  commit(0);
#ifndef BREAK_INTERRUPT_REPEAT
  drive_world(NEW);
#endif
#endif
  publish_streams(true);
  republish();
  sync()                       /* both banks were equal: what the take-over mended is copied with the input */
}

/* RoleHost::finish_input() */
inline finish_input(input) {
#ifdef BREAK_SYNC_FENCE        /* sync()'s copy overtakes the commit */
  bank[NEW].count = bank[SPARE].count;
#endif
#ifdef BREAK_COMMIT_ORDER      /* the reply is out before the commit */
  if :: input == 1 -> publish_reply(t, SPARE) :: else fi;
  commit(input);
  drive_world(NEW);
  publish_streams(false);
#else
#ifdef BREAK_WORLD_ORDER       /* the interrupt is raised before the commit */
  drive_world(SPARE);
#endif
#ifdef BREAK_STREAM_ORDER      /* the stream's index is shown before the commit */
  stream_produced = bank[SPARE].bytes;
#endif
  commit(input);
#ifdef BREAK_REPLY_BEFORE_WORLD
  if :: input == 1 -> publish_reply(t, NEW) :: else fi;
#endif
#ifndef BREAK_WORLD_ORDER
  drive_world(NEW);
#endif
  publish_streams(false);
#ifndef BREAK_REPLY_BEFORE_WORLD
  if :: input == 1 -> publish_reply(t, NEW) :: else fi;
#endif
#endif
  sync()
}

/* RoleHost::handle_request() */
inline handle_request() {
  d_step {                     /* begin_input() */
    f = req[slot(t)].flags; g = req[slot(t)].gen;
    bank[SPARE].last = t; bank[SPARE].msi = 0;
#ifdef BREAK_GENERATION_REQUEST
    ran = true;
#else
    ran = (f & RESET) || g == bank[SPARE].gen;
#endif
    if                         /* run_request() */
    :: f & RESET -> bank[SPARE].count = 0; bank[SPARE].gen = g; d_count = true
    :: !(f & RESET) && ran ->
#ifdef BREAK_STATE_IN_PLACE    /* the model's state is changed where it is committed */
       bank[NEW].count = bank[NEW].count + 1;
       bank[SPARE].count = bank[NEW].count;
#else
       bank[SPARE].count = bank[SPARE].count + 1;
#endif
       d_count = true;
       if :: f & MSI -> bank[SPARE].msi = t :: else fi;
       if
       :: f & BYTE ->          /* HostCharBackend::put(): beyond the index that the pump sees */
          stream[bank[SPARE].bytes] = t; bank[SPARE].bytes = bank[SPARE].bytes + 1; d_bytes = true
       :: else
       fi
    :: else
    fi
  };
  d_step {                     /* the answer, effects_to_reply(), effects_to_outbound() */
    bank[SPARE].r_value = (ran -> bank[SPARE].count : 255);
    bank[SPARE].r_status = (ran -> DONE : DROPPED);
    bank[SPARE].r_effects = false;
    bank[SPARE].r_gen = bank[SPARE].gen;
    if
    :: ran && (f & EFFECT) && !(f & POST) ->
       bank[SPARE].effect = t; bank[SPARE].r_effects = true; bank[SPARE].r_total = bank[SPARE].r_total + 1
    :: ran && (f & EFFECT) && (f & POST) -> effect_to_outbound(t)
    :: else
    fi
  };
  finish_input(1)
}

/* RoleHost::effects_to_outbound(). The queue is as long as the model's effects: a full one drops what comes. */
inline effect_to_outbound(id) {
    bank[SPARE].out_ring[bank[SPARE].out % R] = id;
    bank[SPARE].out = bank[SPARE].out + 1;
    d_out = true
}

/* RoleHost::handle_timers() */
inline handle_timer() {
  d_step { bank[SPARE].msi = 0; bank[SPARE].timer = false; d_timer = true };
  d_step { bank[SPARE].msi = TIMER_ID; effect_to_outbound(TIMER_ID) };
  finish_input(2)
}

#ifdef BREAK_INCARNATION_LATE
#define successor (inc + 1)
#define next_incarnation skip
#else
#define successor inc
#define next_incarnation inc++
#endif

proctype Device() {
  byte me = 1;                 /* incarnation_ */
  bit n = 1;                   /* Checkpoint::number_ */
  byte t, f, g;
  bool ran, changed, d_count, d_out, d_bytes, d_timer;

life:
  {
    if :: me > 1 -> resume() :: else fi;
    do                         /* EventLoop::run() */
    :: waiting(bank[NEW].last + 1) -> t = bank[NEW].last + 1; handle_request()
#ifdef TIMER
    :: bank[NEW].timer ->      /* due at any time */
fire:  handle_timer()
#endif
    :: !waiting(bank[NEW].last + 1) ->
       t = 0;                  /* wait_for_events(kSleep) */
#ifdef BREAK_DEVICE_SLEEP      /* looks first and says afterwards that it sleeps */
       if :: waiting(bank[NEW].last + 1) -> goto awake :: else fi;
       asleep = true;
#else
       asleep = true;
       if :: waiting(bank[NEW].last + 1) -> goto awake :: else fi;
#endif
end_asleep:
       if
       :: bell -> bell = false
#ifdef TIMER
       :: bank[NEW].timer -> asleep = false; goto fire
#endif
       fi;
awake: asleep = false
    od
  } unless {
    d_step {
      killed ->                /* what was private to the process is gone */
      me = 0; n = 0; t = 0; f = 0; g = 0; ran = 0; changed = 0; d_count = 0; d_out = 0; d_bytes = 0; d_timer = 0;
      bell = false;            /* the successor's epoll has seen no edge; it looks at the ring before it sleeps */
      killed = false;
      dead = true
    }
  };
end_dead:
  atomic { !dead -> me = successor };
  goto life
}

/* ================================================================ the VMM ============================= */

/* A request that somebody waits for and that was not committed. */
#define next_ticket (bank[word].last + 1)
#define wild_target() (req[slot(next_ticket)].ticket == next_ticket && !(req[slot(next_ticket)].flags & POST))

/* The supervisor: proof of death, then the incarnation, then the hand-over. */
proctype Supervisor() {
  byte x;
end:
  do
  :: deaths < DEATHS -> deaths = DEATHS      /* no more of them: what hangs now, no successor mends */
  :: deaths < DEATHS ->
     atomic {
       deaths++;
#ifdef BREAK_HANDOVER_GENERATION    /* the hand-over is written before the predecessor is dead */
       role_gen = gen
#endif
     };
     if
     :: killed = true; atomic { dead -> next_incarnation }
#ifdef HANGS
     :: inc++;                 /* a hang: the process runs, and may run wild, until the signal ends it */
        if
        :: killed = true
        :: d_step {            /* an answer that was never committed */
             wild_target();
             x = next_ticket;
             rep[slot(x)].value = WILD; rep[slot(x)].gen = gen; rep[slot(x)].status = DONE; rep[slot(x)].effects = false;
             rep[slot(x)].inc = inc - 1; rep[slot(x)].ticket = x;
             killed = true; x = 0
           }
        fi;
        (dead)
#endif
     fi;
     atomic {
#ifndef BREAK_HANDOVER_GENERATION
       role_gen = gen;
#endif
       dead = false
     }
#ifdef BREAK_INCARNATION_LATE  /* the successor runs before its replies count */
     ; inc++
#endif
  od
}

#ifdef BREAK_INCARNATION
#define done(t) (rep[slot(t)].ticket == (t))
#else
#define done(t) (rep[slot(t)].ticket == (t) && rep[slot(t)].inc == inc)
#endif

#ifdef BREAK_RECLAIM           /* the slot of a posted request is used again before that request was done */
#define answered(t) true
#else
#define answered(t) (rep[slot(t)].ticket == (t))
#endif

/* RequestProducer::take_slot() and reclaim_posted(): what is looked at stays as it is until the compare-and-swap. The
 * request is written with it: nobody reads it before its ticket is there. */
inline take_slot() {
  do
  :: atomic {
       free_for[slot(next)] == next ->
         t = next; next++;
#ifndef BREAK_PUBLISH_ORDER
         req[slot(t)].flags = op; req[slot(t)].gen = g;
#endif
         break
     }
  :: atomic {
       next > K && free_for[slot(next)] == next - K && posted[slot(next)] == next - K && answered(next - K) ->
         free_for[slot(next)] = next
     }
  od
}

/* RequestProducer::publish() */
inline publish() {
  req[slot(t)].ticket = t;
#ifdef BREAK_PUBLISH_ORDER     /* the ticket before the request */
  d_step { req[slot(t)].flags = op; req[slot(t)].gen = g };
#endif
  atomic { if :: asleep -> bell = true :: else fi }
}

/* RequestProducer::await() */
inline await() {
  if
  :: done(t)                   /* the spin won */
  :: true ->
     do
     :: rep[slot(t)].woken = false;                  /* reads the word */
#ifdef BREAK_WAITER_SLEEP      /* looks first and says afterwards that it sleeps */
        if :: done(t) -> break :: else fi;
        waiter_asleep[slot(t)] = true;
#else
        waiter_asleep[slot(t)] = true;
        if :: done(t) -> break :: else fi;
#endif
        atomic {               /* futex_wait() */
          if
          :: !rep[slot(t)].woken -> futex[slot(t)] = true; !futex[slot(t)]
          :: else
          fi
        }
     od
  fi;
  atomic {                     /* a reply that is there stays as it is until the slot is given back */
    waiter_asleep[slot(t)] = false;
    value = rep[slot(t)].value; rgen = rep[slot(t)].gen; status = rep[slot(t)].status; total = rep[slot(t)].total;
#ifndef BREAK_GENERATION_REPLY
    if
    :: rgen != gen -> status = DROPPED; value = 255; total = 0
    :: else
    fi;
#endif
    CLAIM(reply_is_the_commits, g_done[t] &&
          (status == DROPPED -> (g_value[t] == 255 || g_life[t] != gen) : value == g_value[t]));
    CLAIM(no_reply_of_an_old_generation, status == DROPPED || g_life[t] == gen);
    CLAIM(interrupt_before_its_reply, !(g_msis & (1 << t)) || (g_raised & (1 << t)));
    value = 0; rgen = 0
  }
}

/* One effect reaches EffectReceiver::apply_effect(). */
inline apply(id) {
  d_step {
    CLAIM(effects_once_and_in_order, id > g_applied);
    CLAIM(no_effect_of_an_old_generation, g_life[id] == gen);
    g_applied = id
  }
}

#ifdef BREAK_GENERATION_EFFECT
#define of_this_generation(x) true
#else
#define of_this_generation(x) (rep[slot(x)].gen == gen)
#endif
#define readable(x) (rep[slot(x)].ticket == x && free_for[slot(x)] == x && rep[slot(x)].effects && of_this_generation(x))

/* RequestProducer::apply_effects_through() */
inline apply_effects() {
  atomic {
    !effects_lock -> effects_lock = true;
#ifdef BREAK_EFFECT_ORDER      /* each caller applies its own effects only */
    x = t
#else
    x = scanned + 1;
#ifdef BREAK_EFFECT_ONCE       /* no private number says what was applied already */
    x = 1;
#endif
    if :: t >= K && x < t - K + 1 -> x = t - K + 1 :: else fi
#endif
  };
  do
  :: x <= t && readable(x) ->  /* held(), and the reply is read */
     e = rep[slot(x)].effect;
     atomic { if :: free_for[slot(x)] == x -> apply(e) :: else fi; e = 0; x++ }
  :: x <= t && !readable(x) -> x++
  :: atomic {
       x > t ->
         x = 0;
         if :: t > scanned -> scanned = t; applied = total :: else fi;
         effects_lock = false;
         break
     }
  od
}

/* RequestProducer::call() and post(), and VirtualMachine::do_reset() around a reset's call. */
proctype Caller(byte me) {
  byte i, op, g, t, x, e;
  byte value, rgen, status, total;

  do
  :: atomic {
       op = SCRIPT(me, i);
       if
       :: op == END -> break
       :: op & RESET -> stop = true
       :: op & LATE ->
#ifdef BREAK_LATE_REQUEST      /* it may ask between the new generation and the reset */
          g = gen
#else
          if :: gen == 1 -> g = gen :: gen != 1 -> break fi
#endif
       :: else ->
#ifdef RESETS
          !stop -> inside++;
#endif
          g = gen
       fi
     };
     if
     :: op & RESET ->
#ifndef BREAK_RESET_STOP
        (inside == 0);
#endif
#ifndef BREAK_DRAIN
        atomic { t = next - 1; x = (t > K -> t - K + 1 : 1) };
        do :: x > t -> break :: x <= t && rep[slot(x)].ticket >= x -> x++ od;
        x = 0;
#endif
        gen++;
        g = gen
     :: else
     fi;
     take_slot();
     publish();
     if
     :: op & POST -> posted[slot(t)] = t
     :: else ->
        await();
#ifdef BREAK_HELD              /* the slot is given back before its effects are applied */
        free_for[slot(t)] = t + K;
#endif
        if :: total != applied -> apply_effects() :: total == applied fi;
        atomic {
          CLAIM(effects_before_the_guest_goes_on, status == DROPPED || g_life[t] != gen || g_applied >= g_effect[t]);
          free_for[slot(t)] = t + K
        }
     fi;
     atomic {
       if
       :: op & RESET -> stop = false
       :: op & LATE
       :: else ->
#ifdef RESETS
          inside--
#else
          skip
#endif
       fi;
       op = 0; g = 0; t = 0; status = 0; total = 0;
       i++
     }
  od;
  atomic { i = 0; op = 0; g_finished++ }
}

/* StreamPump: move_output(), collect_effects(), wait(). */
proctype Pump() {
  byte taken, bytes;
  do
  :: outbound_produced != taken ->
     d_step {
       CLAIM(outbound_exact, taken < g_outs && outbound[taken] == g_out[taken]);
       taken++
     }
  :: stream_produced != bytes ->
     d_step {
       CLAIM(stream_exact, bytes < g_bytes && stream[bytes] == g_stream[bytes]);
       bytes++
     }
  :: outbound_produced == taken && stream_produced == bytes ->
#ifdef BREAK_PUMP_SLEEP        /* looks first and says afterwards that it sleeps */
     if :: outbound_produced != taken || stream_produced != bytes -> goto awake :: else fi;
     pump_asleep = true;
#else
     pump_asleep = true;
     if :: outbound_produced != taken || stream_produced != bytes -> goto awake :: else fi;
#endif
end_asleep:
     if
     :: pump_bell -> pump_bell = false
     :: g_finished > CALLERS -> break
     fi;
awake:
     pump_asleep = false
  od;
  CLAIM(outbound_exact, taken == g_outs);
  CLAIM(stream_exact, bytes == g_bytes)
}

init {
  byte x;
  atomic {
    free_for[0] = K; free_for[1] = 1;
    bank[0].gen = 1; bank[1].gen = 1;
#ifdef TIMER
    bank[0].timer = true; bank[1].timer = true;
#endif
    run Device();
    run Supervisor();
#ifdef PUMP
    run Pump();
#endif
    x = 0;
    do :: x < CALLERS -> run Caller(x); x++ :: else -> break od;
    x = 0
  };
  /* When nothing can move any more, everything has been done. */
  timeout;
  CLAIM(no_deadlock, g_finished == CALLERS);
  d_step {
    x = 1;
    do :: x < next -> CLAIM(no_request_lost, g_done[x]); x++ :: else -> break od;
    x = 0
  };
  CLAIM(no_interrupt_lost, (g_raised & g_msis) == g_msis);
#ifdef TIMER
  CLAIM(no_request_lost, g_timer);
#endif
  g_finished++                 /* the pump says whether it got everything */
}
