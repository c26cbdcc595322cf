"""The page of a history: what is in it, what it asks nobody for, and how large it gets. A browser runs its script."""

import hashlib
import json
import re
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.core.places import place_of
from stagebench.core.stages import ENCODE
from stagebench.gate import trend_page
from stagebench.gate.trend import Run, read_history, series_of
from stagebench.gate.verdicts import Decision, Verdict

ROOT = Path(__file__).parents[1]
HERE = {"device": "CPU", "profile": "tiny", "dtype": "float32"}
NAMES = {stage: f"benchmarks/test_stages.py::test_stage[eventgpt-{stage}]" for stage in ("encode", "decode")}


def a_run(day, stages=("encode", "decode"), ratio=1.0, **machine):
    return {
        "stagebench": {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []},
        "machine_info": HERE | machine,
        "commit_info": {"id": f"{day:040x}", "dirty": day == 3},
        "datetime": (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)).isoformat(),
        "benchmarks": [
            {
                "fullname": NAMES[stage],
                "stats": {"median": 0.0123456 * ratio * (1 + day % 3 / 1000)},
                "extra_info": {"model": "eventgpt", "stage": stage},
            }
            for stage in stages
        ],
    }


@pytest.fixture
def history(tmp_path, monkeypatch):
    """Twenty runs of two stages, which become a tenth slower with the eleventh, in a folder of no repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return write(tmp_path / "history", *(a_run(day, ratio=1.1 if day >= 10 else 1.0) for day in range(20)))


def write(folder, *runs):
    folder.mkdir()
    for i, run in enumerate(runs):
        (folder / f"{i:03}.json").write_text(json.dumps(run))
    return folder


def page_of(folder, *arguments):
    done = CliRunner().invoke(main, ["trend", str(folder), "--html", "page.html", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return Path("page.html").read_text(encoding="utf-8")


def data_of(page):
    return json.loads(re.search(r'(?m)^<script type="application/json" id="data">(.*)</script>$', page)[1])


def test_the_medians_of_all_runs_are_there_with_four_digits(history):
    [environment] = data_of(page_of(history))["environments"]
    [encode, _] = environment["series"]
    assert encode["ms"] == [float(f"{12.3456 * (1.1 if d >= 10 else 1) * (1 + d % 3 / 1000):.4g}") for d in range(20)]
    assert (len(environment["when"]), environment["commit"][7], environment["dirty"]) == (20, "0" * 12, [3])


def test_changes_are_where_trend_finds_them(history):
    [environment] = data_of(page_of(history))["environments"]
    of_trend = [series.changes for series in series_of(read_history(place_of(history))[0][0])]
    drawn = [series["changes"] for series in environment["series"]]
    assert [[each["ratio"] for each in changes] for changes in drawn] == [[c.ratio for c in each] for each in of_trend]
    assert [[each["at"] for each in changes] for changes in drawn] == [[10], [10]]


def test_a_benchmark_has_its_model_its_stage_and_the_colour_of_that(history):
    [environment] = data_of(page_of(history))["environments"]
    encode = environment["series"][0]
    assert [encode[key] for key in ("model", "stage", "color")] == ["eventgpt", "encode", ENCODE.color]


def test_one_that_is_no_more_and_one_that_is_new_have_gaps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "history", a_run(1, ["encode"]), a_run(2), a_run(3, ["decode"]))
    [environment] = data_of(page_of(folder))["environments"]
    found = {each["stage"]: [value is None for value in each["ms"]] for each in environment["series"]}
    assert found == {"encode": [False, False, True], "decode": [True, False, False]}


def test_environments_of_one_name_are_told_apart_by_what_differs_the_newest_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = {"profile": "7b"}
    folder = write(tmp_path / "history", a_run(1, torch="2.9"), a_run(2, torch="2.13"), a_run(3, **other))
    assert [each["label"] for each in data_of(page_of(folder))["environments"]] == [
        "CPU, 7b, float32",
        "CPU, tiny, float32 (torch 2.13)",
        "CPU, tiny, float32 (torch 2.9)",
    ]


def test_the_page_asks_nobody_for_anything(history):
    page = page_of(history)
    assert re.findall(r"https?://|@import|url\(|\bsrc=|<link", page) == []
    script = re.search(r"(?s)<script>(.*?)</script>", page)[1]
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://github.com/team/project.git", ("github.com", "team/project")),
        ("https://user:secret@github.com/team/project", ("github.com", "team/project")),
        ("git@github.com:team/project.git", ("github.com", "team/project")),
        ("ssh://git@github.com:22/team/project.git", ("github.com", "team/project")),
        ("https://gitlab.com/group/sub/project/", ("gitlab.com", "group/sub/project")),
        ("https://git.example.org/team/project.git", None),
        ("https://github.com.example.org/team/project", None),
        ("https://github.com/team/<script>", None),
        ("/a/folder", None),
        (None, None),
    ],
)
def test_a_repository_is_known_by_its_remote(tmp_path, monkeypatch, url, found):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(int(bool(url))))
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "remote.origin.url")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", url or "")
    assert trend_page.repository_of(tmp_path) == found


@pytest.mark.parametrize(
    ("host", "commits"),
    [
        ("github.com", "https://github.com/team/project/commit/"),
        ("gitlab.com", "https://gitlab.com/team/project/-/commit/"),
        ("bitbucket.org", "https://bitbucket.org/team/project/commits/"),
    ],
)
def test_commits_lead_to_where_their_host_has_them(history, monkeypatch, host, commits):
    monkeypatch.setattr(trend_page, "repository_of", lambda folder: (host, "team/project"))
    page = page_of(history)
    assert (data_of(page)["commits"], "History of benchmarks of team/project</h1>" in page) == (commits, True)


def test_only_the_id_of_a_commit_is_a_link(history):
    assert "if (!/^[0-9a-f]{7,64}$/.test(id)) return element(" in page_of(history)


def decided(path, verdict):
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(Decision([Verdict("t.py::it", "counter", verdict, "", 2)]).as_json()))
    return path


def test_verdicts_that_are_given_are_shown(history):
    page = page_of(history, "--verdicts", decided(history.parent / "gate" / "gate.json", "regression"))
    assert ("stagebench gate: regression (1 regression)" in page, "<details open>" in page) == (True, True)


def test_else_those_of_the_last_gate_here_are(history):
    for name, verdict in (("20260101-000000", "regression"), ("20260102-000000", "pass")):
        decided(history.parent / ".benchmarks" / "gate" / name / "decision.json", verdict)
    page = page_of(history)
    assert ("stagebench gate: pass (1 pass)" in page, "<details open>" in page) == (True, False)


def test_without_a_gate_none_is_spoken_of(history):
    assert "The last gate" not in page_of(history)


def test_verdicts_that_are_none_are_refused_before_runs_are_read(history, monkeypatch):
    monkeypatch.setattr("stagebench.cli.stored.read_history", lambda *_: pytest.fail("it read"))
    done = CliRunner().invoke(main, ["trend", str(history), "--html", "page.html", "--verdicts", "no.json"])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)


def test_a_page_that_cannot_be_written_is_refused_before_runs_are_read(tmp_path):
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, ["trend", str(tmp_path), "--html", str(tmp_path / "file" / "page.html")])
    assert (done.exit_code, "Not a directory" in done.output) == (2, True)


def test_five_thousand_runs_take_seven_bytes_a_median(history, monkeypatch):
    monkeypatch.setattr(trend_page, "read_at", lambda place, name: a_run(1))
    noise = np.random.default_rng(0).normal(0, 0.02, 5000)
    began = datetime(2026, 1, 1, tzinfo=UTC)
    runs = [
        Run(
            "",
            began + timedelta(i),
            began.isoformat(),
            HERE,
            f"{i:040x}",
            False,
            {NAMES["encode"]: 0.01 * np.exp(each)},
        )
        for i, each in enumerate(noise)
    ]
    page = trend_page.to_html(place_of(history), [(runs, series_of(runs))], None)
    about = len(trend_page.to_html(place_of(history), [(runs[:1], series_of(runs[:1]))], None))
    of_a_run = len('"000000000000",') + len("1767225600,")
    assert (len(page) - about) / 5000 < of_a_run + 7


def test_the_job_of_the_page_takes_what_the_nightly_keeps():
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "baselines.md").read_text("utf-8"), flags=re.DOTALL)
    page = yaml.safe_load(text)["page"]
    nightly = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text("utf-8"))["jobs"]
    (kept,) = (step["with"] for step in nightly["gpu"]["steps"] if "upload-artifact" in step.get("uses", ""))
    fetched, moved, uploaded, _ = page["steps"]
    assert (page["needs"], fetched["with"]["name"]) == ("gpu", kept["name"])
    assert moved["run"] == f"mkdir page && mv {fetched['with']['path']}/history.html page/index.html"
    assert ("history.html" in kept["path"].split(), uploaded["with"]["path"]) == (True, "page")
    assert [line for line in text.splitlines() if "uses:" in line and not re.search(r"@[0-9a-f]{40} # v\d", line)] == []
