"""What strangers write is shown as text, whatever is in it: on a terminal, in Markdown, in HTML."""

import json
import re
from io import StringIO
from types import SimpleNamespace

import made_up_analysis
import pytest
from click.testing import CliRunner
from rich.console import Console

from stagebench.analysis.report.document import Figure, Folded, to_html
from stagebench.analysis.report.document import to_markdown as document_to_markdown
from stagebench.cli import analyze, main
from stagebench.cli.output import refusals
from stagebench.core.errors import GateError
from stagebench.core.shown import LONGEST, WORDS, Table, cell, markdown, plain, teller

HOSTILE = [
    "[/x]",
    "[bold red]x[/]",
    "[link=file:///etc/passwd]x",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://evil\x07x",
    "a\nstagebench: pass",
    "a\r\x08b\tc",
    "\N{RIGHT-TO-LEFT OVERRIDE}ssap",
    "\N{LEFT-TO-RIGHT ISOLATE}x\N{ZERO WIDTH SPACE}y",
    "\x9b2J",
    "\u2028x\u2029",
    "a|b`c`<script>alert(1)</script>",
    "<!-- x",
    "&lt;x $\\frac",
    "![x](y) *b* _c_ # d",
    "\ufeff\U000e0041",
    "x" * 5000,
]
UNSEEN = re.compile(
    r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
    r"|[\U000e0000-\U000e007f]"
)


def run_of(name, median=0.1, **more):
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}
    here = {"device": name, "profile": name, "dtype": "float32"}
    benchmark = {"fullname": f"benchmarks/test_stages.py::{name}", "stats": {"median": median}}
    benchmark["extra_info"] = {"work": {"flops": 1}}
    return {"stagebench": own, "machine_info": here, "benchmarks": [benchmark], "datetime": "2026-01-02"} | more


def invoke(*arguments):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code in (0, 2, 3), result.exception
    return result.output


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
class TestEveryHostileName:
    def test_is_one_line_that_shows_all_of_itself(self, name):
        assert (plain(name).isprintable(), len(plain(name)) <= 6 * LONGEST) == (True, True)

    def test_survives_a_table_of_rich(self, name):
        console = Console(width=8000)
        with console.capture() as shown:
            console.print(cell(name))
        assert shown.get().strip() == plain(name)

    def test_is_no_markup_in_markdown(self, name):
        assert re.findall(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|#~$&]", markdown(name)) == []

    def test_is_clean_in_a_report(self, name):
        table = Table(name, ((name, WORDS), (name, WORDS)), ((name, name),), (name,))
        gaps = {name: {"mean": [0.1, 0.2], "p90": [0.1, 0.3]}}
        passes = [made_up_analysis.row("quick", 0) | dict.fromkeys(("sample", "model", "text", "path"), name)]
        figures = Figure(name, "gaps", gaps), Figure(name, "every_pass", passes)
        parts = {name: (name, (name,), table, Folded(name, table), *figures)}
        assert UNSEEN.findall(document_to_markdown(name, parts)) == []
        page = to_html(name, parts)
        assert (UNSEEN.findall(page), page.count("<script"), "<!--" in page) == ([], 1, False)

    def test_is_clean_in_the_progress_of_analyze(self, name, monkeypatch):
        failed = {"model": "m", "sample": name, "error": name}
        monkeypatch.setattr(analyze, "measure", lambda study, journal: iter([failed]))
        console = Console(force_terminal=True, color_system=None, width=8000, file=StringIO())
        assert analyze._measure(SimpleNamespace(tasks=[]), SimpleNamespace(has=bool), console)
        assert f"failed: m: {plain(name)[:1500]}" in console.file.getvalue()

    def test_is_clean_in_attribute(self, name, tmp_path):
        numbers = {"load": 1, "preprocess": 1, "generation": 1, "tokens": 3}
        models = [{"name": name[:300] + end, **numbers, "load": load} for end, load in (("a", 1), ("b", 2))]
        (tmp_path / "t.json").write_text(json.dumps({"models": models}))
        for options in ((), ("--markdown",), ("--baseline=none",)):
            assert UNSEEN.findall(invoke("explain", tmp_path / "t.json", *options)) == []

    def test_is_clean_in_compare(self, name, tmp_path):
        for side in ("a", "b"):
            (tmp_path / f"{side}.json").write_text(json.dumps(run_of(name, 0.1 if side == "a" else 0.2)))
        assert UNSEEN.findall(invoke("compare", tmp_path / "a.json", tmp_path / "b.json", "--markdown=-")) == []

    def test_is_clean_in_a_refusal_of_compare(self, name, tmp_path):
        (tmp_path / "a.json").write_text(json.dumps(run_of(name, None)))
        said = invoke("compare", tmp_path / "a.json", tmp_path / "a.json")
        assert (UNSEEN.findall(said), len(said.splitlines())) == ([], 1)

    def test_is_clean_in_trend(self, name, tmp_path):
        for day in range(1, 3):
            run = run_of(name, datetime=f"2026-01-0{day}", commit_info={"id": name, "dirty": True})
            (tmp_path / f"{day}.json").write_text(json.dumps(run))
        (tmp_path / "3.json").write_text(json.dumps(run_of(name, None)))
        assert UNSEEN.findall(invoke("trend", tmp_path, "--html", tmp_path / "page.html")) == []
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert (UNSEEN.findall(page), page.count("<script"), "<!--" in page) == ([], 2, False)


def test_a_refusal_is_one_line_but_for_what_a_process_said(capsys):
    with pytest.raises(SystemExit), refusals():
        raise GateError("the benchmarks of a\nb must pass, got exit status 1:\n\x1b[1mE   x\ny")
    assert (
        capsys.readouterr().err == "stagebench: the benchmarks of a b must pass, got exit status 1:\n\\x1b[1mE x\ny\n"
    )


def test_what_is_reported_has_its_own_line_ends_and_no_others():
    console = Console(width=200)
    with console.capture() as shown:
        teller(console)("one [/x]\n\x1b[1mtwo\r")
    assert shown.get() == "one [/x]\n\\x1b[1mtwo\n"


def test_plain_text_stays_as_it_is():
    text = "Größe: 5 µs, 日本語, \N{GRINNING FACE} [a-b]"
    assert plain(text) == text


def test_what_is_cut_off_says_so():
    assert plain("x" * 100, 10) == "xxxxxxx..."
