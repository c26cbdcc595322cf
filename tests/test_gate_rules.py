import pytest

from stagebench.core.errors import GateError
from stagebench.gate.limits import Limit, Rules, read_both, read_rules

DECODE = "benchmarks/test_stages.py::test_stage[eventgpt-decode]"


def rules_of(tmp_path, text):
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    return read_rules(path)


def test_without_a_file_or_a_section_the_defaults_hold(tmp_path):
    assert read_rules(tmp_path / "pyproject.toml") == rules_of(tmp_path, "[project]\nname = 'x'") == Rules()


def test_the_section_changes_the_default(tmp_path):
    rules = rules_of(tmp_path, '[tool.stagebench.gate]\nthreshold = 0.1\nfloor = "1.5 ms"')
    assert rules.limit == Limit(0.1, 1.5e-3)


def test_the_last_match_wins_and_keeps_what_it_does_not_name(tmp_path):
    text = """
    [tool.stagebench.gate]
    floor = "10us"
    rules = [
        {match = "*eventgpt*", threshold = 0.2, floor = "1ms"},
        {match = "*decode*", threshold = 0.3},
        {match = "*encode*", threshold = 0.4},
    ]
    """
    assert rules_of(tmp_path, text).limit_of(DECODE, {}) == Limit(0.3, pytest.approx(10e-6))


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("test_stage[eventgpt-decode]", True),
        ("test_stage[*-decode]", True),
        ("*::test_stage*", True),
        ("benchmarks/*", True),
        ("test_stage[llava-decode]", False),
        ("decode", False),
    ],
)
def test_a_pattern_matches_the_name_with_its_brackets(pattern, matches):
    rules = Rules(by_glob=((pattern, {"threshold": 0.5}),))
    assert (rules.limit_of(DECODE, {}).threshold == 0.5) is matches


def test_a_marker_overrides_what_it_names():
    rules = Rules(by_glob=(("*", {"threshold": 0.5, "floor": 1.0}),))
    assert rules.limit_of(DECODE, {"floor": "2s"}) == Limit(0.5, 2.0)


def test_a_tolerance_joins_the_default_one(tmp_path):
    rules = rules_of(tmp_path, "[tool.stagebench.gate.tolerance]\nallocations = 0.1")
    assert rules.tolerance == {"peak_bytes": 0.02, "bytes_from_files": 0.02, "allocations": 0.1}


