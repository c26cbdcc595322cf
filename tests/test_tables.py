"""One table: what it leaves out, and how it looks on a terminal, in a log file, in Markdown and in HTML."""

import io

import pytest
from rich.console import Console

from stagebench.analysis.report.document import to_html
from stagebench.core.shown import CHANGE, COUNT, MS, NAMES, PERCENT, RATIO, WORDS, Table, show
from stagebench.core.shown import to_markdown as markdown
from stagebench.gate.verdicts import Decision, Verdict

SMALL = Table("sizes", (("name", WORDS), ("time", MS), ("share", PERCENT)), (("a", 0.0015, 0.25), ("b", 1.5, 0.75)))
REASON = "slower by 21.0 % (18.0 % to 24.0 %), above the limit of 5 %, in fresh processes of both sides too"
LONG = "test_stage[video-llava-7b-graph-compiled-decode-batch-8-ctx-2048]"


def shown(table, width=None):
    """The lines on a terminal of that width, or in a log file."""
    console = Console(width=width, force_terminal=width is not None, color_system=None)
    with console.capture() as out:
        show(table, console)
    return [line.rstrip() for line in out.get().splitlines()]


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (MS, 0.0123456, "12.346"),
        (MS, 1.2345, "1,234.500"),
        (MS, 1.178e-7, "0.000118"),
        (MS, 2.9e-18, "0.000"),  # less than any clock sees
        (MS, 2.5e-10, "2.5e-07"),
        (MS, 0.0, "0.000"),
        (MS, (1.178e-7, 0.002), "0.000118 to 2.000"),
        (PERCENT, 0.123, "12.3 %"),
        (CHANGE, 0.05, "+5.0 %"),
        (COUNT, 32, "32"),
        (RATIO, -0.0001, "0.000"),
        (MS, (0.001, 0.002), "1.000 to 2.000"),
        (MS, {"low": 0.001, "high": 0.002}, "1.000 to 2.000"),
        (MS, "none", "none"),
        (MS, None, ""),
    ],
)
def test_a_value_is_written_in_its_unit(unit, value, text):
    assert unit.write(value) == text


def test_a_log_file_has_a_row_in_a_line():
    assert shown(SMALL) == [
        "sizes",
        "name   time, ms   share",
        "----  ---------  ------",
        "a         1.500  25.0 %",
        "b     1,500.000  75.0 %",
    ]


def test_markdown_aligns_numbers_and_puts_notes_below():
    noted = Table(SMALL.title, SMALL.columns, SMALL.rows, ("of *both*",))
    assert markdown(noted).splitlines() == [
        "**sizes**",
        "",
        "| name | time, ms | share |",
        "| --- | ---: | ---: |",
        "| a | 1.500 | 25.0 % |",
        "| b | 1,500.000 | 75.0 % |",
        "",
        r"- of \*both\*",
    ]


def test_html_escapes_what_it_shows():
    table = Table("<t>", (("<h>", WORDS), ("n", COUNT)), (("<c>", 1), ("&", 2)), ("<n>",))
    page = to_html("", {"": (table,)})
    for text in (
        "&lt;t&gt;",
        "&lt;h&gt;",
        "&lt;c&gt;",
        "&lt;n&gt;",
        '<th scope="row">&amp;</th>',
        '<td class="number">2</td>',
    ):
        assert text in page


COLUMNS = (("name", WORDS), ("size", COUNT), ("place", WORDS))


@pytest.mark.parametrize(
    ("rows", "heads"),
    [
        ([("a", 1, "x"), ("b", 2, "y")], ["name", "size", "place"]),
        ([("a", 1, "x"), ("a", 1, "x")], ["name", "size", "place"]),
        ([("a", None, "x"), ("b", 2, "x")], ["name", "size", "place"]),
        ([("a", None, "x")], ["name", "place"]),
        ([("a", None, ""), ("b", None, "")], ["name"]),
        ([("", None, ""), ("", None, "")], ["name"]),
    ],
)
def test_only_an_empty_column_goes(rows, heads):
    assert Table("", COLUMNS, rows).grid()[0] == heads


def test_two_benchmarks_with_the_same_verdict_and_reason_have_both_in_their_own_lines():
    reason = "frames: 8 before, 9 now"
    table = Decision([Verdict(f"b.py::{name}", "counter", "regression", reason, 8) for name in "xy"]).as_table()
    assert shown(table)[-2:] == [f"regression  {name}          {reason}" for name in "xy"]
    assert markdown(table).splitlines()[-2:] == [f"| regression | `{name}` | {reason} |" for name in "xy"]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a[b]_c*", "`a[b]_c*`"),
        ("a`b``", "`a'b''`"),
        ("a|b", r"`a\|b`"),
        (r"a\\|b\c", r"`a\|b\c`"),
        ("www.x", "`www.x`"),
        ("", ""),
    ],
)
def test_a_name_is_code_in_markdown_and_nothing_in_it_ends_the_code_or_its_cell(name, written):
    table = Table("", [("", NAMES), ("n", COUNT)], [(name, 1), ("other", 2)])
    assert markdown(table).splitlines()[-2] == f"| {written} | 1 |"


