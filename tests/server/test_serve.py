"""`ndbatch serve` as it is used: from the command line, by several processes, over a folder that changes."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

import ndbatch
from ndbatch.errors import ConfigError, PlanError
from ndbatch.server.running import listening, prepared
from ndbatch.server.scan import Watch, fill
from ndbatch.server.service import Access, Service
from ndbatch.server.settings import Settings, settings
from ndbatch.testing.serving import serving
from tests.server.sample import HTTP, OFFSET, TOKEN, noise, objects, store

CHUNK = (16, 32, 32)


@contextmanager
def started(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Run `ndbatch serve`; yield the process, its address, and what it printed. It is stopped at the end if it still runs."""
    command = [sys.executable, "-m", "ndbatch", "serve", *words]
    kept = {**os.environ, **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kept)
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            if "write" in line or "writing" in line:
                break
        printed = "".join(lines)
        found = re.search(r"http://[^/\s]+", printed)
        assert found is not None, printed
        yield process, found.group(), printed
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store(tmp_path / "lab/embryo/nuclei.zarr", noise("uint8", (32, 64, 64)), chunks=CHUNK)
    return tmp_path


def test_many_clients_write_through_two_processes_and_no_answered_write_is_lost_at_ctrl_c(folder: Path) -> None:
    """Every chunk of a volume is written again and again; what was answered last before the end is what is stored."""
    places = [(z, y, x) for z in range(2) for y in range(2) for x in range(2)]
    answered: dict[tuple[int, ...], int] = {}
    stop = threading.Event()

    def write(number: int) -> None:
        place = places[number]
        value = 0
        while not stop.is_set():
            value = value % 250 + 1
            url = f"{base}/zarr/embryo/nuclei/0/{'/'.join(map(str, place))}"
            body = np.full(CHUNK, value, np.uint8).tobytes()
            try:
                reply = HTTP.request("PUT", url, body=body, headers={"Authorization": f"Token {TOKEN}"})
            except Exception:  # the service is gone: nothing was answered
                return
            assert reply.status == 200
            answered[place] = value

    with started(str(folder), "--port", "0", "--workers", "2", "--token-env", "SERVE", SERVE=TOKEN) as (
        process,
        base,
        said,
    ):
        assert TOKEN not in said
        with ThreadPoolExecutor(len(places)) as pool:
            writers = [pool.submit(write, number) for number in range(len(places))]
            wait_until(lambda: len(answered) == len(places) and all(value > 3 for value in answered.values()))
            process.send_signal(signal.SIGINT)
            assert process.wait(180) == 0
            stop.set()
            for writer in writers:
                writer.result()
        assert process.stdout is not None
        assert "stopped" in process.stdout.read()
    volume = ndbatch.open(str(folder / "lab/embryo/nuclei.zarr"))
    data = volume.read(volume.domain)
    for place, value in answered.items():
        part = data[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, CHUNK, strict=True))]
        assert part.min() == part.max()
        # what was sent but not answered any more may be there as well
        assert part[0, 0, 0] in (value, value % 250 + 1)


def test_a_process_that_dies_is_replaced_and_none_is_left_behind(folder: Path) -> None:
    with started(str(folder), "--port", "0", "--workers", "2") as (process, base, _):
        assert HTTP.request("GET", f"{base}/").status == 200
        workers = answering(process.pid, 2)
        workers[0].kill()
        wait_until(lambda: workers[0] not in (now := answering(process.pid, 1)) and len(now) == 2)
        assert HTTP.request("GET", f"{base}/").status == 200
        now = answering(process.pid, 2)
        process.kill()
        process.wait()
        gone, alive = psutil.wait_procs(now, timeout=180)
        assert not alive
        assert len(gone) == 2


