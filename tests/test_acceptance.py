"""Which runs become a baseline: those that ended well, and were of the whole suite. On one that takes no time."""

import json
from contextlib import suppress

import pytest

from stagebench.core.errors import ResultsError
from stagebench.core.places import place_of
from stagebench.core.results import read_results
from stagebench.gate import baseline

pytest_plugins = ("pytester",)

LATE = {
    "a later hook": "def pytest_sessionfinish(session): session.exitstatus = 1",
    "a wrapper after all": """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    yield
    session.exitstatus = 1""",
    "a hook that fails": "def pytest_sessionfinish(session): 1 / 0",
    "a summary that fails": "def pytest_terminal_summary(): 1 / 0",
    "an end that fails": "def pytest_unconfigure(): 1 / 0",
    "a hook that stops": "def pytest_sessionfinish(session): pytest.exit('no disk', 7)",
    "a session's teardown": """
@pytest.fixture(autouse=True, scope="session")
def server():
    yield
    assert False, 'still up'""",
}
STOPPED = {
    "an interruption": (
        "benchmark.extra_info |=",
        "if stage == 'decode': raise KeyboardInterrupt\n    benchmark.extra_info |=",
    ),
    "a failure": ("benchmark.extra_info |=", "assert stage != 'decode'\n    benchmark.extra_info |="),
    "an exit": ("benchmark.extra_info |=", "pytest.exit('enough', 0)\n    benchmark.extra_info |="),
}
KEEPERS = ("--benchmark-json=out.json", "--benchmark-save=out", "--benchmark-autosave")


def run_of(run):
    """The file of the latest run, wherever it was kept."""
    return max(
        [*run.folder.glob("out.json"), *run.folder.glob(".benchmarks/*/*.json")], key=lambda p: p.stat().st_mtime
    )


def add_to_conftest(run, text):
    (run.folder / "conftest.py").write_text(f"import pytest\npytest_plugins = ('stagebench.suite.plugin',)\n{text}")


def rewrite(run, old, new):
    path = run.folder / "test_stages.py"
    path.write_text(path.read_text().replace(old, new))


def accept(run, **more):
    return baseline.accept(run_of(run), run.folder / "baselines", "try", **more)


@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_run_that_ended_well_is_accepted_however_it_was_kept(quick_suite, keeper):
    assert quick_suite(keeper).ret == 0
    own = read_results(accept(quick_suite))["stagebench"]
    assert (own["complete"], own["exit_status"], own["failed"], own["selection"]) == (True, 0, 0, [])


def test_a_run_is_accepted_from_any_folder(quick_suite):
    (quick_suite.folder / "a").mkdir()
    path = quick_suite.folder / "a" / "run.json"
    assert quick_suite(f"--benchmark-json={path}").ret == 0
    assert baseline.accept(path, quick_suite.folder / "baselines", "try").is_file()


@pytest.mark.parametrize("late", LATE)
def test_what_fails_after_the_numbers_were_written_is_no_baseline(quick_suite, late):
    add_to_conftest(quick_suite, LATE[late])
    quick_suite(KEEPERS[0])
    assert len(json.loads(run_of(quick_suite).read_text())["benchmarks"]) == 2
    with pytest.raises(ResultsError, match=r"only if nothing failed|only if it is complete"):
        accept(quick_suite)


@pytest.mark.parametrize("stop", STOPPED)
def test_a_run_that_was_stopped_does_not_become_a_baseline(quick_suite, stop):
    rewrite(quick_suite, *STOPPED[stop])
    with suppress(KeyboardInterrupt):  # pytester raises it once more
        quick_suite("-x", KEEPERS[0])
    with pytest.raises(ResultsError, match=r"only if nothing failed|only if it is complete"):
        accept(quick_suite)


def test_a_run_of_before_is_not_touched_by_one_that_saves_nothing(quick_suite):
    quick_suite(KEEPERS[0])
    before = run_of(quick_suite).read_text()
    rewrite(quick_suite, "benchmark.pedantic", "assert False\n    benchmark.pedantic")
    assert quick_suite(KEEPERS[0], "-W", "ignore:Not saving anything").ret == pytest.ExitCode.TESTS_FAILED
    assert run_of(quick_suite).read_text() == before


def test_each_of_two_places_says_how_the_run_ended(quick_suite):
    add_to_conftest(quick_suite, LATE["a later hook"])
    quick_suite(*KEEPERS[:2])
    kept = [quick_suite.folder / "out.json", *quick_suite.folder.glob(".benchmarks/*/*.json")]
    own = [json.loads(path.read_text())["stagebench"] for path in kept]
    assert [(o["complete"], o["final_status"]) for o in own] == [(True, 1)] * 2


def test_other_work_than_in_the_baseline_keeps_a_run_from_becoming_one(stored):
    rewrite(stored, '"host_reads": 2', '"host_reads": 1')
    assert stored("--benchmark-compare", KEEPERS[0]).ret == pytest.ExitCode.TESTS_FAILED
    with pytest.raises(ResultsError, match="only if nothing failed, got 0 failures and pytest's exit status 1"):
        accept(stored)


