"""`ndbatch objects`: what is known of objects, in a file and in a service."""

from __future__ import annotations

import json
from pathlib import Path

from ndbatch import ramon
from ndbatch.ramon import Segment, Synapse
from ndbatch.testing.serving import serving
from tests.cli.conftest import Command


def test_objects_of_a_file(tmp_path: Path, ndbatch: Command) -> None:
    store = ramon.open(tmp_path / "cells.ramon.h5")
    store.put([Segment(id=4, neuron=9, kvpairs={"colour": "red"}), Synapse(id=7, weight=0.5, segments=(4,))])
    done = ndbatch("objects", str(tmp_path / "cells.ramon.h5"))
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["id", "type", "neuron", "colour", "weight", "segments"]
    assert lines[1] == ["4", "segment", "9", "red"]
    assert lines[2] == ["7", "synapse", "0.5", "4"]
    assert done.out.splitlines()[-1] == f"2 objects in {tmp_path / 'cells.ramon.h5'}"
    one = json.loads(ndbatch("objects", str(tmp_path / "cells.ramon.h5"), "--type", "synapse", "--json").out)
    assert (one["count"], one["objects"][0]["segments"]) == (1, [4])


def test_objects_of_a_service(tmp_path: Path, ndbatch: Command) -> None:
    import ndbatch as nb

    with serving(tmp_path) as (url, _):
        host = url.replace("http://", "ndstore://")
        nb.create(f"{host}/embryo/cells", shape=(4, 5, 6), dtype="uint32", kind="labels")
        ramon.open(f"{host}/embryo/cells").put([Segment(id=number) for number in range(1, 31)])
        done = ndbatch("objects", f"{host}/embryo/cells", "--limit", "3")
        assert done.out.splitlines()[-1] == f"30 objects in {host}/embryo/cells, 3 of them here"
        assert len(done.out.splitlines()) == 5
        missing = ndbatch("objects", f"{host}/embryo/none")
        assert missing.code == 2
        assert "none" in missing.err
    assert ndbatch("objects", "cells.txt").code == 2
