import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagebench.core import json_files
from stagebench.core.errors import ResultsError, StagebenchError
from stagebench.core.machine.environment import differences
from stagebench.core.places import place_of
from stagebench.core.results import read_results
from stagebench.gate import baseline

ENCODE = "benchmarks/test_stages.py::test_stage[eventgpt-encode]"
DECODE = "benchmarks/test_stages.py::test_stage[eventgpt-decode]"
HERE = {"device": "NVIDIA H100", "profile": "7b", "dtype": "bfloat16", "torch": "2.11.0"}


def a_run(**own):
    return {
        "machine_info": HERE,
        "commit_info": {"id": "abc"},
        "benchmarks": [{"fullname": ENCODE, "stats": {"median": 0.1}, "extra_info": {"work": {"tower_forwards": 1}}}],
        "stagebench": {"schema": 1, "failed": 0, "exit_status": 0, "regressed": [], "order_seed": 0} | own,
    }


def write(path, run):
    path.write_text(json.dumps(run))
    return path


def test_an_environment_has_a_readable_folder(tmp_path):
    assert baseline.folder_of(HERE).startswith("nvidia-h100-7b-bfloat16-")


@pytest.mark.parametrize("key", sorted(HERE))
def test_any_difference_gives_another_folder(tmp_path, key):
    assert baseline.folder_of(HERE) != baseline.folder_of(HERE | {key: "other"})


def test_an_accepted_run_is_found_again_with_its_reason(tmp_path):
    stored = baseline.accept(write(tmp_path / "out.json", a_run()), tmp_path / "baselines", "the first one")
    place = place_of(tmp_path / "baselines")
    assert place.where(baseline.find(place, HERE)) == stored
    accepted = read_results(stored)["stagebench"]["accepted"]
    assert (accepted["reason"], accepted["replaces"]) == ("the first one", None)


def test_a_replaced_baseline_is_named_in_the_new_one(tmp_path):
    stored = baseline.accept(write(tmp_path / "out.json", a_run()), tmp_path / "baselines", "first")
    digest = hashlib.sha256(stored.read_bytes()).hexdigest()
    baseline.accept(write(tmp_path / "out.json", a_run()), tmp_path / "baselines", "second")
    assert read_results(stored)["stagebench"]["accepted"]["replaces"] == {"commit": "abc", "sha256": digest}


def accepted_in_turn(tmp_path, reasons):
    for reason in reasons:
        run = a_run() | {"commit_info": {"id": f"commit of {reason}"}}
        stored = baseline.accept(write(tmp_path / "out.json", run), tmp_path / "baselines", reason)
    return read_results(stored)["stagebench"]["accepted"]


def test_a_baseline_remembers_those_before_it_the_latest_first(tmp_path):
    accepted = accepted_in_turn(tmp_path, ["first", "second", "third"])
    assert (accepted["reason"], accepted["commit"]) == ("third", "commit of third")
    assert [(a["reason"], a["commit"]) for a in accepted["history"]] == [
        ("second", "commit of second"),
        ("first", "commit of first"),
    ]


def test_the_memory_is_short(tmp_path):
    accepted = accepted_in_turn(tmp_path, map(str, range(baseline.HISTORY + 3)))
    assert [a["reason"] for a in accepted["history"]] == [str(n) for n in range(baseline.HISTORY + 1, 1, -1)]


