"""Reading runs and baselines: what is none is refused in one line, whatever is wrong with it."""

import json
import re
from pathlib import Path

import pytest

from stagebench.core.errors import ResultsError
from stagebench.core.json_files import json_text, parse_json
from stagebench.core.results import SCHEMAS, read_results, require_sound
from stagebench.gate.decide import processes_of

ROOT = Path(__file__).parents[1]
BASELINES = [*ROOT.glob("baselines/*/baseline.json")]
STORED = [*BASELINES, *ROOT.glob("docs/results/*/results.json")]
ENCODE = "benchmarks/test_stages.py::test_stage[eventgpt-encode]"
HERE = {"device": "NVIDIA H100", "profile": "7b", "dtype": "bfloat16"}
STATS = {"min": 0.1, "max": 0.3, "mean": 0.2, "median": 0.2, "q1": 0.15, "q3": 0.25, "rounds": 3, "stddev": 0.1}
INFO = {"model": "eventgpt", "stage": "encode", "work": {"tower_forwards": 1}}


def a_run(stats=None, info=None, **own):
    return {
        "machine_info": HERE,
        "commit_info": {"id": "abc", "dirty": False},
        "datetime": "2026-01-02T00:00:00",
        "benchmarks": [
            {
                "fullname": ENCODE,
                "stats": STATS | {"data": [0.1, 0.2, 0.3]} | (stats or {}),
                "extra_info": INFO | (info or {}),
            }
        ],
        "stagebench": {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []} | own,
    }


@pytest.fixture
def read(tmp_path):
    """Reads a run from a file; text as it stands."""

    def from_file(run, by=read_results):
        path = tmp_path / "out.json"
        path.write_bytes(run if isinstance(run, bytes) else json.dumps(run).encode())
        return by(path)

    return from_file


@pytest.fixture
def complaint(read):
    """What reading a run says, without the name of the file."""

    def of(run, by=read_results):
        with pytest.raises(ResultsError) as caught:
            read(run, by)
        first, _, rest = str(caught.value).partition("out.json")
        assert (first.startswith("the run "), "\n" in rest) == (True, False)
        return rest.removeprefix(": ").removeprefix(f"{ENCODE}: ").strip()

    return of


def test_a_run_reads_as_it_was_written(read):
    assert read(a_run()) == a_run()


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_every_stored_result_reads_as_it_was_written(path):
    assert require_sound(read_results(path), str(path)) == json.loads(path.read_text())


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.parent.name)
def test_a_baseline_would_be_written_as_it_is_stored(path):
    assert json_text(read_results(path)) == path.read_text(encoding="utf-8")


def test_a_missing_run_is_refused(tmp_path):
    with pytest.raises(ResultsError, match=r"can't read the run .*out\.json: No such file"):
        read_results(tmp_path / "out.json")


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ([], "must be written by stagebench's pytest plugin, got none of its keys"),
        ({"machine_info": {}}, "must be written by stagebench's pytest plugin, got none of its keys"),
        (a_run(schema=2), "must have schema 1, got 2"),
        (a_run(schema=True), "must have schema 1, got True"),
        (
            a_run() | {"stagebench": {"schema": 1}},
            "regressed, got no failed, exit_status, regressed",
        ),
        (a_run(failed=False), "stagebench: failed must be a whole number of at least 0, got False"),
        (a_run(exit_status="0"), "stagebench: exit_status must be a whole number, got '0'"),
        (a_run(regressed=[1]), "stagebench: regressed: 0 must be a text of at most 100000 characters, got 1"),
        (a_run(turns=-1), "stagebench: turns must be a whole number of at least 0, got -1"),
        (a_run(recording={"rounds": 0}), "recording: rounds must be a whole number above 0, got 0"),
        (a_run(accepted={"history": [3]}), "accepted: history: 0 must be an object, got 3"),
        (a_run() | {"commit_info": {"id": 7}}, "commit_info: id must be a text of at most 100000 characters or null"),
        (a_run() | {"datetime": 3}, "datetime must be a text of at most 100000 characters, got 3"),
        (
            a_run() | {"machine_info": {}},
            "machine_info must have device, profile, dtype, got no device, profile, dtype",
        ),
        (
            a_run() | {"machine_info": HERE | {"device": 1}},
            "machine_info: device must be a text of at most 100000 characters, got 1",
        ),
        (a_run() | {"benchmarks": None}, "benchmarks must be a list, got None"),
        (a_run() | {"benchmarks": [{}]}, "benchmark 0 must have fullname, stats, got no fullname, stats"),
        (a_run() | {"benchmarks": [{"fullname": ENCODE}]}, "must have fullname, stats, got no stats"),
        (a_run() | {"benchmarks": a_run()["benchmarks"] * 2}, f"must hold every benchmark once, got {ENCODE} more"),
    ],
)
def test_what_is_no_run_of_this_version_is_refused(complaint, run, expected):
    assert expected in complaint(run)


