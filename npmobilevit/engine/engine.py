"""The engine: plans of a network for the sizes in use, and teams that run them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from npmobilevit.config import Head, MobileViTConfig
from npmobilevit.engine import blas
from npmobilevit.engine.crews import Alone, Crew, Processes, Threads, WorkerLost, processes_are_missing, shared_memory
from npmobilevit.engine.folded import FoldedNetwork, fold
from npmobilevit.engine.folding import Floats
from npmobilevit.engine.plan import Plan, make_plan
from npmobilevit.engine.program import Call, Stage, from_heap
from npmobilevit.ops.arrays import Array

Workers: TypeAlias = Literal["threads", "processes"]
WORKERS: tuple[Workers, ...] = ("threads", "processes")

MIN_SIZE = 32  # of height and width: below, maps are so small that a plan's margins outweigh them
MOST_WORKERS = 4  # a stage of a transformer has four parts, one for each pixel of a patch
KEPT_BYTES = 256 << 20  # of plans that are kept for sizes that come again
APART_PIXELS = 512 * 512  # of larger pictures of a batch, workers share each: a plan for each would take much memory


def why_not(config: MobileViTConfig) -> str | None:
    """What keeps the engine from running a network of this config; None if nothing does."""
    needed = {"hidden_act": ("silu", "swish"), "patch_size": (2,), "conv_kernel_size": (3,)}
    for name, values in needed.items():
        found = getattr(config, name)
        if found not in values:
            return f"it needs {name} {values[0]!r}, and the config has {found!r}"
    return None


def why_not_size(height: int, width: int) -> str | None:
    """What keeps the engine from running pictures of this size; None if nothing does."""
    if min(height, width) < MIN_SIZE:
        return f"it needs at least {MIN_SIZE} x {MIN_SIZE} pixels, and the picture has {height} x {width}"
    return None


class Values(NamedTuple):
    """What a forward pass makes, with a batch axis.

    Attributes
    ----------
    taps : dict of str to array
        Outputs of blocks, those that were asked for, in the order of the forward pass.
    pooled : (N, M) array or None
    logits : (N, labels) or (N, labels, h, w) array or None
    """

    taps: dict[str, Floats]
    pooled: Floats | None
    logits: Floats | None


class Workforce(NamedTuple):
    """How many share the work, and what they are: "thread", "threads" or "processes"."""

    number: int
    kind: str

    def __str__(self) -> str:
        return f"{self.number} {self.kind}"


class Key(NamedTuple):
    """What a team is made for."""

    height: int
    width: int
    apart: bool  # one picture for each worker
    asked: Workforce


class Team(NamedTuple):
    """Plans and who runs them: one plan for all workers together, or one for each."""

    plans: tuple[Plan, ...]
    crew: Crew
    found: Workforce

    @property
    def size(self) -> int:
        """Bytes of the plans."""
        return sum(plan.size for plan in self.plans)


class Engine:
    """A network prepared for speed: the same function as :mod:`npmobilevit.network`, within rounding.

    It serves one call at a time; others wait. In a fork of the process it begins anew.

    Parameters
    ----------
    config : MobileViTConfig
        One that :func:`why_not` has nothing against.
    weights : mapping of str to float32 array
        Under transformers' names.
    head : {"classification", "segmentation"}, optional
    expand_output : bool
        Whether a base model has the widening 1x1 convolution.
    workers : {"threads", "processes"}
        Who shares the work. Of batches, each worker takes whole pictures.
    """

    def __init__(
        self,
        config: MobileViTConfig,
        weights: Mapping[str, Array],
        *,
        head: Head | None,
        expand_output: bool,
        workers: Workers,
    ) -> None:
        self._fold = functools.partial(fold, config, weights, head, expand_output=expand_output)
        self._channels = config.num_channels
        self._asked = workers
        self._network: FoldedNetwork | None = None
        self._begin()
        _ENGINES.add(self)

    def _begin(self) -> None:
        """Without plans and teams."""
        self._lock = threading.RLock()
        self._at_work = False
        self._teams: OrderedDict[Key, Team] = OrderedDict()  # the one that was used last at the end
        self._finalizer = weakref.finalize(self, _close_all, self._teams)

    def begin_anew(self) -> None:
        """In a fork of the process: another thread may have held the lock, and the workers stayed behind."""
        self._finalizer.detach()
        _close_all(self._teams)
        self._begin()

    def close(self) -> None:
        """Give back memory, threads and processes; the next call prepares them again.

        A call that this interrupts, as in the handler of a signal, begins anew.
        """
        with self._lock:
            _close_all(self._teams)
            self._network = None

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """One call at a time; a thread in the midst of one, in the handler of a signal, cannot wait for itself."""
        with self._lock:
            if self._at_work:
                raise RuntimeError("the engine is in the midst of another call of this thread")
            self._at_work = True
            try:
                yield
            finally:
                self._at_work = False

    @property
    def workers(self) -> Workforce:
        """Who is to share the work.

        No more than NumPy's products would use, whose number of threads a user or a scheduler may have limited.
        """
        count = min(MOST_WORKERS, blas.threads())
        if count == 1:
            return Workforce(1, "thread")
        return Workforce(count, "threads" if processes_are_missing() else self._asked)

    def run(self, x: Floats, taps: Collection[str] | None = ()) -> Values:
        """One forward pass.

        Parameters
        ----------
        x : (N, C, H, W) float32 array
            Of a size that :func:`why_not_size` has nothing against.
        taps : collection of str or None
            Whose values are wanted, of :attr:`Plan.taps`; None for all.

        Returns
        -------
        Values

        Raises
        ------
        RuntimeError
            If the handler of a signal calls in the midst of a call of the same thread.
        """
        with self._working():
            asked = self.workers
            try:
                return self._run(x, taps, asked)
            except WorkerLost:  # killed, for want of memory perhaps, or closed: nothing that was made is lost
                return self._run(x, taps, Workforce(asked.number, "threads"))

    def _run(self, x: Floats, taps: Collection[str] | None, asked: Workforce) -> Values:
        height, width = x.shape[2:]
        apart = asked.number > 1 and len(x) > 1 and height * width <= APART_PIXELS
        team = self._team(Key(height, width, apart, asked))
        found: list[Values] = []
        try:
            for start in range(0, len(x), len(team.plans)):
                pictures = x[start : start + len(team.plans)]
                for plan, picture in zip(team.plans, pictures, strict=False):  # the last plans may be left over
                    np.copyto(plan.pixels, picture)
                team.crew.run()
                found += [_values(plan, taps) for plan in team.plans[: len(pictures)]]
        except BaseException:
            _close_all(self._teams)  # where its workers stopped is not known
            raise
        return _stacked(found)

    def _team(self, key: Key) -> Team:
        """The team for a size, made if there is none; those that were not used for longest make room."""
        if key not in self._teams:
            team = self._made(key, key.asked)
            while self._teams and team.size + sum(kept.size for kept in self._teams.values()) > KEPT_BYTES:
                self._teams.popitem(last=False)[1].crew.close()
            self._teams[key] = team
        self._teams.move_to_end(key)
        return self._teams[key]

    def _made(self, key: Key, found: Workforce) -> Team:
        if self._network is None:
            self._network = self._fold()
        memory = shared_memory if found.kind == "processes" else from_heap
        shape = (self._channels, key.height, key.width)
        stages: tuple[Stage, ...]
        if key.apart:
            plans = tuple(make_plan(self._network, shape, 1, memory) for _ in range(found.number))
            stages = (Stage("one picture each", tuple(_all_calls(plan) for plan in plans)),)
        else:
            plans = (make_plan(self._network, shape, found.number, memory),)
            stages = plans[0].stages
        try:
            return Team(plans, _CREWS[found.kind](stages), found)
        except WorkerLost:
            fewer = Workforce(found.number, "threads") if found.kind == "processes" else Workforce(1, "thread")
            return self._made(key, fewer)

    def describe(self, height: int, width: int) -> PlanReport:
        """What is prepared for one picture of a size; it is prepared if it is not yet."""
        with self._working():
            asked = self.workers
            team = self._team(Key(height, width, False, asked))
        (plan,) = team.plans
        calls = sum(len(program) for stage in plan.stages for program in stage.programs)
        reason = None if team.found.kind == self._asked else self._why_others(asked, team.found)
        return PlanReport("fast", None, (height, width), str(team.found), reason, len(plan.stages), calls, plan.size)

    def _why_others(self, asked: Workforce, found: Workforce) -> str | None:
        """Why those that share the work are not those that were asked for."""
        if found != asked:
            return f"no more {asked.kind} could be started"
        if blas.thread_control() is None:
            return "the number of threads of NumPy's products cannot be told"
        return processes_are_missing() if asked.number > 1 else "NumPy's products use one thread here"


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _begin_anew() -> None:
    for engine in _ENGINES:
        engine.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@dataclasses.dataclass(frozen=True)
class PlanReport:
    """What runs when a model is called with one picture of a size, and why; ``str()`` says it in words.

    Attributes
    ----------
    engine : {"fast", "reference"}
    reason : str or None
        Why it is the readable network.
    size : (int, int)
        Height and width.
    workers : str
        How many threads or processes share the work.
    workers_reason : str or None
        Why they are not those that were asked for.
    stages : int
        Parts of the plan that follow one another; the workers meet at the end of each.
    calls : int
        NumPy calls of one forward pass, of all workers.
    size_in_bytes : int
        Memory of the plan's arrays, beside that of the folded weights.
    """

    engine: str
    reason: str | None
    size: tuple[int, int]
    workers: str = "1 thread"
    workers_reason: str | None = None
    stages: int = 0
    calls: int = 0
    size_in_bytes: int = 0

    def __str__(self) -> str:
        size = f"{self.size[0]} x {self.size[1]} pixels"
        if self.engine == "reference":
            return f"{size}: the readable network, because {self.reason}"
        why = f" ({self.workers_reason})" if self.workers_reason else ""
        plan = f"{self.calls} NumPy calls in {self.stages} stages on {self.size_in_bytes / 2**20:.0f} MiB"
        return f"{size}: the fast engine, {self.workers}{why}, {plan}"


_CREWS: Mapping[str, type[Alone] | type[Threads] | type[Processes]] = MappingProxyType(
    {"thread": Alone, "threads": Threads, "processes": Processes}
)


def _all_calls(plan: Plan) -> tuple[Call, ...]:
    return tuple(call for stage in plan.stages for program in stage.programs for call in program)


def _values(plan: Plan, taps: Collection[str] | None) -> Values:
    named = {name: tap.value() for name, tap in plan.taps.items() if taps is None or name in taps}
    pooled, logits = (None if tap is None else tap.value() for tap in (plan.pooled, plan.logits))
    return Values(named, pooled, logits)


def _stacked(found: Sequence[Values]) -> Values:
    """The values of pictures as those of their batch."""
    first = found[0]
    return Values(
        {name: np.stack([values.taps[name] for values in found]) for name in first.taps},
        None if first.pooled is None else np.stack([values.pooled for values in found if values.pooled is not None]),
        None if first.logits is None else np.stack([values.logits for values in found if values.logits is not None]),
    )


def _close_all(teams: MutableMapping[Key, Team]) -> None:
    while teams:
        teams.popitem()[1].crew.close()