def answering(pid: int, least: int) -> list[psutil.Process]:
    """Return the processes that answer, at least so many; beside them there is Python's tracker of resources."""
    found: list[psutil.Process] = []

    def there() -> bool:
        children = psutil.Process(pid).children()
        found[:] = [one for one in children if one.status() != "zombie" and "spawn_main" in " ".join(one.cmdline())]
        return len(found) >= least

    wait_until(there)
    return found


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_token_is_made_once_and_kept_for_its_owner(folder: Path) -> None:
    with started(str(folder), "--port", "0") as (_, base, said):
        found = re.search(r"token ([0-9a-f]{40}), kept in (.+)", said)
        assert found is not None, said
        token, path = found.group(1), Path(found.group(2))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip() == token
        url, body = f"{base}/zarr/embryo/nuclei/0/0/0/0", bytes(int(np.prod(CHUNK)))
        assert HTTP.request("PUT", url, body=body).status == 403
        assert HTTP.request("PUT", url, body=body, headers={"Authorization": f"Token {token}"}).status == 200
    service, refused, made = prepared(Settings(folder))
    assert (service.access.tokens, refused, made) == ((token,), [], "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--host", "0.0.0.0", "--write", "anyone"], "anyone who reaches 0.0.0.0 could overwrite and delete volumes"),
        (["--token-env", "A", "--token-file", "b"], "two places for one token"),
        (
            ["--token-env", "NOT_SET_ANYWHERE", "--port", "0"],
            "environment variable NOT_SET_ANYWHERE is missing or empty",
        ),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:8080"),
    ],
)
def test_what_cannot_be_served_is_told_before_anything_runs(folder: Path, words: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "ndbatch", "serve", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told(folder: Path) -> None:
    with listening("127.0.0.1", 0) as bound, pytest.raises(PlanError, match="choose another --port"):
        listening("127.0.0.1", bound.getsockname()[1])


def channels(service: Service) -> dict[str, tuple[int, ...]]:
    """Return the channels of a service and the shapes of their volumes."""
    found = [c for p in service.catalogue.projects() for c in service.catalogue.channels(p.name)]
    return {f"{c.project}/{c.name}": service.volume(c).shape for c in found}


def test_volumes_appear_and_go_with_the_files_of_the_folder(folder: Path) -> None:
    service, other = (Service(folder, Access("anyone")) for _ in range(2))  # as two processes have it
    fill(service)
    for one in (service, other):
        one.catalogue.look = Watch(one, 0, 0)
    assert channels(service) == channels(other) == {"embryo/nuclei": (32, 64, 64)}
    frame = service.catalogue.project("embryo")
    store(folder / "lab/embryo/more.zarr", noise("uint16", (40, 64, 64)), chunks=CHUNK)
    assert service.catalogue.channel("embryo", "more").dtype == "uint16"
    grown = other.catalogue.project("embryo")
    assert (frame.shape, grown.shape, grown.offset) == ((32, 64, 64), (40, 64, 64), OFFSET)
    shutil.rmtree(folder / "lab/embryo/more.zarr")
    store(folder / "lab/embryo/more.zarr", noise("uint8", (8, 64, 64)), chunks=CHUNK)
    assert channels(other)["embryo/more"] == channels(service)["embryo/more"] == (8, 64, 64)
    store(folder / "lab/embryo/other_scale.zarr", noise("uint8", (8, 64, 64)), voxel_size=(9.0, 9.0, 9.0))
    assert "embryo_other_scale/other_scale" in channels(service)
    shutil.rmtree(folder / "lab")
    assert channels(service) == channels(other) == {}
    assert service.catalogue.projects() == []


def test_what_is_made_through_the_service_is_not_found_a_second_time(folder: Path) -> None:
    with serving(folder) as (_, service):
        place = service.place_for("lab", "embryo", "made")
        store(place, objects(shape=(32, 64, 64)), kind="labels")
        from ndbatch.server.catalogue import Channel

        service.catalogue.add_channel(Channel("embryo", "made", str(place), "labels", "uint64", made=True))
        fill(service)
        assert sorted(channels(service)) == ["embryo/made", "embryo/nuclei"]
        shutil.rmtree(place)
        fill(service)
        assert len(service.catalogue.channels("embryo")) == 2  # its protocol deletes it


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "copied"])
def test_a_folder_goes_on_elsewhere_with_what_was_made_in_it(folder: Path, tmp_path: Path, moved: bool) -> None:
    """Channels of every protocol are those of the new place, none is there twice, and nothing is written to the old one."""
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.move(folder / "lab", first / "lab")
    names = ["boss://{}/lab/mouse/by_boss", "ndstore://{}/fly/by_ndstore"]
    data = objects(shape=(64, 64, 64))
    with serving(first) as (url, service):
        fill(service)
        (root,) = HTTP.request("GET", f"{url}/api/repos/info").json()
        names.append(f"dvid://{{}}/{root}/by_dvid")
        for name in names:
            address = name.format(url.removeprefix("http://"))
            made = ndbatch.create(address, shape=data.shape, dtype="uint64", kind="labels", voxel_size=(1.0, 1.0, 1.0))
            made.write(made.domain, data)
        known = channels(service)
    if moved:
        first.rename(second)
    else:
        shutil.copytree(first, second)
    with serving(second) as (url, service):
        fill(service)
        assert channels(service) == known
        for name in names:
            there = ndbatch.open(name.format(url.removeprefix("http://")))
            assert np.array_equal(there[...], data)
            there.write(there.domain, np.full_like(data, 9))
            assert (there[...] == 9).all()
    if not moved:
        with serving(first) as (url, _):
            for name in names:
                assert np.array_equal(ndbatch.open(name.format(url.removeprefix("http://")))[...], data)