@pytest.mark.parametrize(("seconds", "limit"), [(1.0, 0.05), (1e-3, 0.05), (1e-4, 0.5)])
def test_the_floor_is_the_limit_of_what_is_very_short(seconds, limit):
    assert Limit(0.05, 50e-6).of(seconds) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "must be TOML"),
        ("[tool.stagebench]\ngate = 3", "must be a table, got 3"),
        ("[tool]\nstagebench = 3", "must be a table, got 3"),
        ("[tool.stagebench.gate]\nthreshold = -0.1", r"threshold must be a number of at least 0 .*got -0.1"),
        ("[tool.stagebench.gate]\nthreshold = '5%'", "threshold must be a number"),
        ("[tool.stagebench.gate]\nthreshold = true", "threshold must be a number"),
        ("[tool.stagebench.gate]\nthreshold = nan", "threshold must be a number"),
        ("[tool.stagebench.gate]\nfloor = 20", 'floor must be a time such as "20us"'),
        ("[tool.stagebench.gate]\nfloor = '20 parsecs'", "got '20 parsecs'"),
        ("[tool.stagebench.gate]\nlimit = 1", "may have threshold and floor, got limit"),
        ("[tool.stagebench.gate]\nrules = 1", "rules must be a list of tables"),
        ("[tool.stagebench.gate]\nrules = [1]", "a rule must be a table, got 1"),
        ("[tool.stagebench.gate]\nrules = [{threshold = 1}]", "a rule must have a match"),
        ("[tool.stagebench.gate]\nrules = [{match = 'x', treshold = 1}]", "the rule 'x' may have threshold and floor"),
        ("[tool.stagebench.gate.tolerance]\npeak_bytes = 'much'", "peak_bytes must be a number"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(GateError, match=message) as refused:
        rules_of(tmp_path, text)
    assert len(str(refused.value).splitlines()) == 1


def both(tmp_path, base, head):
    paths = [tmp_path / side / "pyproject.toml" for side in ("base", "head")]
    for path, text in zip(paths, (base, head), strict=True):
        path.parent.mkdir()
        path.write_text(text)
    return read_both(*paths)


GATE = "[tool.stagebench.gate]\n"


@pytest.mark.parametrize(
    ("base", "head", "limit", "differ"),
    [
        ("", "", Limit(), []),
        ("", "threshold = 0.5", Limit(), ["threshold 0.05 in the base, 0.5 in the head"]),
        ("threshold = 0.5", "", Limit(), ["threshold 0.5 in the base, 0.05 in the head"]),
        ('floor = "1ms"', 'floor = "1s"', Limit(floor=1e-3), ["floor 0.001 s in the base, 1 s in the head"]),
        (
            "",
            "rules = [{match = '*decode*', threshold = 9}]",
            Limit(),
            ["rule for *decode*: not given in the base, [{'threshold': 9.0}] in the head"],
        ),
        (
            "rules = [{match = '*', threshold = 0.2}]",
            "rules = [{match = '*', threshold = 0.3}]",
            Limit(0.2),
            ["rule for *: [{'threshold': 0.2}] in the base, [{'threshold': 0.3}] in the head"],
        ),
        (
            "rules = [{match = '*decode*', threshold = 0.2}, {match = '*', threshold = 0.3}]",
            "rules = [{match = '*', threshold = 0.3}, {match = '*decode*', threshold = 0.2}]",
            Limit(0.2),
            ["rules: in another order in the head"],
        ),
    ],
)
def test_the_stricter_of_two_sides_holds_and_a_difference_is_reported(tmp_path, base, head, limit, differ):
    rules, told = both(tmp_path, GATE + base, GATE + head)
    assert (rules.limit_of(DECODE, {}, {}), told) == (limit, differ)


@pytest.mark.parametrize(
    ("base", "head", "tolerance", "differ"),
    [
        (
            "",
            "peak_bytes = 9",
            {"peak_bytes": 0.02, "bytes_from_files": 0.02},
            ["tolerance of peak_bytes: 0.02 in the base, 9.0 in the head"],
        ),
        (
            "",
            "flops = 9",
            {"peak_bytes": 0.02, "bytes_from_files": 0.02},
            ["tolerance of flops: not given in the base, 9.0 in the head"],
        ),
        (
            "flops = 9",
            "",
            {"peak_bytes": 0.02, "bytes_from_files": 0.02},
            ["tolerance of flops: 9.0 in the base, not given in the head"],
        ),
        (
            "flops = 2",
            "flops = 1",
            {"peak_bytes": 0.02, "bytes_from_files": 0.02, "flops": 1},
            ["tolerance of flops: 2.0 in the base, 1.0 in the head"],
        ),
    ],
)
def test_the_smaller_of_two_tolerances_holds(tmp_path, base, head, tolerance, differ):
    table = "[tool.stagebench.gate.tolerance]\n"
    rules, told = both(tmp_path, table + base, table + head)
    assert (rules.tolerance, told) == (tolerance, differ)


@pytest.mark.parametrize(
    "head",
    [
        "=",
        "\x00",
        GATE + "threshold = -1",
        GATE + "alpha = 0.5",
        f"{GATE}threshold = 1{'0' * 400}",
        "a = " + "[" * 9999,
    ],
)
def test_rules_of_the_head_that_make_no_sense_are_a_difference_in_one_line_and_those_of_the_base_hold(tmp_path, head):
    rules, (line,) = both(tmp_path, GATE + "threshold = 0.1", head)
    assert (rules.limit_of(DECODE, {}, {}), len(line.splitlines())) == (Limit(0.1), 1)
    assert line.startswith("those of the head are invalid: ")


def test_rules_of_the_base_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(GateError, match="must be TOML"):
        both(tmp_path, "=", "")
