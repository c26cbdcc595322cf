"""The actions, step by step as a runner of GitHub runs them, on a pull request whose author means harm."""

import io
import json
import re
import stat
import subprocess
import sys
import zipfile
from contextlib import chdir
from zlib import crc32

import pytest
from click.testing import CliRunner
from github_stand_ins import ROOT, Api, Runner, comment_module, looks_of

from stagebench.cli import main

EVENT = {
    "github.event.workflow_run.head_repository.owner.login": "fork",
    "github.event.workflow_run.head_branch": "branch",
    "github.event.workflow_run.head_sha": "abc",
    "github.event.workflow_run.id": "7",
    "github.event.workflow_run.conclusion": "success",
}
IMPORTS = """
import sys
sys.modules["msgspec"] = None  # reads faster where it is installed, which is not there
before = {*sys.modules}
import stagebench.cli.summary
names = {name.partition(".")[0] for name in {*sys.modules} - before}
print(*sorted(names - sys.stdlib_module_names))
"""
MARK = "<!-- stagebench: stagebench -->"
FOLD = re.compile(r"<details><summary>\d+ that pass</summary>")
HOSTILE = "a](http://evil)@octocat<img src=x>`|#1\u202e\x1b[31m www.evil.example " + "x" * 500
GATE = """#!/bin/bash
[ "$1" = gate ] || exec {stagebench} "$@"
printf '%s|' "$@" > "$PIP_LOG.gate"
while [ "$1" != --json ]; do shift; done
cp {decision} "$2"
echo said >> "$4"
exit {code}
"""
"""Decides what it is told."""


@pytest.fixture
def api():
    served = Api()
    yield served
    served.close()


def verdict(benchmark="benchmarks/test_x.py::test_x", word="pass", kind="time", **more):
    return {"benchmark": benchmark, "verdict": word, "kind": kind, "reason": "because", "n": 6, **more}


def document(*verdicts, **more):
    return {"kind": "verdicts", "schema": 1, "rules_differ": [], "verdicts": list(verdicts), **more}


def packed(files):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        for name, data in files.items():
            into.writestr(name, data)
    return archive.getvalue()


def comment(tmp_path, api, **changed):
    """Run the action; the conclusion of its check, and the comment."""
    runner = Runner(tmp_path / "comment", api)
    contexts = EVENT | {f"github.event.workflow_run.{key}": value for key, value in changed.items()}
    assert runner.run("comment", tmp_path, contexts)[0], runner.said
    assert (runner.folder / "pip.log").read_text().split()[:4] == ["-m", "pip", "install", "--quiet"]
    return api.checks[-1]["conclusion"], api.comments[-1]["body"]


def deciding(tmp_path, api, code, decision=None, name="gate"):
    """A runner on which the gate comes to that."""
    path = tmp_path / "decision.json"
    path.write_text(json.dumps(decision or document()))
    own = f"{tmp_path / name / 'bin' / 'python'} -P -m stagebench"
    return Runner(tmp_path / name, api, {"stagebench": GATE.format(stagebench=own, decision=path, code=code)})


@pytest.fixture
def repository(tmp_path, git):
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "first")
    git(root, "update-ref", "refs/remotes/origin/main", "HEAD")
    return root


def test_a_pull_request_that_does_more_work_under_hostile_names_is_said_to_do_so(tmp_path, api, new_project, git):
    """By the two workflows that `stagebench init` writes."""
    project = new_project(tmp_path / "project")
    suite = project / "benchmarks" / "test_fake.py"
    suite.write_text(suite.read_text().replace('["a", "b"]', repr([HOSTILE, "plain"])))
    with chdir(project):
        assert CliRunner().invoke(main, ["init"]).exit_code == 0
    gate, said = (project / ".github" / "workflows" / f"stagebench{of}.yml" for of in ("", "-comment"))
    gate.write_text(gate.read_text().replace('arguments: ""', "arguments: --counters-only --select 'test_stage'"))
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "names, and workflows")
    git(project, "update-ref", "refs/remotes/origin/main", "HEAD")
    source = project / "src" / "fake.py"
    source.write_text(source.read_text().replace("8", "16"))
    git(project, "commit", "--quiet", "--all", "-m", "more work")
    measuring, speaking = Runner(tmp_path / "measuring", api), Runner(tmp_path / "speaking", api)
    assert not measuring.job(gate, project)
    assert measuring.summary.read_text().startswith("### stagebench gate: regression (2 regression)"), measuring.said
    assert speaking.job(said, tmp_path, EVENT | {"github.event.workflow_run.conclusion": "failure"}), speaking.said
    ((check,), (comment,)) = (api.checks, api.comments)
    assert (check["name"], check["conclusion"]) == ("stagebench verdict", "failure")
    assert "| `test_stage[plain]: frames_decoded` | 8 before, 16 now |" in comment["body"]
    require_harmless(comment["body"])
    assert api.tokens_elsewhere == []


