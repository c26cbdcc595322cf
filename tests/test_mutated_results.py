"""Two thousand damaged files through every command that reads one: an answer or one line, never a traceback.

An error is exit code 2; 1 is a verdict, which a changed number may rightly be.
"""

import json
import random
from contextlib import suppress

import numpy as np
import pytest
from click.testing import CliRunner
from foreign_results import TYPED, ran, served, summary
from made_up_analysis import rows as sample_rows
from made_up_analysis import run as analysis_run
from mutations import mutants

from stagebench.analysis.report.document import to_markdown
from stagebench.analysis.report.report_data import report_data
from stagebench.analysis.report.sections import sections
from stagebench.analysis.samples import SAMPLES_FILE, open_log, read_run, read_samples
from stagebench.cli import main
from stagebench.cli.bench import _report
from stagebench.cli.doctor import comparable_with
from stagebench.core import checks, json_files
from stagebench.core.checks import LONGEST_TEXT, fits
from stagebench.core.errors import ResultsError, StagebenchError
from stagebench.core.json_files import parse_json, write_json
from stagebench.core.places import place_of
from stagebench.core.results import Results, read_results, require_sound, validate
from stagebench.gate.baseline import folder_of
from stagebench.gate.runner.fresh_process import Variant
from stagebench.gate.runner.recording import Recording, combine

HERE = {"device": "a CPU", "cpu": "a CPU", "profile": "tiny", "dtype": "float32"}
STAGES = ("load", "preprocess", "encode", "prefill", "decode")


def benchmark(name, median, **info):
    data = [0.9 * median, median, 1.1 * median]
    times = {"min": data[0], "median": median, "mean": median, "max": data[2], "total": 3 * median, "data": data}
    spreads = {"q1": 0.95 * median, "q3": 1.05 * median, "stddev": 0.1 * median, "rounds": 3, "iterations": 1}
    return {"name": name, "fullname": f"benchmarks/test_x.py::{name}", "stats": times | spreads, "extra_info": info}


def a_run(factor=1.0, day=1, **more):
    """A run with all that one can hold; `more` is noted with every benchmark."""
    of_stage = {
        "work": {"flops": 10**9, "images": 5},
        "content": {"tokens": "0123456789abcdef"},
        "device_seconds": [0.1, 0.2, 0.3],
        "device_median": 0.2,
        "setup": {"seconds": 1.5, "bytes": 3, "captures": 1},
        "stages": {"decode": "graph"},
        "gpu": {"joules": 1.0, "disturbed_rounds": []},
        "bytes": {"weights": 100},
        "gate": {"threshold": 0.2, "floor": "20us"},
    }
    whole = {"work": {"decode": {"steps": 7}, "load": {"images": 1}}, "content": {"encode": {"features": [0.5]}}}
    about = {"backend": "eager", "new_tokens": 8, "unit": "images", "units": 7, **more}
    stages = [
        benchmark(f"test_stage[{m}-{stage}]", 0.01 * i * factor, model=m, stage=stage, **of_stage, **about)
        for m in ("a", "b")
        for i, stage in enumerate(STAGES, 1)
    ]
    rates = {"flops": 10**12, "bandwidth": 10**10}
    others = [
        benchmark("test_e2e[a]", 0.15 * factor, model="a", new_tokens=8, text="x", **whole, **more),
        *(benchmark(f"test_ceiling[{k}]", 0.1, ceiling=k, work={"amount": v}, **more) for k, v in rates.items()),
    ]
    recording = {"rounds": 2, "select": "", "arguments": ["--x"], "code": "c", "process": 0, "seconds": 3.5}
    accepted = {"who": "w", "when": "2026", "reason": "r", "commit": "c", "replaces": None, "history": [{"who": "v"}]}
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": [], "times_only": False, "turns": 0}
    return {
        "machine_info": HERE,
        "commit_info": {"id": f"{day:040x}", "dirty": False},
        "datetime": f"2026-01-{day:02}T00:00:00+00:00",
        "benchmarks": [*stages, *others],
        "stagebench": own | {"recording": recording | {"processes": 3, "left_out": []}, "accepted": accepted},
    }


