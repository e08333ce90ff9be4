"""The works of benchmarks/speed.py by igneous, its tasks in two processes of its own local queue.

Volumes are raw precomputed layers on the local disk, not compressed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import igneous.task_creation as tasks
from taskqueue import LocalTaskQueue


def main() -> None:
    """Do the work named on the command line and print its seconds."""
    work, folder = sys.argv[1], Path(sys.argv[2])
    out = f"file://{folder}/igneous.precomputed"
    queue = LocalTaskQueue(parallel=2, progress=False)
    begun = time.perf_counter()
    if work == "precomputed":
        source = f"file://{folder}/image.precomputed"
        queue.insert(
            tasks.create_transfer_tasks(
                source, out, chunk_size=(64, 64, 64), skip_downsamples=True, compress=False, fill_missing=True
            )
        )
        queue.execute()
    elif work == "components":
        source = f"file://{folder}/mask.precomputed"
        queue.insert(tasks.create_ccl_face_tasks(source, mip=0, shape=(256, 256, 256), fill_missing=True))
        queue.execute()
        queue.insert(tasks.create_ccl_equivalence_tasks(source, mip=0, shape=(256, 256, 256), fill_missing=True))
        queue.execute()
        import igneous.tasks.image.ccl as ccl

        ccl.create_relabeling(source, 0, (256, 256, 256))
        queue.insert(
            tasks.create_ccl_relabel_tasks(
                source, out, mip=0, shape=(256, 256, 256), chunk_size=(128, 128, 128), encoding="raw", fill_missing=True
            )
        )
        queue.execute()
    else:
        name = "image64" if work == "image-pyramid" else "labels64"
        source = f"file://{folder}/{name}.precomputed"
        queue.insert(
            tasks.create_downsampling_tasks(source, num_mips=3, factor=(2, 2, 2), compress=False, fill_missing=True)
        )
        queue.execute()
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
