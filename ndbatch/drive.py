"""Driving a stage: the engine decides, the executor works, the journal keeps, observers are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import FrameType

import numpy as np

from ndbatch import engine, events
from ndbatch.executors.base import Executor, Reply, WorkerDeath
from ndbatch.journal import RECEIPT, Entry, Failure, Journal
from ndbatch.plan.model import Plan
from ndbatch.plan.program import Stage, ratio
from ndbatch.ranges import Ranges
from ndbatch.remotes.base import Array, Volume
from ndbatch.states import States
from ndbatch.worker.work import Batch, BatchResult, Work

PAUSE = 0.5
"""Seconds the driver waits for news before it looks again for repeats that are due."""
REFUSALS = 16
"""Blocks refused in a row, with none done meanwhile, after which the rest is not tried: all would be refused alike."""
REFUSED = frozenset({"Denied", "NotFound", "NoRoom", "RemoteError"})
"""Kinds of faults that a volume or its service will repeat for every block: credentials, a missing volume, a full disk."""


class Stopped(Exception):
    """The rest of a run is not tried; what was done is kept, and the same command goes on with it."""


class Stop:
    """What Ctrl-C does: asked once, the blocks under way are finished; asked again, or while none are, KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = self.patient = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take the signal SIGINT."""
        if self.asked or not self.patient:
            raise KeyboardInterrupt
        self.asked = True


class Driver:
    """Runs the stages of a plan, one after another. Its memory does not grow with the number of blocks."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        start: Callable[[], Executor],
        volumes: Mapping[str, Volume],
        states: States,
        publish: events.Observer,
        stop: Stop | None = None,
    ) -> None:
        self.plan, self.journal, self._start = plan, journal, start
        self.volumes, self.states, self.publish = volumes, states, publish
        self.counts: dict[int, events.Counts] = {}
        self._refusals, self._stop = 0, stop or Stop()

    def run_stage(self, stage: Stage) -> events.Counts:
        """Do what is left of `stage`; return its blocks by outcome. Raises what a pass' reduction raises, and Stopped."""
        begun = time.monotonic()
        done = self.journal.done(stage.index)
        orphans = self._orphans(stage)
        grid = self.plan.blocks(stage)
        planned = len(grid)
        idle = not len(Ranges.upto(planned).minus(done).minus(orphans))
        # Workers are started for the first block, so that a run with nothing left to do starts none.
        policy = self._policy(planned, None if idle else self._start())
        state = engine.begin(planned, done, orphans, policy)
        title = stage.title(self.plan.steps)
        self.publish(events.StageStarted(stage.index, title, state.planned, state.skipped, grid.bounds.size))
        self.counts[stage.index] = state.counts
        if not idle:
            state = self._loop(stage, state, self._start())
        self.counts[stage.index] = state.counts
        facts = self._facts(stage, state)
        self.publish(events.StageEnded(stage.index, title, state.counts, time.monotonic() - begun, facts))
        return state.counts

    def _facts(self, stage: Stage, state: engine.State) -> dict[str, object]:
        """Return what the stage's passes found out, reduced now if every block is there."""
        known = self.journal.facts().get(stage.index)
        if known is not None:
            return known
        if state.failed or state.orphaned:
            return {}
        facts = self.states.facts(stage)
        self.journal.set_facts(stage.index, facts)
        return facts

    def _policy(self, blocks: int, executor: Executor | None) -> engine.Policy:
        retry = self.plan.config.retry
        return engine.Policy(
            workers=executor.workers if executor else self.plan.workers,
            batch_seconds=executor.batch_seconds if executor else Executor.batch_seconds,
            attempts=retry.attempts,
            kills=retry.kills,
            budget=20 + int(retry.budget * blocks),
            wait=retry.wait,
        )

    def _loop(self, stage: Stage, state: engine.State, executor: Executor) -> engine.State:
        executor.begin(self._work(stage))
        self._stop.patient, leaving = True, False
        while not state.finished:
            if self._stop.asked and not leaving:
                leaving = True
                executor.drain()
                most = f"{state.running} blocks at most"
                text = f"interrupted: what is under way is finished first ({most}); Ctrl-C again stops now"
                self.publish(events.Warned(text))
            if leaving and not state.running:
                raise KeyboardInterrupt
            room = 0 if leaving else executor.room()
            state, actions = engine.decide(state, engine.Room(room, time.monotonic()))
            for action in actions:
                if isinstance(action, engine.Submit):
                    blocks = action.blocks
                    executor.submit(Batch(action.ticket, blocks, self.states.for_blocks(stage, blocks)))
            self.counts[stage.index] = state.counts
            if state.finished:
                break
            for reply in executor.wait(PAUSE):
                state = self._take(stage, state, reply)
        self._stop.patient = False
        if self._stop.asked:
            raise KeyboardInterrupt
        return state

    def _work(self, stage: Stage) -> Work:
        names = {load.name for load in stage.loads} | set(stage.stores)
        return Work(
            stage=stage,
            steps=self.plan.steps,
            infos=self.plan.infos,
            volumes={name: self.volumes[name] for name in sorted(names)},
            grid=self.plan.blocks(stage),
            time_limit=self.plan.config.time_limit_seconds,
            memory_limit=self.plan.memory_limit,
            search=str(self.plan.config.base),
            ahead=self.plan.costs[stage.index].ahead,
            proved=self.plan.proved(stage),
            mending=self.journal.mending is not None,
            resources=stage.asks(self.plan.steps),
        )

    def _take(self, stage: Stage, state: engine.State, reply: Reply) -> engine.State:
        """Feed a reply to the engine; journal it in one transaction; tell the observers."""
        now = time.monotonic()
        if isinstance(reply, WorkerDeath):
            if reply.error:
                self.publish(events.WorkerLost(reply.worker, reply.error))
            stimulus: engine.Stimulus = engine.Lost(
                reply.ticket, reply.kind, reply.error, now, reply.culprit, reply.started
            )
            receipts: Array = np.empty(0, RECEIPT)
            payloads: tuple[tuple[str, int, bytes], ...] = ()
        else:
            if reply.ticket not in state.flight:
                return state
            stimulus = self._returned(state, reply, now)
            receipts, payloads = self._stamped(reply, state), reply.payloads
        state, actions = engine.decide(state, stimulus)
        failures = [self._failure(stage, action) for action in actions if isinstance(action, engine.Fail)]
        self.journal.record(Entry(stage.index, receipts, payloads, failures))
        if isinstance(reply, BatchResult) and len(receipts):
            self.publish(_done(stage.index, reply))
        for action in actions:
            if isinstance(action, engine.TryAgain):
                self.publish(events.BlockRetried(stage.index, action.block, action.attempt, action.error))
        for failure in failures:
            self._log(failure)
            told = (failure.box, failure.attempts, failure.kind, failure.error)
            self.publish(events.BlockFailed(stage.index, failure.block, *told))
        self.counts[stage.index] = state.counts
        self._require_some_done(len(receipts), failures, state)
        return state

    def _require_some_done(self, done: int, failures: list[Failure], state: engine.State) -> None:
        """Raise Stopped where `REFUSALS` blocks were refused and none was done meanwhile."""
        self._refusals = 0 if done else self._refusals + sum(failure.kind in REFUSED for failure in failures)
        if self._refusals >= REFUSALS and not state.finished:
            raise Stopped

    def _returned(self, state: engine.State, result: BatchResult, now: float) -> engine.Returned:
        whole = state.flight[result.ticket]
        complete = len(result.receipts) == len(whole)
        done = whole if complete else Ranges.of([result.receipts["block"]])
        return engine.Returned(result.ticket, done, now, result.seconds, result.faults, result.untouched)

    def _stamped(self, result: BatchResult, state: engine.State) -> Array:
        """Return the receipts with the number of the attempt that succeeded."""
        receipts = result.receipts.copy()
        receipts["attempt"] = 1
        if state.tries:
            receipts["attempt"] = [1 + state.tries.get(int(b), 0) for b in receipts["block"]]
        return receipts

    def _failure(self, stage: Stage, action: engine.Fail) -> Failure:
        fault = action.fault
        box = self.plan.blocks(stage)[fault.block].core.describe(self.plan.axes)
        return Failure(stage.index, fault.block, box, action.attempts, fault.kind, fault.error, fault.traceback)

    def _log(self, failure: Failure) -> None:
        with (self.plan.directory / "run.log").open("a") as log:
            log.write(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} stage {failure.stage} block {failure.block} ({failure.box}) failed after "
                f"{failure.attempts} attempts: {failure.error}\n{failure.traceback}\n"
            )

    def _orphans(self, stage: Stage) -> Ranges:
        """Return the blocks that cannot be done because blocks of earlier stages that they need have failed."""
        grid, lost = self.plan.blocks(stage), set[int]()
        if any(len(self._lacking(index)) for index in stage.after):
            return Ranges.upto(len(grid))
        reach = [0] * self.plan.region.ndim
        for load in stage.loads:
            by = ratio(self.plan.infos[load.name].scales, stage.scale)
            reach = [max(r, h * f) for r, h, f in zip(reach, load.halo, by, strict=True)]
        for index in stage.beside:
            for block in self._lacking(index):
                lost.update(grid.touching(grid[block].core.grow(reach)))
        return Ranges.of([np.array(sorted(lost), np.int64)]) if lost else Ranges()

    def _lacking(self, index: int) -> Ranges:
        """Return the blocks of stage `index` that are not done."""
        return Ranges.upto(len(self.plan.blocks(self.plan.stages[index]))).minus(self.journal.done(index))


def _done(stage: int, result: BatchResult) -> events.BlocksDone:
    receipts = result.receipts
    return events.BlocksDone(
        stage=stage,
        blocks=len(receipts),
        voxels=result.voxels,
        bytes_read=result.bytes_read,
        bytes_written=result.bytes_written,
        read=float(receipts["read"].sum()),
        compute=float(receipts["compute"].sum()),
        write=float(receipts["write"].sum()),
        waited=float(receipts["waited"].sum(dtype="f8")),
        stalled=float(receipts["stalled"].sum(dtype="f8")),
        worker=int(receipts["worker"][0]),
    )


def total(counts: Mapping[int, events.Counts], plan: Plan) -> events.Counts:
    """Return the blocks of all stages by outcome; stages not begun are pending."""
    result = events.Counts()
    for stage in plan.stages:
        blocks = len(plan.blocks(stage))
        entry = counts.get(stage.index, events.Counts(planned=blocks, pending=blocks))
        # What was under way when the run stopped is not done.
        result += replace(entry, pending=entry.pending + entry.running, running=0)
    return result
