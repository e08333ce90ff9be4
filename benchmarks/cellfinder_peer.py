"""cellfinder's own detector on one volume; run by the Python of the environment that it is installed in.

    .venv-cellfinder/bin/python benchmarks/cellfinder_peer.py signal.h5 result.json

Writes the centres (z, y, x in voxels), and the seconds that the detection took without starting and importing.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path


def main() -> None:
    """Detect with the defaults, which are made for this kind of image, and the voxel size of the crop."""
    import h5py
    from cellfinder.core.detect.detect import main as detect

    with h5py.File(sys.argv[1]) as file:
        image = file["signal"][...]
    begun = time.perf_counter()
    cells = detect(image, voxel_sizes=(5, 2, 2), soma_diameter=16, torch_device="cpu")
    result = {"cells": [(c.z, c.y, c.x) for c in cells], "seconds": time.perf_counter() - begun}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":  # it starts processes, which import this file again
    warnings.simplefilter("ignore")
    main()