def require_harmless(body):
    """Require that nothing of others is a link, a mention, a reference, HTML or unseen, but for what we write."""
    kinds, html, links = looks_of(body)
    assert kinds == {"heading", "paragraph", "table", "thead", "tbody", "tr", "th", "td", "link", "softbreak"} & kinds
    assert [each for each in html if each not in (MARK, "</details>") and not FOLD.fullmatch(each)] == []
    assert links == ["https://github.com/o/r/actions/runs/7"]
    words = re.sub(r"`[^`\n]*`", "", body.replace(links[0], ""))
    assert (body.isascii(), re.findall(r"https?:|www\.|[@#`]\w|evil|octocat", words)) == (True, [])
    assert max(map(len, body.splitlines())) < 600


@pytest.mark.parametrize(("code", "passes"), [(0, True), (1, False), (2, False), (3, True)])
def test_a_job_fails_by_a_regression_and_by_what_was_not_measured_and_says_what_is_inconclusive(
    tmp_path, api, repository, code, passes
):
    runner = deciding(tmp_path, api, code)
    assert runner.run("gate", repository, name="mine") == (passes, {"exit-code": str(code)})
    assert ("::warning title=stagebench::inconclusive" in runner.said) == (code == 3)
    assert runner.summary.read_text() == "said\n"
    assert zipfile.ZipFile(io.BytesIO(api.archives["mine"])).namelist() == ["gate.json", "gate.md"]


def test_the_base_is_where_the_branch_left_its_target(tmp_path, api, repository, git):
    left = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "mine")
    runner = deciding(tmp_path, api, 0)
    runner.run("gate", repository, arguments="--blocks 8 -- -k 'a or b' --x=\"\"")
    folder = runner.temp / "stagebench"
    given = ["gate", "--base", left, "--json", folder / "gate.json", "--markdown", folder / "gate.md"]
    more = ["--blocks", "8", "--", "-k", "a or b", "--x="]
    assert (runner.folder / "pip.log.gate").read_text().split("|")[:-1] == [*map(str, given), *more]


def test_a_shallow_checkout_is_named(tmp_path, api, repository, git):
    git(repository, "update-ref", "-d", "refs/remotes/origin/main")
    runner = deciding(tmp_path, api, 0)
    assert runner.run("gate", repository) == (False, {"exit-code": ""})
    assert (
        "::error title=stagebench::in a pull request, its history must be checked out (fetch-depth: 0)" in runner.said
    )


def test_arguments_with_an_open_quote_are_refused(tmp_path, api, repository):
    runner = deciding(tmp_path, api, 0)
    assert runner.run("gate", repository, arguments="--select 'a") == (False, {"exit-code": ""})
    assert "::error title=stagebench::arguments must be words as a shell reads them" in runner.said


@pytest.mark.parametrize(("there", "index"), [(False, "https://download.pytorch.org/whl/cpu"), (True, "")])
def test_without_a_gpu_torch_is_the_build_for_a_cpu(tmp_path, api, repository, monkeypatch, there, index):
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    runner = Runner(tmp_path / "gate", api, {"nvidia-smi": f"#!/bin/bash\nexit {0 if there else 9}\n"})
    runner.run("gate", repository, base="no-such-revision")
    installed = f"{index} -m pip install {ROOT}/.github/actions/gate/../../.."
    assert (runner.folder / "pip.log").read_text().strip() == installed.strip()


