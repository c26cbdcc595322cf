"""What is read of the JUnit XML that pytest writes of a process in which something failed."""

import signal

import pytest

from stagebench.gate.runner.fresh_process import FailedError, Failure, read_failures, xml_options

pytest_plugins = ("pytester",)

STAGE = "class StageError(Exception):\n    pass\n"


@pytest.fixture
def failures_of(pytester):
    """What fails in a file of benchmarks with this text."""

    def run(text):
        path = pytester.makepyfile(test_it=text).with_suffix(".xml")
        pytester.runpytest_inprocess(*xml_options(path))
        return read_failures(path)

    return run


def test_an_error_is_named_by_its_type_and_the_benchmark_by_its_full_name(failures_of):
    text = (
        "import pytest\n@pytest.mark.parametrize('x', ['m-decode'])\ndef test_stage(x):\n    raise ValueError('a\\nb')"
    )
    assert failures_of(text) == [Failure("test_it.py::test_stage[m-decode]", "ValueError: a")]


def test_a_benchmark_of_a_class_has_its_name_too(failures_of):
    assert failures_of("class TestIt:\n    def test_stage(self):\n        raise ValueError('a')") == [
        Failure("test_it.py::TestIt::test_stage", "ValueError: a")
    ]


@pytest.mark.parametrize("body", ["raise StageError('no')", "yield\n    raise StageError('no')"])
def test_an_error_of_a_stage_is_known_in_a_fixture_too(failures_of, body):
    text = f"import pytest\n{STAGE}\n@pytest.fixture\ndef proof():\n    {body}\n\ndef test_stage(proof):\n    pass"
    (failure,) = failures_of(text)
    assert (failure.reason, failure.by_a_stage) == ("StageError: no", True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("=", "SyntaxError: invalid syntax"),
        ("raise RuntimeError('of a module')", "RuntimeError: of a module"),
        ("def test_it():\n    assert [1] == [2]", "assert [1] == [2]"),
        ("def test_it(nothing):\n    pass", "fixture 'nothing' not found"),
    ],
)
def test_whatever_else_fails_is_no_error_of_a_stage(failures_of, text, reason):
    (failure,) = failures_of(text)
    assert (reason in failure.reason, len(failure.reason.splitlines()), failure.by_a_stage) == (True, 1, False)


def test_what_passes_or_is_skipped_did_not_fail(failures_of):
    assert failures_of("import pytest\ndef test_it():\n    pass\ndef test_other():\n    pytest.skip('no')") == []


@pytest.mark.parametrize("text", [None, "", "<testsuites><testsuite>", "\x00"])
def test_a_file_that_is_not_there_or_no_xml_names_nothing(tmp_path, text):
    path = tmp_path / "out.xml"
    if text is not None:
        path.write_text(text)
    assert read_failures(path) == []


@pytest.mark.parametrize(
    ("status", "said", "what"),
    [
        (2, b"", "exit status 2: no word"),
        (4, b"E   ImportError: x\n  rootdir: /y\n", "exit status 4: ImportError: x"),
        (
            4,
            b"pytest: error: unrecognized arguments: --x=1 --y\n  rootdir: /y\n",
            "a revision without the options --x=1 --y",
        ),
        (5, b"1 deselected", "none selected"),
        (128 + signal.SIGKILL, b"", "a process killed by signal 9, Killed"),
        (168, b"", "a process killed by signal 40, Real-time signal 6"),
    ],
)
def test_a_process_that_names_no_failure_is_reported_by_how_it_ended(status, said, what):
    assert str(FailedError("head", status, [], said)) == f"the benchmarks of the head must pass, got {what}"


def test_a_benchmark_is_named_with_all_that_its_parameters_hold():
    failures = [Failure("tests/test_it.py::TestIt::test_it[c::d]", "ValueError: y")]
    assert str(FailedError("head", 1, failures, b"")).endswith("got test_it[c::d]: ValueError: y")


def test_beside_an_error_of_a_stage_what_else_failed_is_missing_and_alone_no_verdict():
    failures = [Failure("a", "StageError: x"), Failure("b", "ValueError: y")]
    verdicts = FailedError("head", 1, failures, b"").verdicts()
    assert [(v.benchmark, v.verdict, v.reason) for v in verdicts] == [
        ("a", "regression", "StageError: x"),
        ("b", "missing", "ValueError: y"),
    ]
    assert FailedError("head", 1, failures[1:], b"").verdicts() == []