def test_who_accepted_it_is_kept(tmp_path, monkeypatch):
    for key, value in {"COUNT": "1", "KEY_0": "user.name", "VALUE_0": "Ada Lovelace"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{key}", value)
    accepted = accepted_in_turn(tmp_path, ["first", "second"])
    assert (accepted["who"], accepted["history"][0]["who"]) == ("Ada Lovelace", "Ada Lovelace")


def test_without_git_it_is_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("LOGNAME", "ada")
    assert accepted_in_turn(tmp_path, ["first"])["who"] == "ada"


def test_there_is_no_baseline_of_another_environment(tmp_path):
    baseline.accept(write(tmp_path / "out.json", a_run()), tmp_path, "the first one")
    assert baseline.find(place_of(tmp_path), HERE | {"dtype": "float32"}) is None


def test_a_run_with_failures_does_not_become_a_baseline(tmp_path):
    with pytest.raises(ResultsError, match="only if nothing failed, got 2 failures"):
        baseline.accept(write(tmp_path / "out.json", a_run(failed=2)), tmp_path / "baselines", "try")
    assert not (tmp_path / "baselines").exists()


def test_an_empty_run_does_not_become_a_baseline(tmp_path):
    with pytest.raises(ResultsError, match="at least one benchmark, got none"):
        baseline.accept(write(tmp_path / "out.json", a_run() | {"benchmarks": []}), tmp_path / "baselines", "try")


def test_a_comparison_across_environments_names_every_key():
    other = HERE | {"device": "NVIDIA A100", "torch": "2.10.0"}
    assert differences(HERE, other) == [
        "device: 'NVIDIA H100' here, 'NVIDIA A100' there",
        "torch: '2.11.0' here, '2.10.0' there",
    ]


def test_a_key_that_one_side_lacks_is_a_difference():
    there = {key: value for key, value in HERE.items() if key != "torch"}
    assert differences(HERE, there) == ["torch: '2.11.0' here, 'absent' there"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "out.json"
    json_files.write_json(path, {"kept": True})
    with pytest.raises(TypeError):
        json_files.write_json(path, {"unwritable": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    assert json.loads(path.read_text()) == {"kept": True}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"exit_status": 2}, "pytest's exit status 2"),
        ({"regressed": [ENCODE]}, "a regressed run can't become a baseline"),
    ],
)
def test_an_interrupted_or_regressed_run_does_not_become_a_baseline(tmp_path, own, message):
    with pytest.raises(ResultsError, match=message):
        baseline.accept(write(tmp_path / "out.json", a_run(**own)), tmp_path / "baselines", "try")


def test_a_blank_reason_is_refused(tmp_path):
    with pytest.raises(ResultsError, match="a baseline needs a reason, got ' '"):
        baseline.accept(write(tmp_path / "out.json", a_run()), tmp_path / "baselines", " ")


def test_a_run_with_fewer_benchmarks_replaces_a_baseline_only_when_asked_to(tmp_path):
    both = a_run()
    both["benchmarks"] = [*both["benchmarks"], {"fullname": DECODE, "stats": {"median": 0.1}}]
    baseline.accept(write(tmp_path / "both.json", both), tmp_path, "both")
    one = write(tmp_path / "one.json", a_run())
    with pytest.raises(ResultsError, match=r"must hold all benchmarks of the baseline it replaces.*eventgpt-decode"):
        baseline.accept(one, tmp_path, "one")
    assert len(read_results(baseline.accept(one, tmp_path, "one", partial=True))["benchmarks"]) == 1


def test_an_unknown_value_equals_nothing():
    assert differences({"driver": "unknown"}, {"driver": "unknown"}) == ["driver: 'unknown' here, 'unknown' there"]


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StagebenchError, match="can't write"):
        json_files.write_json(tmp_path / "file" / "out.json", {})


def test_two_acceptances_at_once_lose_no_history(tmp_path, monkeypatch):
    slowly = baseline._acceptance
    monkeypatch.setattr(baseline, "_acceptance", lambda *given: time.sleep(0.05) or slowly(*given))
    path = write(tmp_path / "out.json", a_run())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda reason: baseline.accept(path, tmp_path / "baselines", reason), "abcd"))
    _, [stored] = baseline.latest(place_of(tmp_path / "baselines"), baseline.folder_of(HERE))
    assert sorted(told["reason"] for told in baseline.history([stored])) == ["a", "b", "c", "d"]


def test_a_run_that_did_not_come_to_its_end_does_not_become_a_baseline(tmp_path):
    with pytest.raises(ResultsError, match="only if it is complete, got an interrupted one in"):
        baseline.accept(write(tmp_path / "out.json", a_run(complete=False)), tmp_path / "baselines", "try")


def test_a_place_for_baselines_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StagebenchError, match="can't write to"):
        baseline.accept(write(tmp_path / "out.json", a_run()), tmp_path / "file", "try")
