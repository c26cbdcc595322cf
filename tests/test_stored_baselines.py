"""`stagebench baseline`, in a folder and in a store without locks, several writers at once, and docs/baselines.md."""

import json
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from stagebench.cli import main
from stagebench.core.errors import ResultsError, StagebenchError
from stagebench.core.machine import locks
from stagebench.core.places import place_of
from stagebench.gate import baseline, trend

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
HERE = {"device": "a CPU", "profile": "tiny", "dtype": "float32"}
ENVIRONMENT = baseline.folder_of(HERE)
ENCODE, DECODE = (f"benchmarks/test_stages.py::test_stage[eventgpt-{stage}]" for stage in ("encode", "decode"))


def a_run(day=1, encode=0.1, decode=0.2, work=1, **machine):
    counted = ((ENCODE, encode, work), (DECODE, decode, 1))
    return {
        "machine_info": HERE | machine,
        "commit_info": {"id": f"{day:040x}"},
        "datetime": f"2026-01-{day:02}T00:00:00+00:00",
        "benchmarks": [
            {
                "fullname": name,
                "stats": {"median": seconds, "rounds": 3},
                "extra_info": {"model": "eventgpt", "work": {"n": count}},
            }
            for name, seconds, count in counted
        ],
        "stagebench": {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []},
    }


@pytest.fixture(params=["folder", "file://", "memory://"])
def place(request, tmp_path):
    """Where baselines are, as it is given on a command line."""
    yield {"folder": str(tmp_path / "stored"), "file://": f"file://{tmp_path}/stored"}.get(
        request.param, "memory://team/b"
    )
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def store():
    yield place_of("memory://team/b")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def run(tmp_path):
    """Writes a run."""

    def write(name="out.json", **more):
        (tmp_path / name).write_text(json.dumps(a_run(**more)))
        return tmp_path / name

    return write


