"""Passes on a thousand workers, simulated: Dask's real scheduler and client, workers that sleep.

python -P benchmarks/thousand.py run --shape tall                 # one pass over 100 TB, n = 10^6
python -P benchmarks/thousand.py run --shape narrow --part 0.25   # the last quarter, n = 10^4
python -P benchmarks/thousand.py run --workers 100 --terabytes 10 --rate 4
python -P benchmarks/thousand.py table [--docs docs/thousand.md]  # of what `run --save` saved

The executor, its graphs, its layout, the scheduler and the client are those of a real run. Only
workers are not: each is a coroutine that speaks the protocol of a worker, takes as long as a panel
would (its bytes over `--rate`), moves what it needs from other workers at `--link`, and claims the
size of a partial sum without holding one. So bytes, tasks and messages are exact counts; seconds
of CPU are those of the scheduler's and the client's process, without copying of the sums that the
client asks for (`--payload` sends these in full length).

Workers die (`--deaths`, share of them in a minute; another joins at once) and some are slow
(`--slow`, share; five times). `run` works on an older checkout as well, to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import heapq
import itertools
import json
import multiprocessing
import os
import pickle
import random
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigspec.kernels.partials import Partial
from bigspec.matrices import Grid, Matrix
from bigspec.panels.choose_layout import choose_layout
from bigspec.panels.fused import FusedContext
from bigspec.passes.contract import FirstRounds

TERA, GIB = 10**12, 1 << 30
SHAPES = {  # columns, columns of a block, rows of a chunk
    "tall": (10**6, 16, 100),
    "narrow": (10**4, 16, 2000),
}
SAVED = Path(__file__).parent / "thousand.json"
BEGIN, END = "<!-- thousand: begin -->", "<!-- thousand: end -->"
SUM_RATE = 3e9  # bytes that a sum of partial sums reads in a second
OUTGOING = 50  # transfers that one worker serves at once, as in Dask
BUSY = 0.15  # seconds until a busy worker is asked again, as in Dask
SLOWNESS = 5
# The machine of this script may be busier than that of a scheduler: nobody is given up for it.
PATIENCE = {
    "distributed.comm.timeouts.connect": "300s",
    "distributed.comm.timeouts.tcp": "300s",
    "distributed.scheduler.worker-ttl": "1h",
}


@dataclass(frozen=True)
class Imagined(Matrix):
    """A float32 matrix of which nothing exists but its shape and its chunks."""

    @property
    def identity(self):
        return {"where": self.name}

    def read(self, rows, columns, buffers):
        raise NotImplementedError

    def chunk_at(self, row, column):
        return "nowhere"


def imagine(shape, terabytes):
    columns, block, step = SHAPES[shape]
    rows = int(terabytes * TERA) // (4 * columns)
    grids = Grid(rows, step), Grid(columns, columns)
    return Imagined((rows, columns), np.dtype("f4"), f"{terabytes:g} TB", grids), block


# Workers -------------------------------------------------------------------------------------


class Link:
    """One direction of a worker's network: what it carries comes one after another."""

    def __init__(self):
        self.free = 0.0


