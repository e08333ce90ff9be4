"""The engine: a pure state machine that decides, for one stage, which blocks to send out and what a failure means.

`decide(state, stimulus) -> (state, actions)`. No clock, no files, no processes: time comes with the stimulus, and an
executor turns actions into work. At every moment
done + skipped + failed + orphaned + pending + running = planned (`State.counts`); tests assert it after each stimulus.

What a failure means:
- a block reports a fault that may pass: tried again after a wait, up to `attempts`, while the run's budget lasts;
- a block reports any other fault: failed at once, its neighbours go on;
- a worker dies and tells which block it was at: that block is blamed, the rest of the batch is sent again;
- a worker dies without a word: the batch is halved and sent again, until one block is left; before a block is called
  failed its last try runs alone, so that a bystander is never blamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from immutables import Map

from ndbatch.events import Counts
from ndbatch.ranges import Ranges

# -- what the engine is told --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """A block's failure, as data. `passing` faults may go away by themselves; `fatal` ones took the worker down."""

    block: int
    kind: str
    error: str
    passing: bool = False
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """The executor can take `batches` more batches at time `now` (seconds, any origin)."""

    batches: int
    now: float


@dataclass(frozen=True, slots=True)
class Returned:
    """Batch `ticket` came back: `done` blocks, faults, and `untouched` blocks that the worker gave back."""

    ticket: int
    done: Ranges
    now: float
    seconds: float = 0.0
    faults: tuple[Fault, ...] = ()
    untouched: Ranges = field(default_factory=Ranges)


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker of batch `ticket` died. `culprit` is the block it was at, or None where nobody knows."""

    ticket: int
    kind: str
    error: str
    now: float
    culprit: int | None = None
    started: bool = True
    """False where the batch was still waiting for the worker: nothing of it is to blame."""


Stimulus = Room | Returned | Lost

# -- what the engine wants done -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit:
    """Send these blocks out as batch `ticket`."""

    ticket: int
    blocks: Ranges


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Tell that `block` will be tried again (attempt number `attempt` failed)."""

    block: int
    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell that `fault.block` failed for good after `attempts`."""

    fault: Fault
    attempts: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Every block of the stage has its outcome."""


Action = Submit | TryAgain | Fail | Finish

# -- state --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """How batches are made and how often a block is tried."""

    workers: int
    attempts: int = 4
    kills: int = 2
    budget: int = 20
    wait: float = 0.5
    batch_seconds: float = 0.5
    largest_batch: int = 4096
    growth: int = 4
    """A batch may be this many times larger than any before it: the first ones feel out how long a block takes."""


@dataclass(frozen=True, slots=True)
class Again:
    """Blocks that will be sent once more, not before `due`; `alone` means with nothing else under way."""

    blocks: Ranges
    due: float
    alone: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Where a stage stands. Immutable; its size follows what is under way, not the number of blocks."""

    policy: Policy
    planned: int
    skipped: int
    orphaned: int
    todo: Ranges
    again: tuple[Again, ...] = ()
    flight: Map[int, Ranges] = field(default_factory=Map)
    """Batches under way, by ticket; changed in the same time however many there are."""
    running: int = 0
    """Blocks of the batches under way."""
    isolated: bool = False
    """The one batch under way runs alone."""
    tries: Mapping[int, int] = field(default_factory=dict)
    kills: Mapping[int, int] = field(default_factory=dict)
    repeats: int = 0
    done: int = 0
    failed: int = 0
    pace: float | None = None
    """Seconds a block, a moving mean."""
    largest: int = 1
    next_ticket: int = 0
    finished: bool = False

    @property
    def counts(self) -> Counts:
        """Blocks by outcome."""
        return Counts(
            planned=self.planned,
            done=self.done,
            skipped=self.skipped,
            failed=self.failed,
            orphaned=self.orphaned,
            pending=len(self.todo) + sum(len(a.blocks) for a in self.again),
            running=self.running,
        )

    @property
    def next_due(self) -> float | None:
        """When the next repeat is due, or None."""
        return min((a.due for a in self.again), default=None)


def begin(planned: int, skipped: Ranges, orphaned: Ranges, policy: Policy) -> State:
    """Return the state of a stage of `planned` blocks, some done before and some that can't be done."""
    skip = Ranges.upto(planned).minus(Ranges.upto(planned).minus(skipped))
    lost = orphaned.minus(skip)
    todo = Ranges.upto(planned).minus(skip).minus(lost)
    return State(policy, planned, len(skip), len(lost), todo)


