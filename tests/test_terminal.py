"""What a person sees on a terminal while something works, and that what is timed is left alone."""

import io
import re
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.color import Color, ColorSystem

from stagebench.cli import main
from stagebench.cli.output import Console
from stagebench.core.shown import progress
from stagebench.core.stages import STAGE_NAMES, STAGES
from stagebench.gate.runner.fresh_process import Variant
from stagebench.gate.runner.recording import Recording
from stagebench.pipeline.claims import CLAIMS
from stagebench.suite import measure

SRC = Path(__file__).parents[1] / "src"
QUICK = ("--model", "llava-1.5", "--device", "cpu", "--new-tokens", "4")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Standard output and standard error, as two terminals of 80 columns."""
    for name in ("CI", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminals(Terminal(), Terminal())


class Terminals(NamedTuple):
    out: Terminal
    err: Terminal

    def invoke(self, *arguments):
        with redirect_stdout(self.out), redirect_stderr(self.err), pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return ended.value.code


def drawn(text):
    """The lines that a bar was, one after the other; at its end it is drawn once more."""
    lines = re.split(r"[\r\n]", re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text))
    return list(dict.fromkeys(line.rstrip() for line in lines if line.strip()))


def two_steps(file):
    with progress(Console(file=file), 2) as begin:
        begin("one")
        begin("two")


def test_a_bar_says_what_is_done_how_much_of_it_and_how_long_the_rest_takes(terminal):
    with progress(Console(file=terminal.err), 4) as begin:
        for step in "abcd":
            begin(step)
    shown = drawn(terminal.err.getvalue())
    assert [(line[0], re.search(r"\d/4", line)[0]) for line in shown] == [(s, f"{i}/4") for i, s in enumerate("abcd")]
    assert re.search(r" \d:\d\d:\d\d$", shown[-1])


def test_a_bar_is_taken_away_before_something_else_is_printed(terminal):
    with progress(Console(file=terminal.err), 2) as begin:
        begin("one")
        begin("")
    assert terminal.err.getvalue().count("one") == 1


@pytest.mark.parametrize("variable", [("CI", "true"), ("TERM", "dumb")])
def test_a_log_and_a_terminal_that_can_only_add_lines_get_no_bar(terminal, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    two_steps(terminal.err)
    assert terminal.err.getvalue() == ""


def test_a_pipe_gets_no_bar_whatever_forces_colours(terminal, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    two_steps(pipe)
    assert pipe.getvalue() == ""


def test_what_is_timed_finds_no_thread_of_a_bar_and_nothing_is_drawn_meanwhile(terminal, monkeypatch):
    honest, before, seen = measure.timed_pass, set(threading.enumerate()), []

    def watched(*arguments):
        drawn_before = terminal.err.getvalue()
        done = honest(*arguments)
        seen.append((set(threading.enumerate()) - before, terminal.err.getvalue() == drawn_before))
        return done

    monkeypatch.setattr(measure, "timed_pass", watched)
    assert terminal.invoke("run", *QUICK, "--passes", "2") == 0
    assert seen == [(set(), True)] * 2
    steps = ["building {}", "comparing {} with generate()", "pass 1 of 2 of {}", "pass 2 of 2 of {}"]
    expected = [step.format("llava-1.5") for step in steps]
    assert [line.partition(" ━")[0].strip() for line in drawn(terminal.err.getvalue())] == expected


def test_nothing_but_the_one_bar_is_drawn_again_and_again():
    live = re.compile(r"\.status\(|from rich\.\w+ import .*\b(Live|Progress|track)\b")
    drawing = [str(path.relative_to(SRC)) for path in SRC.rglob("*.py") if live.search(path.read_text("utf-8"))]
    assert drawing == ["stagebench/core/shown.py"]


def test_verify_counts_its_claims_and_prints_its_table_after_its_bar(terminal):
    assert terminal.invoke("verify", *QUICK) == 0
    counted = re.findall(r"(\d+)/(\d+)", terminal.err.getvalue())
    assert [(int(done), int(total)) for done, total in counted] == [(i, CLAIMS + 1) for i in range(CLAIMS + 1)]
    assert "claims held" in terminal.out.getvalue()


def printed_by_run(terminal):
    assert terminal.invoke("run", *QUICK, "--passes", "1") == 0
    return terminal.out.getvalue()


def test_each_stage_has_a_bar_in_its_colour_beside_its_numbers(terminal):
    found = re.findall(r"(?m)^(\w+) +\x1b\[38;([\d;]+)m[█-▏]+\x1b\[0m +\d+% ", printed_by_run(terminal))
    indexes = [f"5;{Color.parse(stage.color).downgrade(ColorSystem.EIGHT_BIT).number}" for stage in STAGES]
    assert found == list(zip(STAGE_NAMES, indexes, strict=True))


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_without_colours_the_bars_are_there_and_no_colour_is(terminal, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    text = printed_by_run(terminal)
    assert re.findall(r"(?m)^(\w+) +[█-▏]+ +\d+% ", text) == list(STAGE_NAMES)
    assert re.findall(r"\x1b\[[\d;]*[34]\d[\d;]*m", text) == []


def test_nothing_that_run_prints_is_wider_than_the_terminal_but_what_it_wraps_by_words(terminal):
    lines = re.sub(r"\x1b\[[\d;]*m", "", printed_by_run(terminal)).splitlines()
    assert [line for line in lines if len(line) > 80] == []


def test_a_recording_draws_before_each_process_and_not_while_it_runs(terminal, monkeypatch, tmp_path):
    seen = []

    def measured(self, number, others):
        seen.append((drawn(terminal.err.getvalue())[-1].partition(" ━")[0].strip(), threading.active_count()))
        return {"stagebench": {"recording": {"seconds": 1.0}}}

    monkeypatch.setattr(Recording, "measure", measured)
    with progress(Console(file=terminal.err)) as begin:
        Recording(tmp_path, Variant("", tmp_path, Path()), {}).record(2, lambda line: None, begin)
    names = ["verifying process", "timing process 1", "timing process 2"]
    assert seen == [(name, threading.active_count()) for name in names]