@pytest.mark.parametrize("median", [None, True, "0.2", 0, 0.0, -0.2, [0.2], {}])
@pytest.mark.parametrize("key", ["median", "min", "mean", "q3"])
def test_a_time_that_is_none_is_refused(complaint, key, median):
    assert complaint(a_run({key: median})).startswith(f"stats: {key} must be a finite number above 0, got ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400, "1" + "0" * 5000])
@pytest.mark.parametrize("place", ["0.2", '"failed": 0'])
def test_a_number_that_no_float_holds_is_refused_wherever_it_stands(complaint, place, number):
    text = json.dumps(a_run()).replace(place, place.replace("0.2", number).replace(" 0", f" {number}"), 1)
    assert complaint(text.encode()).startswith("must be JSON, got: ")


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ({"median": 0.05}, "q1 must be at most median, got 0.15 and 0.05"),
        ({"median": 0.21}, "median must be that of its data, 0.2, got 0.21"),
        ({"q1": 0.25, "q3": 0.15}, "q1 must be at most median, got 0.25 and 0.2"),
        ({"mean": 0.31}, "mean must be at most max, got 0.31 and 0.3"),
        ({"rounds": 4}, "rounds must be that of its data, 3, got 4"),
        ({"rounds": 3.0}, "stats: rounds must be a whole number above 0, got 3.0"),
        ({"stddev": -1}, "stats: stddev must be a finite number of at least 0, got -1"),
        ({"data": [0.1, 0.2, -0.3]}, "stats: data: 2 must be a finite number above 0, got -0.3"),
        ({"data": 3}, "stats: data must be a list or null, got 3"),
    ],
)
def test_statistics_that_contradict_each_other_are_refused(complaint, stats, expected):
    assert complaint(a_run(stats)).startswith(expected)


def test_statistics_may_differ_by_rounding(read):
    assert read(a_run({"median": 0.2 * (1 + 1e-12)}))


def test_statistics_without_the_times_of_the_rounds_are_enough(read):
    assert read(a_run({"data": None}))


@pytest.mark.parametrize("work", [*({"flops": n} for n in (-1, 1.5, "8", True)), {"load": {"images": None}}, [1]])
def test_counters_that_count_nothing_are_refused(complaint, work):
    assert complaint(a_run(info={"work": work})).startswith("extra_info: work")


@pytest.mark.parametrize("content", [3, {"frames": 3}, {"encode": {"features": [None]}}, {"a": {"b": {"c": "d"}}}])
def test_digests_that_are_none_are_refused(complaint, content):
    assert complaint(a_run(info={"content": content})).startswith("extra_info: content")


@pytest.mark.parametrize("content", [{"frames": "0123abcd"}, {"encode": {"features": [0.5, -1]}, "load": {}}])
def test_digests_read_as_they_were_written(read, content):
    assert read(a_run(info={"content": content}))["benchmarks"][0]["extra_info"]["content"] == content


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"model": 3}, "model must be a text of at most 100000 characters, got 3"),
        ({"new_tokens": 1.5}, "new_tokens must be a whole number of at least 0, got 1.5"),
        ({"processes": 0}, "processes must be a whole number above 0, got 0"),
        ({"setup": {"seconds": 1}}, "setup must have seconds, bytes, captures, got no bytes, captures"),
    ],
)
def test_what_a_benchmark_notes_is_of_its_kind(complaint, info, expected):
    assert complaint(a_run(info=info)).startswith(f"extra_info: {expected}")


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (a_run() | {"benchmarks": []}, "must hold at least one benchmark, got none"),
        (a_run(failed=2), "must be one in which nothing failed, got 2 failures and pytest's exit status 0"),
        (a_run(exit_status=3), "must be one in which nothing failed, got 0 failures and pytest's exit status 3"),
    ],
)
def test_nothing_is_held_against_a_run_that_failed_or_is_empty(read, complaint, run, expected):
    def read_sound(path):
        return require_sound(read_results(path), f"the run {path}")

    assert (read(run), complaint(run, read_sound)) == (run, expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b'{"a": 1, "a": 2}', "the key 'a' twice in one object"),
        (b"[" * 70 + b"]" * 70, "more than 64 levels"),
        (b"[" * 100_000, "more than 64 levels"),
        (rb'{"a": "\ud800"}', "surrogates not allowed"),
        (rb'{"\udfff": 1}', "surrogates not allowed"),
        (b"[NaN]", "NaN, which is no finite number"),
        (b"[1e999]", "1e999, which is no finite number"),
    ],
)
def test_json_that_not_every_program_reads_alike_is_refused(data, expected):
    with pytest.raises(ValueError, match=expected):
        parse_json(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"\xef\xbb\xbf[1]", [1]), (rb'"\ud83d\ude00"', "\N{GRINNING FACE}"), (b"[" * 60 + b"]" * 60, None), (b"3", 3)],
)
def test_other_json_is_read(data, expected):
    assert expected in (None, parse_json(data))


def test_a_recording_is_as_many_processes_as_it_has_times(read):
    run = read(a_run(info={"processes": 3}))
    assert [p["benchmarks"][0]["stats"] for p in processes_of(run)] == [{"median": t} for t in (0.1, 0.2, 0.3)]


def test_what_is_written_is_of_one_of_five_schemas():
    sources = [path for folder in ("src", "benchmarks") for path in ROOT.glob(f"{folder}/**/*.py")]
    written = {path.stem: re.findall(r'versioned\(\s*"(\w+)"', path.read_text(encoding="utf-8")) for path in sources}
    assert set(SCHEMAS) == {"results", *(schema for schemas in written.values() for schema in schemas)}
    assert len(SCHEMAS) == 5