def test_a_file_names_volumes_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    store(
        tmp_path / "elsewhere/raw.zarr",
        noise("uint8", (3, 20, 40, 30)),
        axes="czyx",
        voxel_size=(1.0, 2, 1, 1),
        offset=(0,) * 4,
        chunks=(1, 20, 40, 30),
    )
    config = tmp_path / "serve.yaml"
    config.write_text(
        "volumes:\n  brain/dapi: {url: elsewhere/raw.zarr, c: 1, crop: {z: [2, 12]}, voxel_size: {z: 3 um, y: 1 um, x: 1 um}}\n"
        "  embryo/nuclei: lab/embryo/nuclei.zarr\nfolder: kept\nport: 0\nwrite: nobody\n"
    )
    with started(str(config)) as (_, base, said):
        assert "nobody may write" in said
        volume = ndbatch.open(f"precomputed://{base}/precomputed/brain/dapi")
        assert (volume.offset, volume.voxel_size) == ((2, 0, 0), (3.0, 1.0, 1.0))
        expected = noise("uint8", (3, 20, 40, 30))[1, 2:12]
        np.testing.assert_array_equal(volume.read(volume.domain), expected)
        assert HTTP.request("PUT", f"{base}/zarr/embryo/nuclei/0/0/0/0", body=b"").status == 403
    config.write_text("volumes: {embryo/nuclei: lab/embryo/nuclei.zarr}\nfolder: kept\nport: 0\n")
    assert list(channels(prepared(settings(config))[0])) == ["embryo/nuclei"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("volumes: {nuclei: a.zarr}", ["serve.yaml:1", "'nuclei' is not PROJECT/CHANNEL"]),
        ("volumes: {a/b: a.zarr}\nprot: 8", ["serve.yaml:2", "prot", "port"]),
        ("volumes: {a/b: {url: a.zarr, kidn: labels}}\nport: high", ["kidn", "kind", "serve.yaml:2", "port"]),
        ("volumes: {a/b: a.zarr}\ntoken: secret", ["a secret is never written into the file"]),
        ("volumes: [a.zarr]", ["serve.yaml:1", "volumes"]),
        ("{", ["serve.yaml"]),
    ],
)
def test_mistakes_in_the_file_are_named_with_their_lines(tmp_path: Path, text: str, sentences: list[str]) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        settings(config)
    for sentence in sentences:
        assert sentence in caught.value.message


def test_a_place_that_is_neither_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; give a folder of volumes, or a YAML file"):
        settings(tmp_path / "nothing")


def test_folders_of_one_name_in_two_datasets_are_two_projects(tmp_path: Path) -> None:
    """Each keeps its own frame and channels, whichever protocol looks, and a second look changes nothing."""
    service = Service(tmp_path)
    frame = {"voxel_size": (1.0, 1.0, 1.0), "chunks": (8, 8, 8)}
    near, far = noise("uint8", (8, 8, 8)), noise("uint8", (16, 8, 8))
    store(tmp_path / "adams/embryo/em.zarr", near, offset=(0, 0, 0), **frame)
    store(tmp_path / "brown/embryo/em.zarr", far, offset=(100, 0, 0), **frame)
    for _ in range(2):
        assert not fill(service)
        assert sorted(channels(service)) == ["brown-embryo/em", "embryo/em"]
    frames = {p.name: (p.dataset, p.offset, p.shape) for p in service.catalogue.projects()}
    assert frames == {
        "embryo": ("adams", (0, 0, 0), (8, 8, 8)),
        "brown-embryo": ("brown", (100, 0, 0), (16, 8, 8)),
    }
    store(tmp_path / "brown/embryo/late.zarr", far, offset=(100, 0, 0), **frame)
    fill(service)
    assert "brown-embryo/late" in channels(service)
    with serving(tmp_path) as (url, _):
        for collection, data in (("adams", near), ("brown", far)):
            volume = ndbatch.open(f"{url.replace('http', 'boss')}/{collection}/embryo/em")
            np.testing.assert_array_equal(volume.read(volume.domain), data)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's; this is another C library")
@pytest.mark.parametrize("processes", [1, 2])
def test_threads_share_two_arenas_of_memory(processes: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    with started(str(folder), "--port", "0", "--workers", str(processes)) as (process, base, _):
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: HTTP.request("GET", f"{base}/").status, range(200)))
        assert set(answers) == {200}
        pids = [one.pid for one in answering(process.pid, 2)] if processes > 1 else [process.pid]
        for pid in pids:
            found = beside_the_main_one(Path(f"/proc/{pid}/maps").read_text())
            assert found < 5  # one, and what else begins there by chance; 15 where none is shared


def beside_the_main_one(maps: str) -> int:
    """Return how many arenas a process has beside the main one: each is 64 MiB of addresses, begun at a multiple of that."""
    starts = re.findall(r"^([0-9a-f]+)-[0-9a-f]+ rw-p 00000000 00:00 0 *$", maps, re.MULTILINE)
    return sum(int(start, 16) % 2**26 == 0 for start in starts)
