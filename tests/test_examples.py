"""What `examples/` shows runs as it says; of a model of one's own, see test_stranger.py and test_wheel.py."""

import json
import runpy
import shutil
from pathlib import Path

import matplotlib.pyplot
import pytest

import stagebench.suite.measure  # noqa: F401 # with torch, which a session in this process would import and forget

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
OF_A_MODEL = ("--stage-model=llava-1.5", "--stage-device=cpu", "--stage-rounds=2")
SHOWN = {
    "own_benchmark": ("test_long_question[llava-1.5]", OF_A_MODEL, {"tokens"}),
    "own_media_rule": ("test_load_moving[llava-1.5]", OF_A_MODEL, {"images", "frames_decoded", "bytes_read"}),
    "own_counter": ("test_ids", (), {"lookups"}),
}


def test_every_example_is_tested_and_the_docs_name_it():
    text = (ROOT / "docs" / "own-repository.md").read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"}
    assert names == {*SHOWN, "own_model", "stage_bar.py"}
    assert [name for name in names if f"examples/{name}" not in text] == []


@pytest.mark.parametrize("name", SHOWN)
def test_a_benchmark_of_ones_own_is_timed_with_its_counters(pytester, name):
    benchmark, options, counters = SHOWN[name]
    shutil.copytree(EXAMPLES / name, pytester.path, dirs_exist_ok=True)
    plugin = ("-p", "stagebench.suite.plugin") if options else ()
    assert pytester.runpytest_inprocess(*plugin, "--benchmark-json=out.json", *options).ret == 0
    (found,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert (found["name"], {*found["extra_info"]["counters"]}) == (benchmark, counters)


def test_the_bars_of_the_script_are_as_long_as_the_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    made = runpy.run_path(str(EXAMPLES / "stage_bar.py"))
    bars = sum(patch.get_width() for patch in made["axes"].patches)
    matplotlib.pyplot.close()
    assert bars == pytest.approx(1e3 * sum(measured.median.e2e for measured in made["found"].values()))
    assert (tmp_path / "stages.png").stat().st_size > 0