@pytest.fixture
def written(tmp_path):
    """Writes a file."""

    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return path

    return write


def invoke(*arguments):
    """Runs a command; an exception, an error of more than a line, or 1 for an error is a failure."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert isinstance(result.exception, SystemExit | None), (result.exception, result.exc_info)
    assert result.exit_code != 2 or len(result.stderr.splitlines()) <= 1
    return result


@pytest.mark.parametrize("processes", [{}, {"processes": 3}], ids=["run", "recording"])
@pytest.mark.parametrize("side", ["base", "head"])
def test_compare_answers_or_refuses(written, side, processes):
    whole = written("whole.json", a_run(**processes))
    for mutant in mutants(a_run(**processes), f"{side} {processes}", 100):
        wrong = written("wrong.json", mutant)
        out = written("out.json", b"null")
        result = invoke("compare", *((wrong, whole) if side == "base" else (whole, wrong)), "--json", out)
        decided = json.loads(out.read_text())
        assert result.exit_code != 1 or decided["exit_code"] == 1


@pytest.mark.parametrize(
    ("whole", "name"),
    [
        (a_run(), "run.json"),
        (TYPED, "table.json"),
        (served(), "details.json"),
        (summary(), "summary.json"),
        ([summary(), summary(model_id="other")], "list.json"),
        (ran(), "passes.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attribute_answers_or_refuses(written, whole, name):
    other = written("whole.json", served(model_id="o") if "model_id" in whole else whole)
    for mutant in mutants(whole, name, 120):
        assert invoke("explain", written(name, mutant), other).exit_code in (0, 2)


def test_attribute_answers_or_refuses_lines_of_samples(written):
    whole = sample_rows()[:8]
    lines = "\n".join(map(json.dumps, whole))
    draw = random.Random(0)
    for mutant in mutants(whole[0], "lines", 120):
        kept = lines.splitlines()
        kept[draw.randrange(len(kept))] = mutant.decode(errors="surrogateescape")
        path = written("samples.jsonl", "\n".join(kept).encode(errors="surrogateescape"))
        assert invoke("explain", path).exit_code in (0, 2)


def test_accept_takes_or_refuses(written, tmp_path):
    for mutant in mutants(a_run(), "accepted", 120):
        where = written("runs/run.json", mutant)
        assert invoke("baseline", "accept", where, "--reason=x", "--baselines", tmp_path / "stored").exit_code in (0, 2)


def test_accept_replaces_or_refuses_what_is_damaged(written, tmp_path):
    whole = written("run.json", a_run())
    stored = folder_of(HERE)
    for mutant in mutants(a_run(), "replaced", 120):
        written(f"{stored}/baseline.json", mutant)
        assert invoke("baseline", "accept", whole, "--reason=x", "--baselines", tmp_path).exit_code in (0, 2)


def test_a_comparison_of_pytest_reads_or_refuses(written):
    for mutant in mutants(a_run(), "compared", 300):
        path = written("run.json", mutant)
        with suppress(StagebenchError):
            assert require_sound(read_results(path), str(path))["benchmarks"]


WHOLE = json.dumps(a_run()).encode()
EDGES = [
    WHOLE,
    WHOLE.replace(b'"units": 7', b'"units": ' + b"7" * 31),  # more digits than any count has
    WHOLE.replace(b'"units": 7', b'"units": ' + b"7" * 30),
    WHOLE.replace(b'"units": 7', b'"units": 18446744073709551616'),  # more than 64 bits
    WHOLE.replace(b'"units": 7', b'"units": 7.0'),
    WHOLE.replace(b'"joules": 1.0', b'"joules": 1e999'),
    WHOLE.replace(b'"joules": 1.0', b'"joules": 1000000000000000001'),
    WHOLE.replace(b'"text": "x"', b'"text": "x", "text": "y"'),
    WHOLE.replace(b'"text": "x"', rb'"text": "\u003a", "text": "y"'),  # a colon that makes up for a lost one
    WHOLE.replace(b'"text": "x"', rb'"text": "\ud800"'),
    WHOLE.replace(b'"text": "x"', b'"text": "\xff"'),
    WHOLE.replace(b'"text": "x"', b'"text": "' + b"x" * (LONGEST_TEXT + 1) + b'"'),
    WHOLE.replace(b'"joules": 1.0', b'"joules": ' + b"[" * 60 + b"]" * 60),
    WHOLE.replace(b'"joules": 1.0', b'"joules": ' + b"[" * 61 + b"]" * 61),
    WHOLE.replace(b'"joules": 1.0', b'"joules": ' + b"[" * 62 + b"]" * 62),
    b"\xef\xbb\xbf" + WHOLE,
]


def read_as(data):
    try:
        return repr(validate(parse_json(data), "a run"))
    except (ResultsError, ValueError) as error:
        return repr(error)


def test_the_quick_way_to_read_runs_takes_and_refuses_what_the_other_does(monkeypatch):
    pytest.importorskip("msgspec", reason="the extra 'trend' is another way to read, not another result")
    made = [*EDGES, *mutants(a_run(), "quick", 1500)]
    assert fits(json_files._parsed_quickly(WHOLE), Results)
    quick = list(map(read_as, made))
    monkeypatch.setattr(json_files, "msgspec", None)
    monkeypatch.setattr(checks, "msgspec", None)
    assert quick == list(map(read_as, made))


def test_doctor_says_which_baselines_it_can_not_read(written, tmp_path):
    for mutant in mutants(a_run(), "doctor", 30):
        written("stored/a/baseline.json", mutant)
        assert list(comparable_with(place_of(tmp_path / "stored"))) == ["a"]


def test_record_goes_on_or_refuses(written, tmp_path):
    plan = {"rounds": 2, "select": "", "arguments": ["--x"], "code": "c"}
    recording = Recording(tmp_path / "processes", Variant("", tmp_path, tmp_path), plan)
    for place, mutant in enumerate(mutants(a_run(), "recorded", 120)):
        for number in range(3):
            written(f"processes/0{number}.json", mutant if number == place % 2 else a_run())
        with suppress(StagebenchError):
            _report(tmp_path, combine(recording.kept(2)), None)


def test_trend_looks_on_or_leaves_out(written, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.01, 12)
    for day, each in enumerate(noise, 1):
        written(f"{day:02}.json", a_run(float(np.exp(each)), day))
    for mutant in mutants(a_run(day=20), "trend", 25):
        written("99.json", mutant)
        assert invoke("trend", tmp_path, "--json", tmp_path / "out.txt").exit_code == 0


@pytest.mark.parametrize("broken", ["run", "samples"])
def test_the_report_of_an_analysis_is_made_or_refused(written, tmp_path, broken):
    lines = [json.dumps(each) for each in sample_rows()]
    draw = random.Random(0)
    for mutant in mutants(analysis_run() if broken == "run" else sample_rows()[0], broken, 60):
        whole = list(lines)
        if broken == "samples":
            whole[draw.randrange(len(whole))] = mutant.decode(errors="surrogateescape")
        written("samples.jsonl", ("\n".join(whole) + "\n").encode(errors="surrogateescape"))
        written("run.json", mutant if broken == "run" else analysis_run())
        with suppress(StagebenchError):
            run, rows = read_run(tmp_path), read_samples(tmp_path / SAMPLES_FILE)
            found = report_data(run, rows)
            write_json(tmp_path / "report.json", found)
            assert to_markdown("x", sections(found, rows))


def test_a_log_is_taken_up_or_refused(written, tmp_path):
    lines = [json.dumps(each) for each in sample_rows()[:6]]
    for mutant in mutants(sample_rows()[0], "log", 120):
        written("run.json", analysis_run())
        written("samples.jsonl", b"\n".join([*map(str.encode, lines), mutant]) + b"\n")
        with suppress(StagebenchError), open_log(tmp_path, analysis_run()["identity"], {}) as log:
            assert log.lines
