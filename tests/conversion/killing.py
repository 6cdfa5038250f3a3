"""A child that converts or normalizes, and is killed -9 at the k-th thing it does to the disk."""

import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

SECONDS = 60


def serve():
    """Fork a child for each line ``kill destination``; answer with its exit status."""
    import bigspec
    import bigspec.conversion  # what a child has to import late otherwise

    assert bigspec.convert
    for line in sys.stdin:
        at, source, destination, form = line.split()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = run(int(at), source, destination, form)
            except BaseException:  # noqa: BLE001, RUF100 - the parent shall see it
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def run(at, source, destination, form):
    import zarr.storage._local as local_store

    from bigspec import convert, normalize, normalize_model
    from bigspec.conversion import running, scaling, work, writing
    from bigspec.networks import normal_copy
    from bigspec.sources import matrix_market

    signal.alarm(SECONDS)
    count = 0

    def event():
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call):
        """Before the call and after it."""

        def scheduled(*arguments, **options):
            event()
            result = call(*arguments, **options)
            event()
            return result

        return scheduled

    running.CAPACITY_BYTES, running.SAVE_ENTRIES, writing.CHUNK = 2000, 150, 64
    matrix_market.BLOCK_BYTES = 1000
    local_store._put = around(local_store._put)
    work.Work.save = around(work.Work.save)
    work.shutil.rmtree = around(shutil.rmtree)
    running.Scatter.put = around(running.Scatter.put)
    Path.replace = around(Path.replace)
    Path.unlink = around(Path.unlink)
    if form == "normalize":
        scaling.BLOCK_BYTES = 4000
        scaling.DenseCopy._copy = around(scaling.DenseCopy._copy)
        normalize(source, destination, seed=5)
    elif form == "model":
        normal_copy.SAVED = 1
        normalize_model(source, destination, only="[abcd].weight", seed=5)
    else:
        convert(source, destination, format=form)
    Path(destination).with_suffix(".count").write_text(str(count))
    return 0