@pytest.mark.parametrize("new", ['["encode"]', '["encode", "decoding"]'])
def test_a_vanished_or_renamed_benchmark_fails_and_keeps_the_run_from_becoming_a_baseline(stored, new):
    rewrite(stored, '["encode", "decode"]', new)
    done = stored("--benchmark-compare", KEEPERS[0])
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["stagebench: test_stage?decode?: in the baseline only, removed or renamed"])
    with pytest.raises(ResultsError, match="only if nothing failed, got 0 failures and pytest's exit status 1"):
        accept(stored, partial=True)


def test_a_skipped_benchmark_has_vanished_too(stored):
    rewrite(stored, "benchmark.pedantic", "if stage == 'decode': pytest.skip()\n    benchmark.pedantic")
    assert stored("--benchmark-compare").ret == pytest.ExitCode.TESTS_FAILED


def test_a_session_is_compared_with_the_baseline_of_a_store(quick_suite):
    store = place_of("memory://team/b")
    quick_suite("--benchmark-json=out.json")
    baseline.accept(quick_suite.folder / "out.json", store, "the first one")
    done = quick_suite("--benchmark-compare", "--stage-baselines=memory://team/b")
    done.stdout.fnmatch_lines(["*comparing with *-tiny-float32-*/000001-*.baseline.json*"])
    assert done.ret == pytest.ExitCode.OK
    rewrite(quick_suite, '"host_reads": 2', '"host_reads": 1')
    assert quick_suite("--benchmark-compare", "--stage-baselines=memory://team/b").ret == pytest.ExitCode.TESTS_FAILED


LEFT_OUT = {
    "-k": ("-k", "encode"),
    "--deselect": ("--deselect=test_stages.py::test_stage[decode]",),
    "a node id": ("test_stages.py::test_stage[encode]",),
    "-m": ("-m", "quick"),
    "--ignore": ("--ignore=other", "--deselect=test_stages.py::test_stage[decode]"),
    "--ignore-glob": ("--ignore-glob=*stages.py", "more"),
    "a file": ("more/test_more.py",),
    "--stage-model": ("--stage-model=llava-1.5",),
    "--stage-backend": ("--stage-backend=graph", "--stage-device=cuda"),
}


@pytest.fixture
def marked(stored):
    """The same, one of them marked, beside a benchmark of another model in a folder of its own."""
    (stored.folder / "more").mkdir()
    more = stored.suite.replace("eventgpt", "llava-1.5").replace("test_stage(", "test_more(")
    (stored.folder / "more/test_more.py").write_text(more)
    rewrite(stored, '"encode", ', 'pytest.param("encode", marks=pytest.mark.quick), ')
    (stored.folder / "pytest.ini").write_text("[pytest]\nmarkers = quick\n")
    return stored


@pytest.mark.parametrize("arguments", [LEFT_OUT[key] for key in LEFT_OUT if key != "--stage-backend"])
def test_what_is_left_out_on_purpose_has_not_vanished(marked, arguments):
    if "--stage-model=llava-1.5" in arguments:
        (marked.folder / "test_stages.py").unlink()
    assert marked(*arguments, "--benchmark-compare").ret == 0


@pytest.mark.parametrize(
    "arguments", [LEFT_OUT[key] for key in LEFT_OUT if key not in ("--stage-backend", "--ignore-glob")]
)
def test_a_run_of_a_part_of_the_suite_becomes_the_first_baseline_only_when_asked_to(marked, arguments):
    assert marked(*arguments, KEEPERS[0]).ret == 0
    root = marked.folder / "others"
    with pytest.raises(ResultsError, match="of a part of the suite needs --partial to become a baseline"):
        baseline.accept(marked.folder / "out.json", root, "try")
    assert baseline.accept(marked.folder / "out.json", root, "try", partial=True).is_file()
    assert baseline.accept(marked.folder / "out.json", root, "the same part again").is_file()


def test_what_a_filtered_run_lacks_is_said(quick_suite):
    quick_suite("-k", "encode", KEEPERS[0])
    with pytest.raises(ResultsError, match=r"got -k encode, without test_stages.py::test_stage\[decode\]"):
        accept(quick_suite)


def test_what_a_plugin_leaves_out_makes_a_part_too(quick_suite):
    add_to_conftest(
        quick_suite,
        "def pytest_collection_modifyitems(config, items): config.hook.pytest_deselected(items=[items.pop()])",
    )
    quick_suite(KEEPERS[0])
    with pytest.raises(ResultsError, match=r"got the selection of a plugin, without test_stages.py::test_stage"):
        accept(quick_suite)


def test_what_the_suite_itself_leaves_out_until_asked_for_is_no_part(quick_suite):
    add_to_conftest(
        quick_suite,
        """
from stagebench.suite.selection import BY_DEFAULT
def pytest_collection_modifyitems(config, items):
    slow = items.pop()
    slow.stash[BY_DEFAULT] = True
    config.hook.pytest_deselected(items=[slow])""",
    )
    quick_suite(KEEPERS[0])
    assert accept(quick_suite).is_file()
