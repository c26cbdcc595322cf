"""A stage between encode and prefill takes a descriptor and a function: whatever speaks of stages finds it there.

The stage is made in a copy of the sources, which this process imports in place of ours. It is one that merges
visual tokens: EventGPT's pooling, taken out of its encode.
"""

import ast
import importlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "stagebench"

DESCRIPTOR = """
COMPRESS = Stage(
    "compress",
    "Compressing",
    unit="visual_tokens",
    content=("features",),
    asked=("visual_tokens",),
    in_generate=True,
    in_ttft=True,
)

STAGES = (LOAD, PREPROCESS, ENCODE, COMPRESS, PREFILL, DECODE)
"""

FUNCTION = '''
import torch


def compress(model, inputs, features):
    """Merge the tokens of all images: of each image the mean over space, then of each token that over the images."""
    tokens = features.tokens.unflatten(1, (inputs.images, -1))
    return Features(torch.cat([tokens.mean(dim=2), tokens.mean(dim=1)], dim=1))


STEPS["compress"] = lambda model, sample, options, made: compress(model, made[Inputs], made[Features])
'''

CHANGES = {
    "core/stages.py": lambda text: text.replace("STAGES = (LOAD, PREPROCESS, ENCODE, PREFILL, DECODE)\n", DESCRIPTOR),
    "pipeline/run_stages.py": lambda text: text + FUNCTION,
}


def is_ours(module):
    return module.partition(".")[0] == "stagebench"


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """Imports modules of the copy."""
    root = tmp_path_factory.mktemp("edited")
    shutil.copytree(SOURCES, root / "stagebench", ignore=shutil.ignore_patterns("__pycache__"))
    for name, change in CHANGES.items():
        path = root / "stagebench" / name
        path.write_text(change(path.read_text()))
    ours = {name: sys.modules.pop(name) for name in filter(is_ours, list(sys.modules))}
    sys.path.insert(0, str(root))
    try:
        yield lambda name: importlib.import_module(f"stagebench.{name}")
    finally:
        sys.path.remove(str(root))
        for name in filter(is_ours, list(sys.modules)):
            del sys.modules[name]
        sys.modules.update(ours)


@pytest.fixture(scope="module")
def seen(edited, tmp_path_factory):
    """What verifying and timing a model of such a path gave."""
    settings, verify, timed_pass = edited("core.settings"), edited("pipeline.verify"), edited("pipeline.timed_pass")
    model = edited("models.registry").build_model("eventgpt", settings.ModelSettings())
    type(model).encode = lambda model, inputs: model.hf_model.get_image_tokens(inputs.pixels[0].flatten(0, 1)).flatten(
        0, 1
    )[None]
    clip = edited("media.synthetic_clip").write_synthetic_clip(tmp_path_factory.mktemp("clip"))
    sample = edited("core.artifacts").Sample(clip.events)
    options = settings.GenerationSettings(max_new_tokens=4, fixed_length=True).options()
    verified = verify.verify(model, verify.count_reference(model, sample, options))
    runs = [timed_pass.timed_pass(model, sample, options) for _ in range(2)]
    found = SimpleNamespace(model=model, verified=verified, runs=runs, images=model.images_per_sample)
    found.checked = lambda: edited("pipeline.remembered").require_forgetful(model, sample, options)
    return found


def test_what_it_remembers_is_refused(edited, seen, monkeypatch):
    steps, kept = edited("pipeline.run_stages").STEPS, []
    plain = steps["compress"]
    monkeypatch.setitem(steps, "compress", lambda *given: kept[0] if kept else kept.append(plain(*given)) or kept[0])
    with pytest.raises(edited("core.errors").StageError, match="compress must give other results for other pixels"):
        seen.checked()


def test_it_runs_in_its_place_and_the_tokens_are_those_of_generate(seen):
    assert list(seen.runs[0].seconds) == ["load", "preprocess", "encode", "compress", "prefill", "decode"]
    assert seen.verified.tokens.verdict == "equal"


def test_its_work_and_what_it_made_are_counted(seen):
    before, after = (seen.verified.work[stage]["visual_tokens"] for stage in ("encode", "compress"))
    assert (before, after) == (seen.images * 577, seen.images + 577)
    assert seen.verified.work["compress"]["aten_operators"] > 0
    assert list(seen.verified.content["compress"]) == ["features"]


def test_it_is_timed_and_part_of_ttft_alone(seen):
    run = seen.runs[0]
    assert run.ttft == sum(run.seconds[stage] for stage in ("preprocess", "encode", "compress", "prefill"))
    assert run.tpot == pytest.approx((run.e2e - run.seconds["load"] - run.ttft) / 3)


def test_the_checks_of_passes_and_of_work_look_at_it(edited, seen):
    run, errors = seen.runs[0], edited("core.errors")
    run.spans["compress"] = (run.spans["compress"][0], run.spans["compress"][1] + 1.0)
    problems = list(edited("pipeline.timed_pass").clock_problems([run]))
    assert [problem for problem in problems if problem.startswith("compress must agree with")]
    work = {stage: counts for stage, counts in seen.verified.work.items() if stage != "compress"}
    with pytest.raises(errors.StageError, match="every stage must run, got no compress"):
        edited("pipeline.counters").check_work(work)


def test_it_has_a_row_in_the_table_of_a_run(edited, seen):
    measured = edited("suite.measure").Measured(seen.runs, seen.verified)
    table = edited("cli.run").stage_table({"eventgpt": measured})
    names = [row[0] for row in table.rows]
    assert names[2:5] == ["encode", "compress", "prefill"]


def test_a_faster_model_is_explained_by_it(edited, seen):
    samples, importers = edited("analysis.samples"), edited("analysis.importers.read")
    attribution, narrative = edited("analysis.attribution"), edited("analysis.narrative")
    run = seen.runs[0]  # of several, another may be the median without the stage
    slow = [samples.sample_of(run, "fixed") | {"model": "slow", "sample": "x", "order": 0}]
    fast = [
        row
        | {"model": "fast", "e2e": row["e2e"] - row["seconds"]["compress"]}
        | {"seconds": row["seconds"] | {"compress": 0.0}}
        for row in slow
    ]
    timings = importers.FORMATS["samples"][1]({"samples": [*slow, *fast]}, "made up")
    costs = {timing.costs.model: timing.costs for timing in timings}
    found = attribution.attribute(costs["slow"], costs["fast"])
    saved = {name: seconds for name, seconds in found.seconds.items() if seconds}
    assert list(saved) == ["compress"]
    assert any(line.startswith("Compressing explains") for line in narrative.as_json(found)["sentences"])
    assert "compress" not in attribution.whole_generation(costs["slow"]).parts


def test_the_gate_knows_its_content_and_lets_it_be_allowed(edited):
    counters = edited("gate.counters")
    assert counters.STAGE_OF["features"] == "compress"
    assert "compress" in edited("core.stages").STAGE_NAMES


def test_the_names_of_stages_are_spelled_in_one_place():
    found = {
        (str(path.relative_to(SOURCES)), node.value)
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in ("encode", "prefill", "decode")
    }
    assert {(name, value) for name, value in found if name != "core/stages.py"} == set()
