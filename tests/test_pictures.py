"""Pictures for talks: one SVG of its own, with all numbers and names in it as text, whatever these hold."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from foreign_results import ran, typed

from stagebench import __version__
from stagebench.analysis.report.pictures import of_run
from stagebench.cli import main
from stagebench.core.stages import STAGES

HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m\u202e]]>{{ 7 * 7 }}"
DOCS = Path(__file__).parents[1] / "docs"
RECORDED = DOCS / "results" / "h100-7b-analysis" / "samples.jsonl"
IDENTITY = {"device": "a CPU", "profile": "tiny", "weights": "random", "dtype": "float32", "generation": "greedy"}
COLORS = {stage.color: stage.name for stage in STAGES}


def of(svg):
    """The lines of text, and the widths of the bars by colour; the whole must be well-formed."""
    root = ElementTree.fromstring(svg)  # noqa: S314 # we wrote it
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    lines = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]
    bars = [each.attrib for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("height") in ("22", "30")]
    return lines, [(each["fill"], float(each["width"])) for each in bars]


def numbers(**changes):
    return ran(**changes) | {"identity": IDENTITY}


@pytest.fixture
def explain(tmp_path):
    """Runs the command on data, and returns the picture."""

    def draw(data, name="numbers.json"):
        path, out = tmp_path / name, tmp_path / "out.svg"
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        done = CliRunner().invoke(main, ["explain", str(path), "--svg", str(out)])
        assert done.exit_code == 0, done.output
        return out.read_text(encoding="utf-8")

    return draw


def test_a_run_is_drawn_with_its_models_machine_profile_and_weights():
    lines, _ = of(of_run(numbers(), "the command"))
    assert lines[:2] == [
        "a, b: ms by stage, the median of 2 passes",
        "a CPU; tiny profile, random weights, float32; greedy",
    ]
    assert lines[-1] == "the command"


def test_a_run_shows_each_time_of_the_median_pass_beside_its_stage():
    lines, _ = of(of_run(numbers(tpot=2.5), ""))
    for said in ("e2e 15,500 ms", "ttft 9,000 ms", "tpot 2,500 ms", "load 1,000", "decode 5,000", "unattributed 500"):
        assert lines.count(said) == 2, said


def test_the_bars_of_a_run_are_as_long_as_their_stages_in_one_scale():
    _, bars = of(of_run(numbers(), ""))
    assert [COLORS.get(color) for color, _ in bars] == [*COLORS.values(), None] * 2
    assert [width for _, width in bars] == pytest.approx(
        [904 / 15.5 * each for each in (1, 2, 3, 4, 5, 0.5)] * 2, abs=0.01
    )


def test_a_pass_of_one_token_has_no_time_per_token():
    assert [line for line in of(of_run(numbers(), ""))[0] if line.startswith("tpot")] == []


def test_an_explanation_goes_from_one_total_to_the_other_step_by_step(explain):
    lines, bars = of(explain(typed(load=3.0, decode=1.0)))
    assert "saves 2,000 ms, 200.0 %" in lines
    assert "loses 1,000 ms, -100.0 %" in lines
    steps = ["a", "Loading", "Preprocessing", "Encoding", "Prefill", "The number of tokens", "The time per token", "b"]
    assert [line for line in lines if line in steps] == steps
    first, *_, last = bars
    assert (first[0], round(last[1] / first[1], 3)) == (last[0], round(3.4 / 4.4, 3))


def test_where_no_difference_is_seen_the_picture_says_so_with_intervals_and_no_shares(explain):
    lines, _ = of(explain(RECORDED.read_text(encoding="utf-8"), name="samples.jsonl"))
    assert "No difference seen: eventgpt takes 1,076.993 ms where video-llava takes 1,150.422 ms," in lines
    assert lines[lines.index("Prefill") + 1 :][:2] == ["saves 45 ms", "41.1 to 48.7 saved"]
    assert [line for line in lines if "%" in line and "interval" not in line] == []


@pytest.mark.parametrize("where", ["name", "command"])
def test_names_of_others_are_text_whatever_they_hold(where):
    svg = of_run(numbers() if where == "command" else numbers(model=HOSTILE), HOSTILE)
    said = " ".join(of(svg)[0])
    assert r"<script>alert(1)</script>&" in said
    assert r"\x1b[31m\u202e]]>{{ 7 * 7 }}" in said
    assert "<script" not in svg


def test_a_picture_asks_nothing_of_the_network(explain):
    for svg in (explain(typed(load=3.0)), of_run(numbers(), "")):
        assert re.findall(r"https?://[^\s\"]+|href|url\(|@import|<script|<style|<image", svg) == [
            "http://www.w3.org/2000/svg"
        ]


@pytest.mark.parametrize("command", ["run", "explain"])
@pytest.mark.parametrize("name", ["out.png", "out", "-"])
def test_a_name_of_another_kind_is_refused_before_anything_is_read(command, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where nothing has that name
    done = CliRunner().invoke(main, [command, str(tmp_path / "none.json"), "--svg", name])
    said = f"stagebench: --svg must be a file whose name ends in .svg, got {name}\n"
    assert (done.exit_code, done.stderr) == (2, said)


def test_the_tutorial_shows_the_picture_of_its_numbers(tmp_path, monkeypatch):
    tutorial = (DOCS / "tutorials" / "why-faster.md").read_text(encoding="utf-8")
    asked = ["explain", "numbers.json", "--svg", "why.svg"]
    assert f"$ stagebench {' '.join(asked)}\n" in tutorial
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stagebench", *asked])
    Path("numbers.json").write_text(re.search(r"```json\n(.*?)```", tutorial, re.DOTALL)[1])
    assert CliRunner().invoke(main, asked).exit_code == 0
    shown = (DOCS / "pictures" / "why.svg").read_text(encoding="utf-8")
    assert Path("why.svg").read_text(encoding="utf-8") == re.sub(
        r"stagebench [\d.]+:", f"stagebench {__version__}:", shown
    )


def test_the_command_draws_what_it_ran_and_leaves_nothing_else(tmp_path):
    out = tmp_path / "new" / "run.svg"
    asked = ["run", "--model=llava-1.5", "--device=cpu", "--new-tokens=4", "--passes=1", "--svg", str(out)]
    done = CliRunner().invoke(main, asked)
    assert (done.exit_code, [each.name for each in out.parent.iterdir()]) == (0, ["run.svg"])
    lines, _ = of(out.read_text(encoding="utf-8"))
    assert lines[0] == "llava-1.5: ms by stage, one pass"
    assert [line.split()[0] for line in lines if re.match("e2e|ttft|tpot", line)] == ["e2e", "ttft", "tpot"]
