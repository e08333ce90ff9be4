"""The engine: a model of an executor feeds it random outcomes; the books must balance after every word."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ndbatch.engine import (
    Action,
    Fail,
    Fault,
    Finish,
    Lost,
    Policy,
    Returned,
    Room,
    State,
    Stimulus,
    Submit,
    TryAgain,
    begin,
    decide,
)
from ndbatch.ranges import Ranges

NONE = Ranges()


def step(state: State, stimulus: Stimulus) -> tuple[State, tuple[Action, ...]]:
    state, actions = decide(state, stimulus)
    assert state.counts.balanced, state.counts
    return state, actions


def submitted(actions: tuple[Action, ...]) -> list[Submit]:
    return [a for a in actions if isinstance(a, Submit)]


def one(block: int) -> Ranges:
    return Ranges(((block, block + 1),))


class Engine(RuleBasedStateMachine):
    """Random executors: batches come back whole, in part, with faults, or their worker dies."""

    @initialize(
        planned=st.integers(0, 40), skipped=st.sets(st.integers(0, 39)), workers=st.integers(1, 4), data=st.data()
    )
    def start(self, planned: int, skipped: set[int], workers: int, data: st.DataObject) -> None:
        self.done = {b for b in skipped if b < planned}
        self.state = begin(planned, _ranges(self.done), NONE, Policy(workers, attempts=3, kills=2, budget=10, wait=0.1))
        self.flight: dict[int, Ranges] = {}
        self.failed: set[int] = set()
        self.now = 0.0
        self.over = False

    def tell(self, stimulus: Stimulus) -> None:
        self.state, actions = step(self.state, stimulus)
        for action in actions:
            match action:
                case Submit():
                    assert not self.over
                    busy = {b for blocks in self.flight.values() for b in blocks}
                    assert not busy & set(action.blocks), "a block is sent out twice at the same time"
                    assert not (self.done | self.failed) & set(action.blocks), "a settled block is sent out again"
                    self.flight[action.ticket] = action.blocks
                case Fail():
                    assert action.fault.block not in self.failed
                    self.failed.add(action.fault.block)
                case Finish():
                    assert not self.over
                    self.over = True

    @rule(batches=st.integers(1, 4), later=st.floats(0, 5))
    def room(self, batches: int, later: float) -> None:
        self.now += later
        self.tell(Room(batches, self.now))

    @precondition(lambda self: self.flight)
    @rule(data=st.data(), passing=st.booleans())
    def comes_back(self, data: st.DataObject, passing: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.flight)))
        blocks = list(self.flight.pop(ticket))
        bad = set(data.draw(st.lists(st.sampled_from(blocks), max_size=2)))
        back = set(data.draw(st.lists(st.sampled_from(blocks), max_size=2))) - bad
        good = set(blocks) - bad - back
        self.done |= good
        faults = tuple(Fault(b, "StepError", "no", passing) for b in sorted(bad))
        self.tell(Returned(ticket, _ranges(good), self.now, 0.01 * len(good), faults, _ranges(back)))

    @precondition(lambda self: self.flight)
    @rule(data=st.data(), known=st.booleans(), started=st.booleans())
    def worker_dies(self, data: st.DataObject, known: bool, started: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.flight)))
        blocks = list(self.flight.pop(ticket))
        culprit = data.draw(st.sampled_from(blocks)) if known else None
        self.tell(Lost(ticket, "WorkerKilled", "gone", self.now, culprit, started))

    @rule(ticket=st.integers(1000, 1010))
    def late_word_of_a_dead_worker(self, ticket: int) -> None:
        before = self.state
        self.tell(Returned(ticket, one(0), self.now))
        assert self.state == before

    @invariant()
    def counts_agree_with_the_model(self) -> None:
        if hasattr(self, "state"):
            counts = self.state.counts
            assert counts.done + counts.skipped == len(self.done)
            assert counts.failed == len(self.failed)
            assert counts.running == sum(len(b) for b in self.flight.values())
            assert self.over == self.state.finished

    def teardown(self) -> None:
        """Whatever happened, the stage ends when everything from now on succeeds."""
        if not hasattr(self, "state"):
            return
        for _ in range(2000):
            if self.over:
                break
            self.now += 1
            self.tell(Room(3, self.now))
            for ticket, blocks in list(self.flight.items()):
                del self.flight[ticket]
                self.done |= set(blocks)
                self.tell(Returned(ticket, blocks, self.now, 0.01))
        assert self.over
        assert len(self.done) + len(self.failed) == self.state.planned


def _ranges(values: set[int]) -> Ranges:
    import numpy as np

    return Ranges.of([np.array(sorted(values), np.int64)])


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_an_empty_stage_is_over_at_once() -> None:
    _, actions = step(begin(0, NONE, NONE, Policy(1)), Room(1, 0))
    assert actions == (Finish(),)


def test_orphans_are_never_sent_out() -> None:
    state = begin(4, one(0), _ranges({0, 2}), Policy(4))
    assert (state.counts.skipped, state.counts.orphaned, state.counts.pending) == (1, 1, 2)
    _, actions = step(state, Room(9, 0))
    assert [list(a.blocks) for a in submitted(actions)] == [[1], [3]]


def test_batches_grow_with_the_pace_and_shrink_at_the_end() -> None:
    state = begin(10_000, NONE, NONE, Policy(2, batch_seconds=0.5))
    sizes = []
    now = 0.0
    while not state.finished:
        state, actions = step(state, Room(1, now))
        for action in submitted(actions):
            sizes.append(len(action.blocks))
            state, _ = step(state, Returned(action.ticket, action.blocks, now, 0.001 * len(action.blocks)))
    assert sizes[0] == 1
    assert max(sizes) == 500
    assert sizes[-1] < 10
    assert sum(sizes) == 10_000


def test_a_passing_fault_is_tried_again_after_a_wait_and_then_fails() -> None:
    state = begin(1, NONE, NONE, Policy(1, attempts=3, wait=1.0))
    for attempt in (1, 2):
        state, actions = step(state, Room(1, 100.0 * attempt))
        (sent,) = submitted(actions)
        state, actions = step(
            state, Returned(sent.ticket, NONE, 100.0 * attempt, faults=(Fault(0, "Transient", "503", True),))
        )
        assert actions == (TryAgain(0, attempt, "503"),)
        assert step(state, Room(1, 100.0 * attempt + 0.5))[1] == ()
    state, actions = step(state, Room(1, 300))
    state, actions = step(
        state, Returned(submitted(actions)[0].ticket, NONE, 300, faults=(Fault(0, "Transient", "503", True),))
    )
    assert isinstance(actions[0], Fail)
    assert actions[0].attempts == 3


def test_the_budget_ends_repeats() -> None:
    state = begin(5, NONE, NONE, Policy(5, attempts=9, budget=2))
    state, actions = step(state, Room(5, 0))
    told = []
    for sent in submitted(actions):
        (block,) = sent.blocks
        state, news = step(state, Returned(sent.ticket, NONE, 0, faults=(Fault(block, "Transient", "x", True),)))
        told += news
    assert [type(a).__name__ for a in told] == ["TryAgain", "TryAgain", "Fail", "Fail", "Fail"]


def test_a_dead_worker_costs_its_culprit_and_no_neighbour() -> None:
    state = begin(8, NONE, NONE, Policy(1, kills=2))
    state = pickle.loads(pickle.dumps(state))
    kills = 0
    failed = []
    now = 0.0
    while not state.finished:
        now += 1
        state, actions = step(state, Room(2, now))
        for sent in submitted(actions):
            if 5 in sent.blocks:
                kills += 1
                state, news = step(state, Lost(sent.ticket, "WorkerKilled", "gone", now, culprit=5))
                failed += [a.fault.block for a in news if isinstance(a, Fail)]
            else:
                state, _ = step(state, Returned(sent.ticket, sent.blocks, now, 0.001))
    assert kills == 2
    assert failed == [5]
    assert state.counts.done == 7


@pytest.mark.parametrize("count", [2, 7, 64])
def test_an_unknown_culprit_is_found_by_halving_and_blamed_alone(count: int) -> None:
    """A dask worker dies without a word; whatever else was on it must not be blamed."""
    state = begin(count, NONE, NONE, Policy(1, kills=2, batch_seconds=1e6, growth=1000))
    state, actions = step(state, Room(1, 0))
    state, _ = step(state, Returned(submitted(actions)[0].ticket, one(0), 0, 1e-6))
    culprit, failed, now = count - 1, [], 0.0
    while not state.finished:
        now += 1
        state, actions = step(state, Room(3, now))
        sent = submitted(actions)
        dying = any(culprit in s.blocks for s in sent)
        for each in sent:
            if dying:  # the bystanders go down with it
                state, news = step(state, Lost(each.ticket, "WorkerKilled", "gone", now))
                failed += [a.fault.block for a in news if isinstance(a, Fail)]
            else:
                state, _ = step(state, Returned(each.ticket, each.blocks, now, 1e-6))
    assert failed == [culprit]