class Fake:
    """A worker of one thread as the scheduler sees it."""

    def __init__(self, town, number):
        self.town, self.number = town, number
        self.slow = SLOWNESS if town.random.random() < town.options.slow else 1
        self.data = {}  # key -> bytes
        self.waiting = {}  # key -> [missing keys, priority, run_id]
        self.needed = {}  # missing key -> keys of tasks that wait for it
        self.where = {}  # missing key -> addresses
        self.ready, self.running, self.cancelled = [], None, False
        self.outgoing, self.into, self.out = 0, Link(), Link()
        self.alive, self.fetches = True, set()

    async def start(self):
        from distributed.batched import BatchedSend
        from distributed.core import Server, connect

        handlers = {"get_data": self.get_data, "update_data": self.update_data}
        self.server = Server(handlers, deserialize=False)
        await self.server.listen("tcp://127.0.0.1:0")
        self.address = self.server.address
        self.town.workers[self.address] = self
        self.comm = await connect(self.town.scheduler, deserialize=False)
        await self.comm.write(
            {
                "op": "register-worker", "reply": False, "address": self.address,
                "status": "running", "nthreads": 1, "name": f"{self.number}", "now": time.time(),
                "resources": {}, "memory_limit": self.town.options.memory * GIB,
                "local_directory": "", "services": {}, "nanny": None, "pid": os.getpid(),
                "versions": self.town.versions, "metrics": self.metrics(), "extra": {},
                "stimulus_id": f"worker-connect-{time.time()}", "server_id": self.address,
            },
            serializers=["msgpack"],
        )  # fmt: skip
        response = await self.comm.read()
        assert response["status"] == "OK", response
        self.stream = BatchedSend(interval="2ms", loop=self.server.loop)
        self.stream.start(self.comm)
        self.jobs = [asyncio.create_task(self.listen()), asyncio.create_task(self.beat())]

    def metrics(self):
        return {
            "task_counts": {}, "bandwidth": {"total": self.town.link, "workers": {}, "types": {}},
            "digests_total_since_heartbeat": {}, "managed_bytes": sum(self.data.values()),
            "spilled_bytes": {"memory": 0, "disk": 0},
            "transfer": dict.fromkeys(
                ["incoming_bytes", "incoming_count", "incoming_count_total", "outgoing_bytes",
                 "outgoing_count", "outgoing_count_total"], 0),
            "event_loop_interval": 0.02, "cpu": 90.0, "memory": 1 << 30, "time": time.time(),
            "host_net_io": {"read_bps": 0.0, "write_bps": 0.0},
            "host_disk_io": {"read_bps": 0.0, "write_bps": 0.0}, "num_fds": 30,
        }  # fmt: skip

    async def beat(self):
        pause = 6.0 * self.town.random.random()
        while self.alive:
            await asyncio.sleep(pause)
            try:
                response = await self.town.rpc(self.town.scheduler).heartbeat_worker(
                    address=self.address, now=time.time(), metrics=self.metrics(), executing={},
                    extensions={},
                )  # fmt: skip
            except OSError:  # the machine is too busy: the next one will come
                self.town.missed += 1
                continue
            # As often in a pass as where a worker reads a gigabyte a second.
            pause = response.get("heartbeat-interval", 5.0) / min(self.town.options.rate, 1.0)

    def die(self):
        """Go without a word, as a process that was killed."""
        self.alive = False
        self.town.workers.pop(self.address, None)
        self.stream.abort()
        self.server.stop()
        for job in [*self.jobs, *self.fetches]:
            job.cancel()

    async def listen(self):
        handlers = {
            "compute-task": self.compute, "free-keys": self.free, "remove-replicas": self.drop,
            "steal-request": self.steal, "refresh-who-has": self.refresh,
            "acquire-replicas": self.acquire,
        }  # fmt: skip
        while self.alive:
            try:
                messages = await self.comm.read()
            except OSError:
                return
            for message in messages:
                self.town.received += 1
                operation = message.pop("op")
                if operation == "close":
                    return
                if operation in handlers:
                    try:
                        handlers[operation](**message)
                    except Exception:  # else the task of this worker would end without a word
                        traceback.print_exc()
                        os._exit(1)

    def send(self, operation, **message):
        self.town.sent += 1
        self.stream.send({"op": operation, "stimulus_id": f"{operation}-{time.time()}", **message})

    # What the scheduler asks for

    def compute(self, key, run_id, priority, who_has, nbytes, **_):
        if key in self.data:
            self.finished(key, run_id, 0.0)
            return
        if self.running is not None and self.running[1] == key:
            self.running, self.cancelled = (*self.running[:2], run_id), False
            return
        missing = {one for one in who_has if one not in self.data}
        self.waiting[key] = [missing, tuple(priority), run_id]
        for one in missing:
            self.needed.setdefault(one, set()).add(key)
            self.fetch(one, who_has[one], nbytes[one])
        if not missing:
            self.queue(key)

    def queue(self, key):
        heapq.heappush(self.ready, (self.waiting[key][1], key))
        self.next()

    def next(self):
        while self.running is None and self.ready and self.alive:
            _, key = heapq.heappop(self.ready)
            if key not in self.waiting or self.waiting[key][0]:
                continue
            *_, run_id = self.waiting.pop(key)
            seconds = self.town.duration(key) * self.slow
            self.running, self.cancelled = (time.time(), key, run_id), False
            asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self):
        if not self.alive:
            return
        (began, key, run_id), self.running = self.running, None
        if not self.cancelled:
            self.data[key] = self.town.size(key)
            self.finished(key, run_id, began)
        self.next()

    def finished(self, key, run_id, began):
        now = time.time()
        self.town.count(key)
        self.send(
            "task-finished", status="OK", key=key, run_id=run_id, nbytes=self.data[key],
            type=self.town.type, typename="bigspec.kernels.partials.Partial", metadata={},
            thread=1, startstops=[{"action": "compute", "start": began or now, "stop": now}],
        )  # fmt: skip

    def free(self, keys, **_):
        for key in keys:
            self.data.pop(key, None)
            if self.waiting.pop(key, None) is not None:
                for waiting in self.needed.values():
                    waiting.discard(key)
            if self.running is not None and self.running[1] == key:
                self.cancelled = True

    def drop(self, keys, **_):
        for key in keys:
            if self.data.pop(key, None) is not None:
                self.send("release-worker-data", key=key)

    def steal(self, key, stimulus_id):
        state = None
        if key in self.waiting:
            state = "waiting" if self.waiting[key][0] else "ready"
            self.free([key])
        elif self.running is not None and self.running[1] == key:
            state = "executing"
        elif key in self.data:
            state = "memory"
        self.town.stolen += state in ("waiting", "ready")
        self.send("steal-response", key=key, state=state, stimulus_id=stimulus_id)

    def refresh(self, who_has, **_):
        for key, addresses in who_has.items():
            if key in self.where:
                self.where[key] = addresses

    def acquire(self, who_has, nbytes, **_):
        for key, addresses in who_has.items():
            self.fetch(key, addresses, nbytes[key])

    # What it takes from other workers

    def fetch(self, key, addresses, nbytes):
        known = key in self.where
        self.where[key] = addresses
        if not known:
            task = asyncio.create_task(self.travel(key, nbytes))
            self.fetches.add(task)
            task.add_done_callback(self.fetches.discard)

    async def travel(self, key, nbytes):
        try:
            while self.needed.get(key):
                there = [self.town.workers.get(address) for address in self.where[key]]
                there = [one for one in there if one is not None and key in one.data]
                free = [one for one in there if one.outgoing < OUTGOING]
                if free and await self.carry(key, nbytes, self.town.random.choice(free)):
                    break
                self.send("request-refresh-who-has", keys=[key])
                await asyncio.sleep(BUSY)
        finally:
            self.where.pop(key, None)
            waiting = self.needed.pop(key, ())
        for task in waiting:
            if key in self.data and task in self.waiting:
                self.waiting[task][0].discard(key)
                if not self.waiting[task][0]:
                    self.queue(task)

    async def carry(self, key, nbytes, source):
        now = time.time()
        end = max(now, self.into.free, source.out.free) + nbytes / self.town.link
        self.into.free = source.out.free = end
        source.outgoing += 1
        try:
            await asyncio.sleep(end - now)
        finally:
            source.outgoing -= 1
        if not source.alive or key not in source.data:
            return False
        self.data[key] = nbytes
        self.town.moved += nbytes
        self.send("add-keys", keys=[key])
        return True

    # What the client asks for, through the scheduler

    async def get_data(self, comm, keys, who=None, **_):
        from distributed import Status
        from distributed.protocol import to_serialize

        there = [key for key in keys if key in self.data]
        self.town.fetched += sum(self.data[key] for key in there)
        self.town.fetches += len(there)
        value = self.town.partial
        await comm.write({"status": "OK", "data": {key: to_serialize(value) for key in there}})
        await comm.read()
        return Status.dont_reply

    def update_data(self, data, **_):
        sizes = {}
        for key, value in data.items():
            frames = sum(memoryview(frame).nbytes for frame in getattr(value, "frames", [b""]))
            sizes[key] = max(frames, self.town.size(key) if "bigspec-base" in key else 0)
        self.data |= sizes
        self.town.scattered += sum(sizes.values())
        return {"status": "OK", "nbytes": sizes}