def test_a_table_without_rows_is_its_title_and_notes():
    table = Table("none failed", COLUMNS, (), ("see below",))
    assert (shown(table), markdown(table)) == (["none failed", "see below"], "**none failed**\n\n- see below")


VERDICTS = [
    Verdict(f"benchmarks/test_stages.py::{LONG}", "time", "regression", REASON, 8, 0.0123, 0.0149, 0.21),
    Verdict("benchmarks/test_stages.py::test_stage[m-load]", "time", "pass", "within the limits", 8, 0.1, 0.1, 0.0),
]


@pytest.mark.parametrize("width", [40, 80, 120, 400, None])
def test_a_verdict_shows_its_word_its_whole_benchmark_and_its_whole_reason(width):
    lines = shown(Decision(VERDICTS).as_table(), width)
    words = " ".join(" ".join(lines).split())
    assert (REASON in words, LONG in "".join(words.split()), "regression" in words) == (True, True, True)
    assert "12.300 14.900 +21.0 %" in words


def test_a_verdict_at_eighty_columns_is_read_line_by_line():
    assert shown(Decision(VERDICTS[1:]).as_table(), 80) == [
        "stagebench gate: pass (1 pass)",
        "verdict  benchmark           base, ms  head, ms  change  why",
        "-------  ------------------  --------  --------  ------  -----------------",
        "pass     test_stage[m-load]   100.000   100.000  +0.0 %  within the limits",
    ]
    assert shown(Decision(VERDICTS).as_table(), 80) == [
        "stagebench gate: regression (1 regression, 1 pass)",
        "verdict     base, ms  head, ms   change",
        "----------  --------  --------  -------",
        "regression    12.300    14.900  +21.0 %",
        f"  {LONG}",
        "  slower by 21.0 % (18.0 % to 24.0 %), above the limit of 5 %, in fresh",
        "  processes of both sides too",
        "pass         100.000   100.000   +0.0 %",
        "  test_stage[m-load]",
        "  within the limits",
    ]


def test_a_verdict_in_a_log_file_is_one_line():
    line = next(line for line in shown(Decision(VERDICTS).as_table()) if LONG in line)
    assert (line.startswith("regression"), line.endswith(REASON)) == (True, True)


def test_columns_for_which_there_is_no_room_follow_below_with_the_first_one_again():
    table = Table("", (("ms", WORDS), *((name, COUNT) for name in "abc")), [("load", 1e9, 2e9, 3e9)])
    numbers = [f"{n},000,000,000" for n in (1, 2, 3)]
    assert [line.split() for line in shown(table, 40)] == [
        *(["ms", "a", "b"], ["-" * 4, "-" * 13, "-" * 13], ["load", *numbers[:2]]),
        *(["ms", "c"], ["-" * 4, "-" * 13], ["load", numbers[2]]),
    ]


NAMES_OF_MODELS = ["llava-1.5", "hf:/a/folder/whose/name/is/longer/than/any/terminal/" + "x" * 40, *"abcde"]


@pytest.mark.parametrize("name", ["short", "n" * 30, "n" * 70, "n" * 200])
@pytest.mark.parametrize("unit", [WORDS, NAMES])
@pytest.mark.parametrize("models", range(1, 8))
def test_no_line_of_a_table_is_wider_than_the_terminal(name, unit, models):
    heads = NAMES_OF_MODELS[:models]
    bars = {head: [0.5] for head in heads}
    columns = (("stage", unit), *((head, COUNT) for head in heads))
    table = Table("", columns, [(name, *(1500 for _ in heads)), ("e2e", *((1000, 200000) for _ in heads))], bars=bars)
    lines = shown(table, 80)
    assert [line for line in lines if len(line) > 80] == []
    whole = "".join("".join(lines).split())
    assert (whole.count("1,500"), whole.count("1,000to200,000")) == (models, models)


def test_bars_are_as_long_as_shares_and_have_the_style_of_their_row():
    table = Table("", COLUMNS, [("a", None, "1"), ("b", None, "22")], styles=["red", "blue"], bars={"place": [0.25, 1]})
    console = Console(width=80, force_terminal=True, color_system="standard")
    with console.capture() as out:
        show(table, console)
    assert out.get().splitlines()[-2:] == [
        "a     \x1b[31m██████\x1b[0m                    1",
        "b     \x1b[34m████████████████████████\x1b[0m 22",
    ]


def test_a_stream_without_such_characters_gets_bars_of_others():
    table = Table("", COLUMNS, [("a", None, "1"), ("b", None, "1")], bars={"place": [0.25, 1]})
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show(table, Console(width=80, file=ascii_only))
    ascii_only.seek(0)
    assert ascii_only.read().splitlines()[-2:] == ["a     ######                   1", f"b     {'#' * 24} 1"]
