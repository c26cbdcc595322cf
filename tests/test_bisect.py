"""`stagebench bisect`, by a gate whose verdicts are given, and over releases of a package made on the spot."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from stagebench.cli import main
from stagebench.core.errors import GateError
from stagebench.gate.limits import Rules
from stagebench.gate.runner.bisect import BAD, GOOD, SKIPPED, STATE, Search, Step, bisect, releases
from stagebench.gate.verdicts import Decision, Verdict


def verdict(kind, name, counter=None):
    return Verdict("b/test_x.py::test_stage[a]", kind, name, f"{counter or 'time'}: seen", 1, counter=counter)


def decided(*verdicts):
    return Decision(verdicts=verdicts)


SLOWER, FINE = decided(verdict("time", "regression")), decided(verdict("time", "pass"))
UNSURE = decided(verdict("time", "inconclusive"))


def search_with(answers, tmp_path, number=6, asked=None, **options):
    """A search among releases 0 to number - 1, of which a gate says what `answers` returns."""
    asked = [] if asked is None else asked

    def gate(search, release, left, folder):
        asked.append((release, search.counters_only))
        answer = answers(int(release))
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = bisect(Search("p", [*map(str, range(number))], ""), gate, tmp_path, None, lambda line: None, **options)
    return found, [release for release, _ in asked]


@given(number=st.integers(2, 60), data=st.data())
def test_it_names_the_first_slower_release_in_as_few_steps_as_halving_takes(tmp_path_factory, number, data):
    first = data.draw(st.integers(1, number - 1))
    folder = tmp_path_factory.mktemp("search")
    found, asked = search_with(lambda i: SLOWER if i >= first else FINE, folder, number)
    assert found.answer == (str(first - 1), str(first))
    assert len(asked) <= 1 + (number - 2).bit_length()


@given(number=st.integers(2, 30), data=st.data())
def test_where_releases_can_not_be_decided_the_answer_names_them_too(tmp_path_factory, number, data):
    first = data.draw(st.integers(1, number - 1))
    skipped = data.draw(st.sets(st.integers(1, max(1, number - 2)))) - {number - 1}

    def answers(i):
        return UNSURE if i in skipped else SLOWER if i >= first else FINE

    found, asked = search_with(answers, tmp_path_factory.mktemp("search"), number)
    good, bad = map(int, found.answer)
    assert good < first <= bad
    assert {*range(good + 1, bad)} <= skipped
    assert len(asked) == len({*asked})


def test_where_the_last_release_is_no_slower_nothing_else_is_tested(tmp_path):
    found, asked = search_with(lambda i: FINE, tmp_path)
    assert (found.answer, asked) == (None, ["5"])
    assert found.described(Rules()) == "none: p 5 is no slower than 0 (1 releases and 0 processes)"


def test_an_undecided_last_release_is_no_answer(tmp_path):
    found, asked = search_with(lambda i: UNSURE, tmp_path)
    assert (found.answer, asked) == (None, ["5"])
    assert found.described(Rules()) == "undecided: test_stage[a]: time: seen"


def test_a_release_that_a_gate_can_not_measure_is_left_out(tmp_path):
    found, _ = search_with(lambda i: GateError("broken") if i == 2 else SLOWER if i > 2 else FINE, tmp_path)
    assert found.answer == ("1", "3")
    assert {(step.release, step.verdict, step.why) for step in found.steps if step.verdict == SKIPPED} == {
        ("2", SKIPPED, "broken")
    }
    assert "p 3 (or 2, which could not be decided) made it slower" in found.described(Rules())


def test_a_counter_is_followed_without_times_where_no_time_is_a_regression(tmp_path):
    more, asked = decided(verdict("counter", "regression", "flops"), verdict("time", "pass")), []
    found, _ = search_with(lambda i: more if i >= 3 else decided(verdict("counter", "pass")), tmp_path, asked=asked)
    assert (found.answer, [counting for _, counting in asked]) == (("2", "3"), [False, True, True])
    assert found.error(Rules()) == 0


def test_another_counter_than_the_one_that_is_followed_does_not_count(tmp_path):
    def answers(i):
        names = (["flops"] if i >= 4 else []) + (["reads"] if i == 2 else [])
        return decided(*(verdict("counter", "regression", name) for name in names))

    assert search_with(answers, tmp_path)[0].answer == ("3", "4")


@pytest.mark.parametrize(
    ("followed", "selection"),
    [
        ([], "a or b"),
        ([("f.py::test_x[a-1.5]", None), ("f.py::C::test_y", "flops")], "test_x[a-1.5] or test_y"),
        ([("f.py::test_x[a (b)]", None)], "a or b"),
    ],
)
def test_what_is_followed_alone_is_run_where_its_names_can_be_selected(followed, selection):
    assert Search("p", [*"01"], "a or b", [], followed).selection == selection


FAILED = decided(verdict("counter", "regression"))  # a stage of the release refuses its own work


@pytest.mark.parametrize("slower", [SLOWER, decided(verdict("counter", "regression", "flops"))])
def test_a_release_whose_stage_fails_is_neither_good_nor_bad(tmp_path, slower):
    found, _ = search_with(lambda i: FAILED if i in (2, 3) else slower if i >= 3 else FINE, tmp_path)
    assert found.answer == ("1", "4")


def test_a_last_release_whose_stage_fails_is_no_answer(tmp_path):
    found, _ = search_with(lambda i: FAILED, tmp_path)
    assert (found.answer, found.described(Rules())) == (None, "undecided: test_stage[a]: time: seen")


def test_the_risk_is_the_sum_of_those_of_its_decisions_on_times():
    steps = [Step("3", BAD, "", 0, 8), Step("1", GOOD, "", 0, 8), Step("2", SKIPPED, "", 0, 0)]
    search = Search("p", [*"0123"], "", [], [("test_x", None)], steps)
    assert search.error(Rules(alpha=0.01, confidence=0.95)) == pytest.approx(0.06)


class Killed(BaseException):
    """Ends a search as a signal does."""


@given(data=st.data())
def test_a_search_that_is_killed_anywhere_goes_on_where_it_was(tmp_path_factory, data):
    number = data.draw(st.integers(2, 20))
    first, folder, asked = data.draw(st.integers(1, number - 1)), tmp_path_factory.mktemp("search"), []

    def answers(i):
        if data.draw(st.booleans()):
            asked.pop()
            raise Killed
        return SLOWER if i >= first else FINE

    while True:
        try:
            found, _ = search_with(answers, folder, number, asked)
            break
        except Killed:
            pass
    assert (found.answer, len(asked)) == ((str(first - 1), str(first)), len({*asked}))


def test_the_search_of_another_package_is_refused_and_kept(tmp_path):
    search_with(lambda i: FINE, tmp_path)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(GateError, match=r"bisect.json must be of the same search, .*'q'.*, got .*'p'"):
        bisect(Search("q", [*"012345"], ""), SimpleNamespace(), tmp_path, None, lambda line: None)
    assert (tmp_path / STATE).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"package": NaN}'])
def test_a_damaged_search_is_refused_in_one_line(tmp_path, content):
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(GateError, match=r"^[^\n]+$"):
        search_with(lambda i: FINE, tmp_path)


@pytest.fixture
def on_shelf(write_wheel, shelf):
    """Puts releases of `tiny` on the shelf: the frames that each decodes, or None for one that can't be imported."""

    def put(**frames):
        for release, number in frames.items():
            code = "raise ImportError" if number is None else f"FRAMES = {number}"
            write_wheel(shelf, "tiny", release.removeprefix("v").replace("_", "."), code)

    return put