def decide(state: State, stimulus: Stimulus) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what is to be done.

    A stimulus about a ticket that is not under way (a late word of a dead worker) changes nothing.
    """
    match stimulus:
        case Room():
            return _fill(state, stimulus)
        case Returned() if stimulus.ticket in state.flight:
            return _returned(state, stimulus)
        case Lost() if stimulus.ticket in state.flight:
            return _lost(state, stimulus)
        case _:
            return state, ()


def batch_size(state: State) -> int:
    """Return how many blocks the next batch holds: `batch_seconds` of work, and never so many that a worker idles at the end."""
    policy = state.policy
    if state.pace is None:
        return 1
    wanted = int(policy.batch_seconds / max(state.pace, 1e-9))
    fair = -(-len(state.todo) // (3 * policy.workers))
    return max(1, min(wanted, policy.largest_batch, fair, policy.growth * state.largest))


def _fill(state: State, room: Room) -> tuple[State, tuple[Action, ...]]:
    """Send out as many batches as there is room for: due repeats first, those that must run alone last."""
    actions: list[Action] = []
    for _ in range(room.batches):
        if state.isolated:
            break
        chosen = _next(state, room.now)
        if chosen is None:
            break
        blocks, state = chosen
        ticket = state.next_ticket
        largest = max(state.largest, len(blocks))
        state = replace(
            state,
            flight=state.flight.set(ticket, blocks),
            running=state.running + len(blocks),
            next_ticket=ticket + 1,
            largest=largest,
        )
        actions.append(Submit(ticket, blocks))
    if not state.finished and not state.todo and not state.again and not len(state.flight):
        state = replace(state, finished=True)
        actions.append(Finish())
    return state, tuple(actions)


def _next(state: State, now: float) -> tuple[Ranges, State] | None:
    """Return the next blocks to send and the state without them, or None where nothing can be sent now."""
    for place, entry in enumerate(state.again):
        if entry.due <= now and not entry.alone:
            return entry.blocks, replace(state, again=state.again[:place] + state.again[place + 1 :])
    if state.todo.pairs:
        head, rest = state.todo.take(batch_size(state))
        return head, replace(state, todo=rest)
    if not len(state.flight):
        for place, entry in enumerate(state.again):
            if entry.due <= now:
                rest_again = state.again[:place] + state.again[place + 1 :]
                return entry.blocks, replace(state, again=rest_again, isolated=True)
    return None


def _land(state: State, ticket: int) -> State:
    """Take batch `ticket` out of what is under way."""
    running = state.running - len(state.flight[ticket])
    return replace(state, flight=state.flight.delete(ticket), running=running, isolated=False)


def _returned(state: State, news: Returned) -> tuple[State, tuple[Action, ...]]:
    missing = state.flight[news.ticket].minus(news.done).minus(news.untouched)
    faults = {f.block: f for f in news.faults}
    state = _land(state, news.ticket)
    count = len(news.done)
    if count:
        pace = news.seconds / count
        pace = pace if state.pace is None else 0.7 * state.pace + 0.3 * pace
        state = replace(state, done=state.done + count, pace=pace)
    if news.untouched.pairs:
        state = replace(state, again=(*state.again, Again(news.untouched, news.now)))
    actions: list[Action] = []
    for block in missing:
        fault = faults.get(
            block, Fault(block, "WorkerKilled", "the worker returned no word about this block", passing=True)
        )
        state, action = _fault(state, fault, news.now)
        actions.append(action)
    return state, tuple(actions)


def _fault(state: State, fault: Fault, now: float) -> tuple[State, Action]:
    """Count a failed try of a block, and try again or give it up."""
    tries = state.tries.get(fault.block, 0) + 1
    policy = state.policy
    if fault.passing and tries < policy.attempts and state.repeats < policy.budget:
        entry = Again(_one(fault.block), now + policy.wait * 2 ** (tries - 1) * _jitter(fault.block, tries))
        seen = {**state.tries, fault.block: tries}
        state = replace(state, again=(*state.again, entry), repeats=state.repeats + 1, tries=seen)
        return state, TryAgain(fault.block, tries, fault.error)
    return _given_up(state, fault.block), Fail(fault, tries)


def _jitter(block: int, tries: int) -> float:
    """Return a factor from 0.75 to 1.25 that differs from block to block, so that repeats do not come all at once."""
    return 0.75 + 0.5 * ((block * 0.618033988749895 + tries * 0.414213562373095) % 1.0)


def _given_up(state: State, block: int) -> State:
    """Count `block` as failed. What is remembered of its tries goes, so that many failures cost no memory."""
    if block in state.tries or block in state.kills:
        seen = {b: n for b, n in state.tries.items() if b != block}
        kills = {b: n for b, n in state.kills.items() if b != block}
        state = replace(state, tries=seen, kills=kills)
    return replace(state, failed=state.failed + 1)


def _lost(state: State, news: Lost) -> tuple[State, tuple[Action, ...]]:
    blocks, alone = state.flight[news.ticket], state.isolated
    state = _land(state, news.ticket)
    if not news.started:
        return replace(state, again=(*state.again, Again(blocks, news.now))), ()
    if news.culprit is not None and news.culprit in blocks:
        others = blocks.minus(_one(news.culprit))
        if others.pairs:
            state = replace(state, again=(*state.again, Again(others, news.now)))
        state, action = _killed(state, news, news.culprit, certain=True)
        return state, (action,)
    if len(blocks) > 1:
        head, tail = blocks.take(len(blocks) // 2)
        return replace(state, again=(*state.again, Again(head, news.now), Again(tail, news.now))), ()
    state, action = _killed(state, news, next(iter(blocks)), certain=alone)
    return state, (action,)


def _killed(state: State, news: Lost, block: int, *, certain: bool) -> tuple[State, Action]:
    """Count a kill against `block`; it fails after `kills` of them, the last one beyond doubt."""
    kills = state.kills.get(block, 0) + 1
    tries = state.tries.get(block, 0) + 1
    if certain and kills >= state.policy.kills:
        return _given_up(state, block), Fail(Fault(block, news.kind, news.error), tries)
    alone = not certain and kills + 1 >= state.policy.kills
    entry = Again(_one(block), news.now, alone=alone)
    seen, deaths = {**state.tries, block: tries}, {**state.kills, block: kills}
    state = replace(state, again=(*state.again, entry), repeats=state.repeats + 1, tries=seen, kills=deaths)
    return state, TryAgain(block, tries, news.error)


def _one(block: int) -> Ranges:
    return Ranges(((block, block + 1),))
