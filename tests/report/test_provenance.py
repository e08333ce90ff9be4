import json
import os

import pytest

from ndbatch.report.provenance import masked, masked_text, provenance


def test_the_record_names_versions_host_and_plan_and_holds_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDBATCH_TEST_CANARY", "canary-48151623")
    monkeypatch.setattr("sys.argv", ["ndbatch", "run", "a.yaml", "--token", "s3cr3t", "--set", "cluster.workers=2"])
    record = provenance({"name": "count", "fingerprint": "abc"})
    text = json.dumps(record)
    assert record["fingerprint"] == "abc"
    assert record["libraries"]["numpy"].split(".")[0].isdigit()
    assert record["cpus"] == os.cpu_count()
    assert record["memory_bytes"] > 2**28
    assert record["command"] == ["ndbatch", "run", "a.yaml", "--token", "***", "--set", "cluster.workers=2"]
    assert "canary" not in text
    assert "s3cr3t" not in text


@pytest.mark.parametrize(
    "word",
    [
        "--token=s3cr3t",
        "inputs.image.token=s3cr3t",
        "https://user:s3cr3t@host/path",
        "https://host/path?token=s3cr3t&level=1",
        "{url: 'boss://host', api_key: s3cr3t}",
        "password: 's3cr3t and more'",
        "Authorization: Bearer s3cr3tvalue",
    ],
)
def test_secrets_are_masked(word: str) -> None:
    assert "s3cr3t" not in masked_text(word)
    assert "***" in masked_text(word)


def test_what_is_no_secret_stays() -> None:
    words = [
        "ndbatch",
        "run",
        "count-cells.yaml",
        "--set",
        "steps.0.nuclei.diameter=12 um",
        "zarr:///data/a.zarr?level=1",
    ]
    assert masked(words) == words
    assert masked(["--token", "--fresh"]) == ["--token", "--fresh"], "an option is not the value of the one before"