def invoke(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert (result.exit_code, code != 2 or len(result.stderr.splitlines()) == 1) == (code, True), result.output
    return result


def as_json(*arguments):
    return json.loads(invoke("baseline", *arguments, "--json", "-").stdout)


def accept(path, place, reason="first"):
    return invoke("baseline", "accept", path, "--reason", reason, "--baselines", place)


def test_a_baseline_is_listed_with_what_a_person_asks_first(run, place):
    accept(run(), place, "the first one")
    [listed] = as_json("list", "--baselines", place)["baselines"]
    assert {key: listed[key] for key in listed.keys() - {"when", "who"}} == {
        "environment": ENVIRONMENT,
        "machine": "a CPU",
        "models": "eventgpt",
        "benchmarks": 2,
        "commit": f"{1:040x}",
        "reason": "the first one",
    }
    shown = invoke("baseline", "list", "--baselines", place).stdout
    assert [word for word in (ENVIRONMENT, "eventgpt", "0" * 12, "the first one") if word not in shown] == []


def test_one_that_cannot_be_read_is_listed_with_the_reason(run, tmp_path):
    accept(run(), tmp_path / "stored")
    (tmp_path / "stored" / ENVIRONMENT / "baseline.json").write_text("{")
    [listed] = as_json("list", "--baselines", tmp_path / "stored")["baselines"]
    assert "must be JSON" in listed["reason"]


def test_a_baseline_is_shown_with_its_times_its_environment_and_its_history(run, place):
    accept(run(), place, "first")
    accept(run(encode=0.3), place, "second")
    shown = as_json("show", "tiny", "--baselines", place)
    assert [(each["benchmark"], each["median"]) for each in shown["times"]] == [(ENCODE, 0.3), (DECODE, 0.2)]
    assert (shown["identity"], [told["reason"] for told in shown["history"]]) == (HERE, ["second", "first"])
    assert "300.000" in invoke("baseline", "show", ENVIRONMENT, "--baselines", place).stdout


def test_a_difference_is_that_of_two_baselines_or_of_one_and_a_run(run, place):
    accept(run(), place)
    accept(run(encode=0.2, dtype="bfloat16"), place)
    two = as_json("diff", "float32", "bfloat16", "--baselines", place)
    assert two["differences"] == ["dtype: 'float32' here, 'bfloat16' there"]
    assert [(each["A"], each["B"], each["change"]) for each in two["times"]] == [(0.1, 0.2, 1.0), (0.2, 0.2, 0.0)]
    one = as_json("diff", ENVIRONMENT, run(encode=0.05, work=2), "--baselines", place)
    assert (one["differences"], [each["other"] for each in one["times"]]) == ([], ["work", ""])


def test_a_benchmark_of_one_side_alone_is_in_the_difference(run, tmp_path):
    whole = run()
    part = tmp_path / "part.json"
    part.write_text(json.dumps(a_run() | {"benchmarks": a_run()["benchmarks"][:1]}))
    assert [(each["A"], each["B"]) for each in as_json("diff", whole, part)["times"]] == [(0.1, 0.1), (0.2, None)]


def test_the_counters_of_benchmarks_of_no_model_are_in_the_difference_too(tmp_path):
    sides = [a_run(), a_run()]
    for count, side in enumerate(sides):
        side["benchmarks"][0]["extra_info"] = {"counters": {"steps": count}}
        (tmp_path / f"{count}.json").write_text(json.dumps(side))
    found = as_json("diff", tmp_path / "0.json", tmp_path / "1.json")["times"]
    assert [each["other"] for each in found] == ["counters", ""]


def test_a_dropped_baseline_is_none_and_the_next_one_remembers_why(run, place):
    accept(run(), place)
    invoke("baseline", "drop", "tiny", "--reason", "the machine is gone", "--baselines", place)
    there = place_of(place)
    assert (baseline.find(there, HERE), as_json("list", "--baselines", place)["baselines"]) == (None, [])
    assert baseline.closest(there, HERE).endswith("is empty")
    assert invoke("baseline", "list", "--baselines", place).stdout == f"no baseline in {place}\n"
    accept(run("part.json"), place, "it is back")
    told = as_json("show", "tiny", "--baselines", place)["history"]
    assert [(each["reason"], each.get("dropped")) for each in told] == [
        ("it is back", None),
        ("the machine is gone", True),
        ("first", None),
    ]


def test_of_a_folder_one_file_is_left_whatever_was_accepted_and_dropped(run, tmp_path):
    kept = tmp_path / "stored" / ENVIRONMENT
    for command, file in (("accept", "baseline.json"), ("drop", "dropped.json"), ("accept", "baseline.json")):
        what = run() if command == "accept" else "tiny"
        invoke("baseline", command, what, "--reason", "try", "--baselines", tmp_path / "stored")
        assert [path.name for path in kept.iterdir()] == [file]


def test_in_a_store_nothing_is_replaced_or_deleted(run, store):
    seen = {}
    for command in ("accept", "accept", "drop", "accept"):
        what = run() if command == "accept" else "tiny"
        invoke("baseline", command, what, "--reason", "try", "--baselines", store)
        now = {name: store.read([name]) for name in store.names("**/*.json")}
        assert (len(now), now | seen) == (len(seen) + 1, now)
        seen = now
    kinds = [re.sub("[0-9a-f]{16}", "DIGEST", name.split("/")[1]) for name in seen]
    assert kinds == [
        "000001-DIGEST.baseline.json",
        "000002-DIGEST.baseline.json",
        "000003-DIGEST.dropped.json",
        "000004-DIGEST.baseline.json",
    ]


def test_two_that_are_accepted_at_once_in_a_store_are_both_remembered(run, store, monkeypatch):
    both, honest = threading.Barrier(2), baseline._acceptance
    monkeypatch.setattr(baseline, "_acceptance", lambda *given: (both.wait(60) and None) or honest(*given))
    path = run()
    writers = [threading.Thread(target=baseline.accept, args=(path, store, reason)) for reason in "ab"]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    assert [name.split("/")[1][:7] for name in store.names("*/*.json")] == ["000001-"] * 2
    told = as_json("show", "tiny", "--baselines", store)["history"]
    assert sorted(each["reason"] for each in told) == ["a", "b"]
    monkeypatch.setattr(baseline, "_acceptance", honest)
    accept(path, store, "c")
    told = as_json("show", "tiny", "--baselines", store)["history"]
    assert (told[0]["reason"], sorted(each["reason"] for each in told[1:])) == ("c", ["a", "b"])


def test_one_that_comes_late_in_a_store_is_remembered_beside_what_did_not_see_it(run, store):
    for reason in ("first", "late"):
        accept(run(), place_of(f"memory://team/{reason}"), reason)
    first, late = (place_of(f"memory://team/{reason}") for reason in ("first", "late"))
    accept(run(), first, "second")
    [name] = late.names("*/*.json")
    [content] = late.read([name])
    first.write(name, content.decode())
    told = as_json("show", "tiny", "--baselines", first)["history"]
    assert (told[0]["reason"], sorted(each["reason"] for each in told[1:])) == ("second", ["first", "late"])


def test_an_earlier_one_of_a_store_that_cannot_be_read_is_in_nobodys_way_but_the_last_one_is(run, store):
    for reason in ("first", "second"):
        accept(run(), store, reason)
    store.write(store.names("*/*.json")[0], "{")
    accept(run(), store, "third")
    told = as_json("show", "tiny", "--baselines", store)["history"]
    assert [each["reason"] for each in told] == ["third", "second", "first"]
    store.write(store.names("*/*.json")[-1], "{")
    assert "must be JSON" in invoke("baseline", "accept", run(), "--reason=x", "--baselines", store, code=2).stderr


def test_processes_that_accept_into_one_folder_at_once_lose_nothing(run, tmp_path):
    line = [
        sys.executable,
        "-m",
        "stagebench",
        "baseline",
        "accept",
        str(run()),
        "--baselines",
        str(tmp_path / "stored"),
    ]
    writers = [subprocess.Popen([*line, "--reason", reason], stdout=subprocess.DEVNULL) for reason in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    told = as_json("show", "tiny", "--baselines", tmp_path / "stored")["history"]
    assert sorted(each["reason"] for each in told) == ["a", "b", "c", "d"]


def test_a_folder_on_a_file_system_without_locks_is_refused(run, tmp_path, monkeypatch):
    def no_locks(*given):
        raise OSError("no locks available")

    monkeypatch.setattr(locks, "_taken", no_locks)
    with pytest.raises(StagebenchError, match="a folder must be on a file system that has locks, got "):
        baseline.accept(run(), tmp_path / "stored", "try")


def test_what_a_store_refuses_is_one_line(run, store, monkeypatch):
    def refused(*given, **more):
        raise PermissionError("read only")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refused)
    result = invoke("baseline", "accept", run(), "--reason", "try", "--baselines", store, code=2)
    assert result.stderr == "stagebench: memory://team/b can't be written to: PermissionError: read only\n"


@pytest.mark.parametrize("url", ["nothing://team/b", "s3://team/b"])
@pytest.mark.parametrize("command", [("baseline", "list", "--baselines"), ("trend",)])
def test_a_url_without_what_reads_it_names_the_extra(url, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    said = invoke(*command, url, code=2).stderr
    assert said.startswith(
        f"stagebench: a URL needs the extra 'stores' and fsspec's file system for {url.partition(':')[0]}, got"
    )
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert "the extra 'stores'" in invoke(*command, url, code=2).stderr


def test_a_name_of_none_or_of_two_is_refused_with_those_there_are(run, place):
    accept(run(), place)
    accept(run(dtype="bfloat16"), place)
    both = ", ".join(sorted((ENVIRONMENT, baseline.folder_of(HERE | {"dtype": "bfloat16"}))))
    for command in (("show",), ("drop", "--reason=try"), ("diff", "float32")):
        for name in ("none", "tiny"):
            said = invoke("baseline", *command, name, "--baselines", place, code=2).stderr
            assert said.endswith(f"{both}, got {name!r}\n")


def test_a_trend_is_that_of_the_same_runs_in_a_store(tmp_path, store):
    for day in range(1, 20):
        (tmp_path / f"{day}.json").write_text(text := json.dumps(a_run(day, encode=0.1 if day < 10 else 0.2)))
        store.write(f"2026/{day}.json", text)
    here, there = (trend.read_history(place)[0] for place in (place_of(tmp_path), store))
    assert trend.series_of(here[0]) == trend.series_of(there[0])
    assert "test_stage[eventgpt-encode]: 100.00 to 200.00 ms" in invoke("trend", store).stdout


def test_what_is_dropped_by_two_is_refused_to_the_second(run, place):
    accept(run(), place)
    baseline.drop(place_of(place), ENVIRONMENT, "the first")
    with pytest.raises(ResultsError, match=f"a baseline must exist to be dropped, got none of {ENVIRONMENT} in"):
        baseline.drop(place_of(place), ENVIRONMENT, "the second")


def test_a_password_in_a_url_is_never_shown():
    assert str(place_of("memory://user:secret@team/b")) == "memory://team/b"


def test_a_file_of_a_store_that_is_gone_is_none(store):
    store.write("a/1.json", "{}")
    [found, gone] = store.read(["a/1.json", "a/2.json"])
    assert (found, isinstance(gone, ResultsError), str(gone).partition(" can't")[0]) == (
        b"{}",
        True,
        "the run memory://team/b/a/2.json",
    )


COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
]


def test_every_command_of_the_page_runs_in_its_order(run, tmp_path, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run()
    for day in (1, 2):
        for place in (place_of("history"), place_of("memory://team/history")):
            place.write(f"{day}.json", json.dumps(a_run(day)))
    typed = [shlex.split(command.replace("s3://", "memory://")) for command in COMMANDS]
    assert {words[0] for words in typed} == {"stagebench", "pytest"}  # the latter, of a store, is above
    for words in typed:
        if words[0] == "stagebench":
            invoke(*words[1:])


def test_the_page_says_how_many_acceptances_a_baseline_remembers():
    assert f"the last {baseline.HISTORY} acceptances" in TEXT