@pytest.mark.parametrize(
    ("word", "conclusion"),
    [("pass", "success"), ("inconclusive", "neutral"), ("regression", "failure"), ("missing", "failure")],
)
def test_each_decision_looks_its_own_way_in_the_list_of_checks(tmp_path, api, word, conclusion):
    api.archives["stagebench"] = packed({"gate.json": json.dumps(document(verdict(word=word)))})
    assert comment(tmp_path, api)[0] == conclusion
    check = api.checks[0]
    assert (check["name"], check["head_sha"], check["status"]) == ("stagebench verdict", "abc", "completed")
    assert check["output"]["title"].startswith("stagebench gate: ")


def test_the_comment_installs_all_that_it_imports():
    imported = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    ).stdout.split()
    pinned = (ROOT / ".github" / "actions" / "comment" / "requirements.txt").read_text()
    assert {"click", "rich", "stagebench"} <= {*imported}
    assert [name for name in imported if name != "stagebench" and f"\n{name}==" not in pinned] == []


def test_a_later_comment_renews_the_first_of_ours_alone(tmp_path, api):
    api.archives["stagebench"] = packed({"gate.json": json.dumps(document(verdict()))})
    api.comments = [
        {"id": i, "user": user, "body": MARK}
        for i, user in enumerate([{"login": "mallory"}, *[None] * 100, {"login": "github-actions[bot]"}])
    ]
    comment(tmp_path, api)
    assert [i for i, each in enumerate(api.comments) if "pass" in each["body"]] == [101]
    assert "At abc, by the code of the pull request itself" in api.comments[101]["body"]


def test_a_gate_that_left_no_verdict_leaves_no_older_one_standing(tmp_path, api):
    conclusion, body = comment(tmp_path, api, conclusion="failure")
    assert (conclusion, "it left no verdict that can be read" in body) == ("failure", True)


def test_a_verdict_that_passes_does_not_hide_a_run_that_failed(tmp_path, api):
    api.archives["stagebench"] = packed({"gate.json": json.dumps(document(verdict()))})
    conclusion, body = comment(tmp_path, api, conclusion="failure")
    assert (conclusion, "The run failed all the same." in body) == ("failure", True)


def test_a_pull_request_that_moved_on_gets_nothing(tmp_path, api):
    api.pulls[0]["head"]["sha"] = "def"
    runner = Runner(tmp_path / "comment", api)
    assert runner.run("comment", tmp_path, EVENT)[0]
    assert (runner.said.splitlines()[-1], api.comments, api.checks) == (
        "no open pull request is at abc any more",
        [],
        [],
    )


@pytest.fixture(scope="module")
def module():
    """The script of the action."""
    return comment_module()


def link():
    entry = zipfile.ZipInfo("gate.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"PK\x05\x06",
        b"PK\x03\x04" + b"\xff" * 1000,
        packed({"gate.md": "x"}),
        packed({"../gate.json": "{}", "/gate.json": "{}", "a/gate.json": "{}"}),
        packed({"gate.json": b" " * (5 * 2**20)}),
        packed({"gate.json": "{}"}).replace(crc32(b"{}").to_bytes(4, "little"), bytes(4)),
    ],
    ids=["nothing", "no entries", "noise", "other files", "other folders", "a bomb", "a wrong checksum"],
)
def test_an_archive_without_a_small_decision_holds_none(module, archive):
    assert module.decision(archive) is None


def test_a_link_in_an_archive_is_read_as_the_text_that_it_is(module):
    assert module.decision(packed({link(): "/etc/passwd"})) == b"/etc/passwd"
    assert module.summary(b"/etc/passwd") == (module.NO_VERDICT, 2)


def test_a_comment_that_is_too_long_is_cut_between_lines_and_unfolded(module):
    text = "### a\n<details>\n" + "| x |\n" * 20_000
    short = module.shortened(text)
    assert (len(short) < 50_100, short.endswith("| x |\n\n</details>\n\nThe rest is in the run.\n")) == (True, True)
    assert module.shortened("### a\n") == "### a\n"
