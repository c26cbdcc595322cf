"""A decision that somebody else wrote: refused in one line, or a table of numbers and plain names."""

import json
import re

import pytest
from click.testing import CliRunner
from github_stand_ins import looks_of
from mutations import mutants

from stagebench.cli import main
from stagebench.gate.stored_decision import LONGEST, plain_name, read_decision
from stagebench.gate.verdicts import Decision, Verdict

SLOWER = Verdict("b/test_x.py::test_x", "time", "regression", "slower", 12, 0.1, 0.12, 0.2, (0.15, 0.25), 0.05, 50e-6)
COUNTED = Verdict("b/test_x.py::test_y", "counter", "changed", "other", 1, 5, 6, counter="encode.images_encoded")
QUIET = Verdict("b/test_x.py::test_z", "counter", "pass", "all 3 as before", 1)
TABLES = {"heading", "paragraph", "strong", "table", "thead", "tbody", "tr", "th", "td"}
HOSTILE = [
    "a\nb",
    "![x](http://evil.example/x.png)",
    "<img src=x onerror=alert(1)>",
    "@octocat and @org/team",
    "#12, GH-12, o/r#12, o/r@0123456",
    "www.evil.example",
    "`` ` ``",
    "x | y",
    "\x1b[31m\x00\u202e\u200b\ufeff",
    "</details><!--",
    "&#64;octocat",
    "x" * 100_000,
    "0123456789012345678901234567890123456789",
]


def decided(*verdicts, **changed):
    return Decision([*verdicts]).as_json() | changed


def summary(folder, document):
    path = folder / "gate.json"
    text = document if isinstance(document, str | bytes) else json.dumps(document)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = CliRunner().invoke(main, ["summary", str(path)])
    return result.exit_code, result.stdout, result.stderr


def test_numbers_and_names_of_a_decision_are_a_table(tmp_path):
    code, said, _ = summary(tmp_path, decided(QUIET, COUNTED, SLOWER))
    assert (code, said.splitlines()) == (
        1,
        [
            "### stagebench gate: regression (1 regression, 1 changed, 1 pass)",
            "",
            "| verdict | benchmark | base, ms | head, ms | change | why |",
            "| --- | --- | ---: | ---: | ---: | --- |",
            "| regression | `test_x` | 100.000 | 120.000 | +20.0 % | interval +15.0% to +25.0%, limit 5.0% |",
            "| changed | `test_y: encode.images_encoded` |  |  |  | 5 before, 6 now |",
            "",
            "<details><summary>1 that pass</summary>",
            "",
            "| verdict | benchmark |",
            "| --- | --- |",
            "| pass | `test_z` |",
            "",
            "</details>",
            "",
        ],
    )


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("key", ["benchmark", "counter", "reason", "allowed"])
def test_nothing_in_a_text_is_more_than_a_name(tmp_path, key, text):
    document = decided(QUIET, COUNTED, headline=text, rules_differ=[text, text], more=text)
    document["verdicts"][1][key] = text
    _, said, _ = summary(tmp_path, document)
    names = re.findall("`([^`]*)`", said)
    plain = re.sub("`[^`]*`", "", said)
    assert [name for name in names if not re.fullmatch(r"[\w .,:/\[\]()=+?-]+", name, re.ASCII)] == []
    assert re.findall(r"https?:|www|[@&]|<(?!/?details>|/?summary>)|evil|octocat|0123|GH-|\]\(", plain) == []
    kinds, html, links = looks_of(said)
    assert (kinds - TABLES, links, html) == (set(), [], ["<details><summary>1 that pass</summary>", "</details>"])
    assert (plain.isascii(), len(said) < 2000, len(names)) == (True, True, 2)
    assert "the rules differ, so the base's or the stricter ones hold: 2 times; see the log" in said


def test_an_error_is_a_decision_without_its_words(tmp_path):
    code, said, _ = summary(tmp_path, decided(error="<b>@octocat</b>"))
    expected = "### stagebench gate: could not be measured (an error)\n\nsee the log of the gate\n\n"
    assert (code, said) == (2, expected)


def test_a_decision_that_names_an_error_beside_verdicts_is_one_that_failed(tmp_path):
    assert summary(tmp_path, decided(QUIET, error="x"))[0] == 2


def test_headline_and_exit_code_follow_from_the_verdicts(tmp_path):
    code, said, _ = summary(tmp_path, decided(SLOWER, exit_code=0, headline="stagebench gate: pass (1 pass)"))
    assert (code, said.splitlines()[0]) == (1, "### stagebench gate: regression (1 regression)")


WRONG = {
    "another kind": {"kind": "results"},
    "another schema": {"schema": 2},
    "a schema that is true": {"schema": True},
    "no verdicts": {"verdicts": None},
    "verdicts of another type": {"verdicts": {"a": 1}},
    "a verdict of another type": {"verdicts": ["pass"]},
    "rules of another type": {"rules_differ": "x"},
}
WRONG_VERDICTS = {
    "an unknown verdict": {"verdict": "fine"},
    "an unknown kind": {"kind": "joke"},
    "a name that is a number": {"benchmark": 1},
    "a list for a number": {"base": [1]},
    "a huge number": {"base": 1e300},
    "a number below zero": {"head": -1},
    "a count of a half": {"n": 0.5},
    "an interval of one": {"interval": [0.1]},
    "an interval of texts": {"interval": ["<b>", "x"]},
    "a text for a limit": {"threshold": "x"},
    "a verdict that is a list": {"verdict": ["pass"]},
}


def require_refused(done):
    code, said, complaint = done
    assert (code, said, complaint.count("\n")) == (2, "", 1)
    assert " the decision " in complaint


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
def test_what_is_no_decision_is_refused(tmp_path, changed):
    require_refused(summary(tmp_path, decided(SLOWER) | changed))


@pytest.mark.parametrize("changed", WRONG_VERDICTS.values(), ids=WRONG_VERDICTS)
def test_what_is_no_verdict_is_refused(tmp_path, changed):
    document = decided(SLOWER)
    document["verdicts"][0] |= changed
    require_refused(summary(tmp_path, document))


@pytest.mark.parametrize("text", ["", "x", "[]", "NaN", "[" * 10_000, '{"kind": "verdicts", "kind": "verdicts"}'])
def test_what_is_no_json_is_refused(tmp_path, text):
    require_refused(summary(tmp_path, text))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_what_is_no_number_is_refused(tmp_path, number):
    require_refused(summary(tmp_path, json.dumps(decided(SLOWER)).replace("0.12", number)))


def test_damage_of_any_kind_is_a_line_or_a_table(tmp_path):
    for mutant in mutants(decided(SLOWER, COUNTED, QUIET), "decision", 100):
        code, said, complaint = summary(tmp_path, mutant)
        assert (code in {0, 1, 2, 3}, complaint.count("\n")) == (True, 0 if said else 1)


def test_a_folder_or_nothing_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        result = CliRunner().invoke(main, ["summary", str(path)])
        require_refused((result.exit_code, result.stdout, result.stderr))


def test_a_long_name_is_cut_and_an_address_is_broken():
    assert (len(plain_name("x" * 500)), plain_name("a::b[x=1, y:2]://c")) == (LONGEST, "a::b[x=1, y:2]:?/c")


def test_a_decision_that_was_written_is_read(tmp_path):
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(decided(SLOWER)))
    (found,) = read_decision(path).verdicts
    assert (found.base, found.head, found.estimate, found.n) == (0.1, 0.12, 0.2, 12)
