"""The rounds of one pass on a cluster: their sums are added on workers, and what is lost is redone.

This process holds the sum of the first rounds, the base. From there, workers add one round after
another to a running sum, in the order in which this process would. It fetches the running sum some
times a pass, by `stretch`: that is the new base. So few bytes come here, the scheduler forgets the
tasks of all rounds in the base, and a loss costs at most the rounds since. One task adds all
rounds that wait, because it may itself wait until its worker is done with a panel.

A lost partial sum or running sum is computed again by Dask, from what it was made of. Where that
is lost too (a block that was scattered dies with its worker), everything after the base is sent
again, and the stretch is halved.

Tasks of pinned panels are bound to workers (`bigspec.passes.pins`). While there are any, no call
waits longer than a moment without a look which workers are there.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from bigspec.errors import BigspecError, ClusterError
from bigspec.panels.context import Context, run_panel
from bigspec.panels.fused import add_in_order
from bigspec.passes.contract import FirstRounds
from bigspec.passes.executor import OnPanels, Round, build_round
from bigspec.passes.far_panels import run_far_panel, run_far_panel_of_pieces
from bigspec.passes.pieces import in_pieces, run_panel_of_pieces
from bigspec.passes.pins import PinnedOnWorkers

__all__ = ["Flight", "HolderLost", "lost_scheduler", "stretch"]

ATTEMPTS = 4  # times in a row that rounds are sent again, at least
RETURN = 60.0  # seconds to wait for a worker when all are gone, or for any progress
LAST = 5.0  # seconds that the end of a pass that is cut short waits for its sum
MOMENT = 0.05
LOOK = 1.0  # seconds between two looks whether the workers with pinned panels are there
PAUSES = 0.1, 5.0  # seconds before rounds are sent again: at first, and at most
FETCHED = 512 << 20  # bytes of sums a pass that come here
MERGED = 32  # rounds that one task adds to the running sum, at most
STRETCH = 16_384  # panels that are added on workers before their sum comes here, at most
LETTERS = str.maketrans("0123456789", "ghijklmnop")


def stretch(context: Context) -> int:
    """Return how many rounds are added on workers before their sum is fetched: one, if small."""
    layout = context.layout
    if not context.adds:
        return 1
    fetches = max(1, FETCHED // context.sum_nbytes)
    most = max(1, STRETCH // layout.round_panels)
    return min(-(-layout.rounds // fetches), most)


class HolderLost(Exception):  # noqa: N818
    """A worker with pinned panels is gone, and tasks that are bound to it wait for ever."""


class Flight:
    """The rounds of one pass that are on the cluster.

    Attributes
    ----------
    base : FirstRounds
        The rounds whose sum this process holds.
    landed : int
        Rounds that are complete.
    added : int
        Rounds that are in the base or in the running sum.
    stretch : int
        Rounds that are added on workers before their sum is fetched.
    far : bool
        Whether a worker begins more tasks than it has threads; see `run_far_panel`.
    """

    def __init__(
        self, client: Any, context: Context, done: FirstRounds, on_panels: OnPanels
    ) -> None:
        self.client, self.context, self.limit = client, context, context.limit
        threads = max(client.nthreads().values(), default=0)
        self.far = context.layout.memory.tasks > threads  # and tasks wait outside of the pool
        self.address = client.scheduler.address  # a client that has been closed forgets it
        self.on_panels, self.base = on_panels, done
        self.next = self.landed = self.added = done.rounds
        self.stretch, memory = stretch(context), context.layout.memory
        left = max(memory.limit - memory.total, 0)
        room = (memory.results + left // 2) // context.sum_nbytes - 2
        self.merged = max(1, min(MERGED, room))
        self.told = done.rounds * context.layout.round_panels  # panels that were reported
        self.failures, self.failing_since = 0, 0.0
        self.rounds: deque[tuple[int, dict[Any, int], Any]] = deque()
        self.roots: deque[Any] = deque()  # of rounds that are complete and wait to be added
        self.sent: Any = None  # the base, on a worker
        self.running: Any = None  # the sum of the base and all rounds that were added, on a worker
        self.reference: list[Any] = []
        self.pins: PinnedOnWorkers | None = None
        if context.reads and isinstance(context.pinned, PinnedOnWorkers):
            self.pins = context.pinned
            self.pins.pass_begins()
            self._holders_lost()
        self._send_context()

    @property
    def due(self) -> bool:
        """Whether the running sum is to be fetched now."""
        rounds = self.context.layout.rounds
        return self.landed == rounds or self.landed - self.base.rounds >= self.stretch

    # What is sent --------------------------------------------------------------------------

    def _send_context(self) -> None:
        self.token = uuid.uuid4().hex
        shell, pieces = in_pieces(self.context)
        self.reference = self._scatter("bigspec-iterate", [shell, *pieces])

    def _scatter(self, name: str, parts: list[Any]) -> list[Any]:
        """Send data to workers, each part to another one if there are enough."""
        for attempt in range(1, ATTEMPTS + 1):
            # Each copy has a new key. Scattering equal content twice would reuse the key, and can
            # hang while the first copy is being released. In letters, because Dask counts what a
            # task needs by names without numbers, and what was sent before must not count.
            token = uuid.uuid4().hex.translate(LETTERS)
            data = {f"{name}-{token}-{k}": part for k, part in enumerate(parts)}
            try:  # the scheduler's own timeout is two seconds
                sent = self._guard(self.client.scatter, data, timeout=self._patience(RETURN))
                return [sent[key] for key in data]
            except BigspecError:
                raise
            except OSError as error:  # its worker has just died
                if attempt == ATTEMPTS:
                    msg = f"Dask cluster: expected to take the iterate block, got {error}"
                    raise ClusterError(msg) from error
        raise AssertionError

    def launch(self, stop: int) -> None:
        """Submit all rounds before `stop` that are not under way, in one graph.

        Dask spreads tasks over all workers at once if there are many of them in a graph. It would
        order the rounds of one graph by their names; priorities keep them in theirs.
        """
        if stop <= self.next:
            return
        rounds = [self._build(index) for index in range(self.next, stop)]
        layers: dict[str, Any] = {}
        for index, one in enumerate(rounds, self.next):
            layers[one.root] = MaterializedLayer(one.graph, annotations={"priority": -index})
            for worker, tasks in one.bound.items():
                there = {"priority": -index, "workers": [worker], "allow_other_workers": False}
                layers[f"{one.root}-{worker}"] = MaterializedLayer(tasks, annotations=there)
        graph = HighLevelGraph(layers, {name: set() for name in layers})
        keys = [key for one in rounds for key in (*one.steps, one.root)]
        pinned = [] if self.pins is None else self.pins.keys
        futures = iter(self._guard(self.client.get, graph, keys + pinned, sync=False))
        for index, one in enumerate(rounds, self.next):
            steps = {next(futures): panels for panels in one.steps.values()}
            self.rounds.append((index, steps, next(futures)))
        if self.pins is not None:
            self.pins.take(futures)
        self.next = stop

    def _build(self, index: int) -> Round:
        whole = len(self.reference) == 1
        reference = self.reference[0] if whole else self.reference
        near, far = (
            (run_panel, run_far_panel) if whole else (run_panel_of_pieces, run_far_panel_of_pieces)
        )
        work = far if self.far else near
        return build_round(self.context, reference, self.token, index, work, self.pins)

    # What comes back -----------------------------------------------------------------------

    def land(self) -> None:
        """Wait for the oldest round, and let it be added to the running sum where that lies."""
        index, steps, root = self.rounds[0]
        self._watch(index, steps, root)
        self._settle(root)
        self.rounds.popleft()
        self.roots.append(root)
        self.landed, self.failures = index + 1, 0
        self._add_what_waits()

    def _add_what_waits(self) -> None:
        """Add complete rounds to the running sum, unless it is being added to."""
        idle = self.running is None or self.running.done()
        if self.stretch > 1 and self.roots and idle:
            self._add()

    def _add(self) -> None:
        """Add rounds that wait to the running sum, as soon as that is complete."""
        before = self.sent
        if self.running is not None:
            self._settle(self.running)
            before = self.running
        elif self.base.total is not None:
            (before,) = self._scatter("bigspec-base", [self.base.total])
            self.sent = before
        roots = [self.roots.popleft() for _ in range(min(self.merged, len(self.roots)))]
        key = f"bigspec-total-{self.token}-{self.added}"
        self.running = self._guard(
            self.client.submit, add_in_order, before, roots, key=key, pure=False, priority=1
        )
        self.added += len(roots)

    def fetch(self) -> FirstRounds:
        """Fetch the sum of all complete rounds, which is the new base."""
        if self.stretch == 1:
            while self.roots:
                result = self._result(self.roots[0])
                self.roots.popleft()
                self._hold(self.added + 1, add_in_order(self.base.total, [result]))
            return self.base
        while self.roots:
            self._add()
        self._settle(self.running)
        return self._hold(self.added, self._result(self.running))

    def _hold(self, rounds: int, total: Any) -> FirstRounds:
        self.base, self.added = FirstRounds(rounds, total), rounds
        self.running = self.sent = None
        return self.base

    def last(self) -> FirstRounds | None:
        """Return what workers have added since the base, if it can be had soon; else None."""
        if self.running is not None:
            with suppress(Exception):
                return self._hold(self.added, self.running.result(timeout=LAST))
        return None

    def _watch(self, index: int, steps: dict[Any, int], root: Any) -> None:
        """Report sums as they complete, but only once if a round is sent again.

        A sum that was counted is released, so that it goes when it was added.
        """
        summed = index * self.context.layout.round_panels
        while steps:
            self.limit.check()
            self._add_what_waits()
            futures = list(steps)
            if self.running is not None and not self.running.done():
                futures.append(self.running)
            done = self._wait(futures, "FIRST_COMPLETED")
            for future in done & steps.keys():
                panels = steps.pop(future)
                if future.status == "finished":
                    summed += panels
                if future.key != root.key:
                    future.release()
                if summed > self.told:
                    new, self.told = summed - self.told, summed
                    self.on_panels(new)
            if root.status in ("error", "cancelled", "lost"):
                return

    def _settle(self, future: Any) -> None:
        """Wait for a future, whose result stays where it is; raise what its task raised."""
        self._wait([future])
        if future.status != "finished":
            self._result(future)

    def _wait(self, futures: list[Any], when: str = "ALL_COMPLETED") -> Any:
        """Wait for futures, and look now and then whether the holders of panels are there."""
        from distributed import wait

        def call(seconds: float | None) -> Any:
            return wait(futures, timeout=seconds, return_when=when).done

        return self._guard(self._looking, call)

    def _result(self, future: Any) -> Any:
        """Fetch a result. One that is lost meanwhile may wait for a holder that is not there."""
        if not self.pins:
            return self._guard(future.result, timeout=self._patience(None))

        async def fetch() -> Any:
            return await self.client.gather(future, asynchronous=True)

        # It goes on between two looks. It ends by itself once its future is released.
        coming = asyncio.run_coroutine_threadsafe(fetch(), self.client.loop.asyncio_loop)
        return self._guard(self._looking, lambda seconds: coming.result(timeout=seconds))

    def _looking(self, call: Callable[[float | None], Any]) -> Any:
        """Call with a timeout, again and again, while there are pinned panels; else once."""
        while self.pins:
            try:
                return call(self._patience(LOOK))
            except TimeoutError:
                self.limit.check()
                if self._holders_lost():
                    raise HolderLost from None
        return call(self._patience(None))

    def _holders_lost(self) -> bool:
        """Give up the panels of workers that are gone; whether there were any.

        A client that is connecting again has cancelled all futures, and says so soon.
        """
        if not self.pins or self.client.status != "running":
            return False
        return self.pins.lose(self._guard(self.client.nthreads))

    # What is lost --------------------------------------------------------------------------

    def send_again(self, error: BaseException) -> None:
        """Take back all rounds in flight; what was lost is launched again, with a new context.

        The loss of a block does not show a fault: it may have gone several times to a worker that
        had just died. Dask blames a task only after several workers have died during it.
        """
        from distributed.scheduler import KilledWorker

        if self._holders_lost():  # no failure: the others go on with what they have
            self.take_back()
            return
        self.failures += 1
        if self.failures == 1:
            self.failing_since = time.monotonic()
        stuck = time.monotonic() - self.failing_since > RETURN
        if self.failures >= ATTEMPTS and (stuck or isinstance(error, KilledWorker)):
            msg = (
                f"Dask cluster: expected the pass to survive, got {type(error).__name__} "
                f"{self.failures} times ({error}). Workers may be running out of memory: give "
                "them more, or pass a smaller memory_limit."
            )
            raise ClusterError(msg) from error
        pause = self._patience(min(PAUSES[0] * 2.0 ** (self.failures - 1), PAUSES[1]))
        time.sleep(pause or 0.0)
        self.limit.check()
        self.take_back()

    def take_back(self) -> None:
        """Take back all rounds in flight, to launch them with a new context."""
        there = None
        if self.running is not None and self.running.status == "finished":
            there, self.running, self.sent = (self.running, self.sent), None, None
        self.cancel()
        if there is not None:
            self.running, self.sent = there
        elif self.added > self.base.rounds:
            self.added, self.stretch = self.base.rounds, max(1, self.stretch // 2)
        self.next = self.landed = self.added
        if self.pins is not None:
            self.pins.release_unfinished()
        self._send_context()

    def cancel(self) -> None:
        """Release everything on the cluster, even if a traceback still refers to it."""
        for _, steps, root in self.rounds:
            self.roots.extend((*steps, root))
        for future in (*self.roots, *self.reference, self.running, self.sent):
            if future is not None:
                future.release()
        self.rounds.clear()
        self.roots.clear()
        self.running = self.sent = None
        self.reference = []

    def _patience(self, most: float | None) -> float | None:
        """Return the seconds to wait: until just after the deadline, or `most`."""
        left = self.limit.left
        if left is None:
            return most
        left = max(left, 0.0) + MOMENT  # a timer that rounds must not fire before the deadline
        return left if most is None else min(left, most)

    def _guard(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call into the client; a lost scheduler is a `ClusterError`, the deadline `Abandoned`."""
        try:
            return call(*args, **options)
        except BigspecError:
            raise
        except (OSError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                self.limit.check()
            elif self.client.status == "running":
                raise
            if self.client.status != "running":
                raise lost_scheduler(self.address, error) from error
            msg = (
                f"Dask scheduler {self.address}: expected an answer and a worker within "
                f"{RETURN:g} s, got {type(error).__name__}: {error}. Check that workers run."
            )
            raise ClusterError(msg) from error


def lost_scheduler(where: str, error: Exception) -> ClusterError:
    """Return what is said of a scheduler that is no longer there."""
    return ClusterError(
        f"Dask scheduler {where}: lost ({type(error).__name__}: {error}). Start one, and "
        "workers, and run it again."
    )
