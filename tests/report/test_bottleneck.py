import pytest

from ndbatch.report.bottleneck import Times, verdict


@pytest.mark.parametrize(
    ("times", "kind", "words"),
    [
        (Times(), "nothing", "No block was computed"),
        (
            Times(read=50, compute=37, waited=63),
            "reading",
            "waited for reading: computing stood still 63 % of the time",
        ),
        (
            Times(write=50, compute=50, stalled=50),
            "writing",
            "waited for writing: computing stood still 50 % of the time",
        ),
        (Times(compute=40, waited=30, stalled=30), "both", "60 % of the time, 30 % for inputs to arrive and 30 % for"),
        (
            Times(read=90, compute=95, waited=5),
            "computing",
            "limited by computing: reading and writing went on behind it",
        ),
        (
            Times(compute=80, waited=15, stalled=5),
            "computing",
            "busy 80 % of the time, with 15 % of it waiting for inputs",
        ),
        (Times(compute=80, stalled=20), "computing", "with 20 % of it waiting for results to be stored."),
    ],
)
def test_verdict(times: Times, kind: str, words: str) -> None:
    judged = verdict(times)
    assert judged.kind == kind
    assert words in judged.sentence


def test_a_small_part_of_stalling_does_not_hide_that_reading_was_slow() -> None:
    assert verdict(Times(compute=30, waited=60, stalled=10)).kind == "reading"
    assert verdict(Times(compute=30, waited=10, stalled=60)).kind == "writing"


def test_the_long_read_total_alone_is_no_bottleneck() -> None:
    assert verdict(Times(read=1000, compute=100, write=500)).kind == "computing"