def test_releases_are_those_that_pip_finds_without_those_before_a_release(on_shelf):
    on_shelf(v1_2=9, v1_3rc1=9, v1_10=9)
    assert releases("tiny", "1.0", "1.10") == ["1.0", "1.1", "1.2", "1.10"]


@pytest.mark.parametrize(
    ("good", "bad", "error"),
    [
        ("1.0", "7", "tiny must have the release 7, got none that pip finds"),
        ("7", "1.0", "tiny must have the release 7, got none that pip finds"),
        ("1.1", "1.0", "the good release must be before the bad one, got 1.1 and 1.0"),
        ("1.0", "1.0", "the good release must be before the bad one, got 1.0 and 1.0"),
    ],
)
def test_releases_that_are_none_or_in_the_wrong_order_are_refused(shelf, good, bad, error):
    with pytest.raises(GateError, match=f"^{error}$"):
        releases("tiny", good, bad)


def test_the_command_names_the_release_of_more_work_and_goes_on_at_once_when_it_is_run_again(
    on_shelf, uses_tiny, tmp_path, monkeypatch
):
    on_shelf(v1_2=9, v1_3=None, v1_4=12, v1_5=12)
    monkeypatch.chdir(uses_tiny)
    out, told = tmp_path / "out", tmp_path / "told.json"
    line = ["bisect", "--with", "tiny", "--good", "1.1", "--bad", "1.5", "--out", str(out), "--json", str(told)]
    quick = ["--budget", "1h"]
    monkeypatch.setattr("stagebench.cli.bisect.gate", counted)
    first = CliRunner().invoke(main, [*line, *quick])
    assert first.exit_code == 1, first.output
    assert "tiny 1.4 (or 1.3, which could not be decided) made it slower: test_stage[a]" in first.stdout
    again = CliRunner().invoke(main, [*line, *quick])
    assert (again.exit_code, again.stdout) == (1, first.stdout)
    source = uses_tiny / "src" / "fake.py"
    source.write_text(source.read_text() + "# other code\n")
    other = CliRunner().invoke(main, [*line, *quick])
    assert (other.exit_code, "must be of the same search" in other.output) == (2, True)
    steps = json.loads(told.read_text())["steps"]
    assert {step["release"]: step["verdict"] for step in steps} == {"1.5": BAD, "1.3": SKIPPED, "1.2": GOOD, "1.4": BAD}


def counted(**given):
    from stagebench.gate.runner.gate import gate

    return gate(**given | {"counters_only": True, "budget": None})


def test_a_package_that_pip_can_not_reach_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["bisect", "--with", "tiny", "--good", "1", "--bad", "2", "--out", str(Path("out"))]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    done = CliRunner().invoke(main, line)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
