"""bench-serve: which load is sustained, and what the report says."""

import json

import pytest

from streamward.bench.serve import Bench, LoadConfig, LoadRecord
from streamward.bench.serve_report import markdown, write_json_lines
from streamward.cli.main import main


def record(path="guarded", streams=8, **changes):
    values = {
        "path": path, "streams": streams, "seconds": 30.0, "tokens": 100, "p50_ms": 5.0, "p99_ms": 20.0, "max_ms": 30.0,
        "first_p50_ms": 40.0, "first_p99_ms": 50.0, "done": 9, "stopped": 0, "failed": 0, "service_cores": 0.5,
        "load_cores": 0.1, "rss_start_mb": 100.0, "rss_half_mb": 100.5, "rss_end_mb": 101.0,
        "rss_max_mb": 102.0, "is_borne": True,
    }  # fmt: skip
    return LoadRecord(**{**values, **changes})


class UpTo(Bench):
    """Bears loads up to a number of streams."""

    def __init__(self, most):
        super().__init__(LoadConfig(), say=lambda text: None)
        self.most = most

    def measure(self, path, num_streams):
        return record(path, num_streams, is_borne=num_streams <= self.most)


@pytest.mark.parametrize(("most", "found"), [(0, 0), (1, 1), (5, 5), (8, 8), (37, 36), (100, 96), (131, 128)])
def test_the_most_streams_are_found_to_an_eighth(most, found):
    bench = UpTo(most)
    known = bench.measure("guarded", 8)
    records = [known, *bench.find_most(known)]
    assert max((each.streams for each in records if each.is_borne), default=0) == found
    assert len(records) == len({each.streams for each in records}) < 12


def test_the_report_says_what_the_guard_adds_and_what_the_load_took():
    records = [record("direct"), record("unguarded", p50_ms=1.0, first_p50_ms=10.0), record("guarded")]
    page = markdown(LoadConfig(), records)
    assert "At 8 streams the guard adds 4.0 ms to a token" in page
    assert "30.0 ms to the first text" in page
    assert "Most guarded streams sustained here: 8" in page
    assert "the cores it took were not there for the service" in page


def test_records_are_written_a_line_each(tmp_path):
    write_json_lines(tmp_path / "out.jsonl", LoadConfig(), [record(), record(streams=16)])
    first, *others = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert first["config"]["rate"] == 15.0
    assert [each["streams"] for each in others] == [8, 16]


def test_one_path_can_be_measured_alone():
    assert [each.path for each in UpTo(8).compare(4, ["guarded"])] == ["guarded"]


def test_a_search_without_a_guarded_load_to_go_on_from_is_refused(capsys):
    assert main(["bench-serve", "--find", "--path", "guarded", "--path", "direct"]) == 2
    assert "--find" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_all_paths(tmp_path, capsys):
    target = tmp_path / "out.jsonl"
    assert main(["bench-serve", "--streams", "2", "--seconds", "3", "--ramp", "1", "--json", str(target)]) == 0
    _, *records = map(json.loads, target.read_text().splitlines())
    assert [each["path"] for each in records] == ["direct", "unguarded", "guarded"]
    assert all(each["failed"] == each["stopped"] == 0 for each in records)
    assert records[2]["rss_start_mb"] > records[1]["rss_start_mb"] > 0
    assert "guarded" in capsys.readouterr().out