class Town:
    """All workers, in one process."""

    def __init__(self, scheduler, options, panel_bytes, block):
        from distributed.core import ConnectionPool
        from distributed.versions import get_versions

        self.scheduler, self.options, self.block = scheduler, options, block
        self.panel_seconds, self.link = panel_bytes / (options.rate * 1e9), options.link * 1e9
        self.workers, self.random = {}, random.Random(options.seed)
        self.versions, self.rpc = get_versions(), ConnectionPool(limit=4096)
        self.type = pickle.dumps(Partial)
        length = block // 8 if options.payload else 1
        self.partial = Partial(np.zeros((length, 1)), np.zeros((1, 1)), 0, None)
        self.received = self.sent = self.stolen = self.moved = self.deaths = self.missed = 0
        self.fetched = self.fetches = self.scattered = self.panels = self.sums = 0
        self.numbers = itertools.count()

    def duration(self, key):
        if "bigspec-panel" in key:
            return self.panel_seconds * self.random.uniform(0.9, 1.1)
        return 4 * self.block / SUM_RATE

    def size(self, key):
        return self.block

    def count(self, key):
        self.panels += "bigspec-panel" in key
        self.sums += "bigspec-panel" not in key

    async def run(self, pipe):
        loop = asyncio.get_running_loop()
        await self.rpc.start()
        for _ in range(-(-self.options.workers // 20)):
            left = min(20, self.options.workers - len(self.workers))
            await asyncio.gather(*(Fake(self, next(self.numbers)).start() for _ in range(left)))
        pipe.send("here")
        dying = asyncio.create_task(self.die())
        while (asked := await loop.run_in_executor(None, pipe.recv)) != "end":
            counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
            pipe.send(counts | {"cpu": time.process_time()} if asked == "counts" else None)
        dying.cancel()
        os._exit(0)

    async def die(self):
        each = self.options.deaths * self.options.workers / 60
        while each:
            await asyncio.sleep(self.random.expovariate(each))
            self.random.choice(list(self.workers.values())).die()
            self.deaths += 1
            await Fake(self, next(self.numbers)).start()


def work(pipe, scheduler, options, panel_bytes, block):
    import logging

    import dask

    logging.getLogger("distributed").setLevel(logging.CRITICAL)

    async def main():
        await Town(scheduler, options, panel_bytes, block).run(pipe)

    with dask.config.set(PATIENCE):
        asyncio.run(main())


# Scheduler -----------------------------------------------------------------------------------


def schedule(pipe):
    import logging

    import dask
    from distributed import Scheduler

    async def main():
        options = {"dashboard_address": ":0", "dashboard": False}
        async with Scheduler(host="127.0.0.1", port=0, **options) as scheduler:
            pipe.send(scheduler.address)
            await scheduler.finished()

    for name in ["distributed", "distributed.scheduler", "distributed.core", "distributed.worker"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(PATIENCE):
        asyncio.run(main())


def watch(dask_scheduler):
    """Look twenty times a second how many tasks the scheduler holds."""
    import asyncio

    dask_scheduler.peak = 0

    async def look():
        while True:
            dask_scheduler.peak = max(dask_scheduler.peak, len(dask_scheduler.tasks))
            await asyncio.sleep(0.05)

    dask_scheduler.watching = asyncio.ensure_future(look())


def state(dask_scheduler):
    import time

    peak, dask_scheduler.peak = getattr(dask_scheduler, "peak", 0), 0
    return {
        "cpu": time.process_time(),
        "peak": peak,
        "tasks": len(dask_scheduler.tasks),
    }


# The run -------------------------------------------------------------------------------------


def resident():
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def one_pass(executor, context, first):
    """One pass, or its last rounds, by the executor itself."""
    nothing = Partial(np.zeros((1, 1)), np.zeros((1, 1)), 0, None)
    done = FirstRounds(first, nothing if first else None)
    told = []
    began, cpu = time.perf_counter(), time.process_time()
    executor.sum_rounds(context, done, on_panels=told.append, on_sum=lambda *_: None, deadline=None)
    return time.perf_counter() - began, time.process_time() - cpu, sum(told)


def run(options):
    import dask
    from distributed import Client

    from bigspec.passes.on_cluster import ClusterExecutor

    matrix, columns = imagine(options.shape, options.terabytes)
    layout = choose_layout(
        matrix, columns, blocks=6, limit=options.memory * GIB // 2, tasks=1, local=False
    )
    V = np.full((layout.iterate_length, columns), 1e-3)
    block = V.nbytes
    panel_bytes = matrix.nbytes / layout.panels
    first = int((1 - options.part) * layout.rounds)
    panels = layout.panels - first * layout.round_panels
    print(
        f"{options.terabytes:g} TB, n = {matrix.shape[1]}, b = {columns}: {layout.panels} panels "
        f"of {panel_bytes / 1e9:.2f} GB, {layout.rounds} rounds of {layout.round_panels}, fan-in "
        f"{layout.fan_in}, block {block / 1e6:.0f} MB; {panels} panels in this part",
        flush=True,
    )
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    boss = context.Process(target=schedule, args=(theirs,), daemon=True)
    boss.start()
    address = ours.recv()
    pipe, end = context.Pipe()
    town = context.Process(
        target=work, args=(end, address, options, panel_bytes, block), daemon=True
    )
    town.start()
    pipe.recv()
    rows = []
    with dask.config.set(PATIENCE), Client(address) as client:
        client.run_on_scheduler(watch)
        executor = ClusterExecutor(client)
        for number in range(1, options.passes + 1):
            before, counted = client.run_on_scheduler(state), asked(pipe)
            fused = FusedContext(matrix, layout, V, 0, False)
            seconds, cpu, told = one_pass(executor, fused, first)
            after, counts = client.run_on_scheduler(state), asked(pipe)
            gc.collect()
            change = {name: counts[name] - counted[name] for name in counts}
            row = {
                "seconds": seconds, "client_cpu": cpu, "told": told, "panels": panels,
                "scheduler_cpu": after["cpu"] - before["cpu"], "peak": after["peak"],
                "left": after["tasks"],
                "client_resident": resident(), **change,
            }  # fmt: skip
            rows.append(row)
            if options.save:
                save(options, layout, block, rows)
            print(
                f"pass {number}: {seconds:.0f} s (ideal "
                f"{panels * panel_bytes / (options.rate * 1e9 * options.workers):.0f} s), "
                f"scheduler CPU {row['scheduler_cpu']:.1f} s, client CPU {cpu:.1f} s; to client "
                f"{change['fetched'] / 1e9:.3f} GB in {change['fetches']} fetches, from client "
                f"{change['scattered'] / 1e9:.3f} GB; peak tasks {row['peak']}, left "
                f"{row['left']}; panels {change['panels']}, sums {change['sums']}; messages "
                f"{change['received']} to and {change['sent']} from workers; moved "
                f"{change['moved'] / 1e12:.2f} TB, stolen {change['stolen']}, deaths "
                f"{change['deaths']}; client {row['client_resident'] / 1e6:.0f} MB; told {told}; "
                f"workers' CPU {change['cpu']:.0f} s",
                flush=True,
            )
    pipe.send("end")
    boss.terminate()
    town.join(5)


def asked(pipe):
    pipe.send("counts")
    return pipe.recv()


def save(options, layout, block, rows):
    saved = json.loads(SAVED.read_text()) if SAVED.exists() else {}
    saved[options.save] = {
        "options": {k: v for k, v in vars(options).items() if k not in ("job", "docs")},
        "layout": {
            "panels": layout.panels, "rounds": layout.rounds, "round_panels": layout.round_panels,
            "fan_in": layout.fan_in, "block": block,
        },
        "passes": rows,
    }  # fmt: skip
    SAVED.write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n")


# The table -----------------------------------------------------------------------------------

ROWS = {
    "before-tall": "n = 10^6, as it was",
    "tall": "n = 10^6, now",
    "tall-deaths": "n = 10^6, now, 1 % of the workers die in a minute, 5 % are slow",
    "before-narrow": "n = 10^4, as it was",
    "narrow": "n = 10^4, now",
}


def table():
    """The rows that were saved, in Markdown; of a part of a pass, times what makes it whole."""
    saved = json.loads(SAVED.read_text(encoding="utf-8"))
    head = (
        "| 100 TB, b = 16 | panels, rounds | to the client | scheduler CPU | messages | most tasks "
        "| workers | share run |"
    )
    lines = [head, "|--|--|--|--|--|--|--|--|"]
    for name, title in ROWS.items():
        if name not in saved:
            continue
        one, layout = saved[name], saved[name]["layout"]
        last, part = one["passes"][-1], one["passes"][-1]["told"] / layout["panels"]
        lines.append(
            f"| {title} | {layout['panels']}, {layout['rounds']} "
            f"| {last['fetched'] / part / 1e9:.2f} GB | {last['scheduler_cpu'] / part:.0f} s "
            f"| {(last['received'] + last['sent']) / part:.0f} | {last['peak']} "
            f"| {one['options']['workers']} | {100 * part:.0f} % |"
        )
    return "\n".join(lines)


def write(place):
    """Put the table between its marks."""
    text = place.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    place.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=["run", "table"])
    parser.add_argument("--shape", choices=SHAPES, default="tall")
    parser.add_argument("--terabytes", type=float, default=100.0)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--part", type=float, default=1.0, help="of the rounds of a pass")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.0, help="GB/s of the matrix a worker reads")
    parser.add_argument("--link", type=float, default=1.25, help="GB/s of a worker's network")
    parser.add_argument("--memory", type=int, default=16, help="GiB of a worker")
    parser.add_argument("--deaths", type=float, default=0.0, help="share of the workers a minute")
    parser.add_argument("--slow", type=float, default=0.0, help="share of slow workers")
    parser.add_argument("--payload", action="store_true", help="send sums in their full length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", default="", help="name of the row to save")
    parser.add_argument("--docs", type=Path, help="page whose table is written")
    options = parser.parse_args()
    if options.job == "run":
        run(options)
    elif options.docs:
        write(options.docs)
    else:
        print(table())


if __name__ == "__main__":
    main()
