"""`stagebench analyze`: one small run, what became of it, and how it goes on after a kill."""

import functools
import io
import json
import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace

import made_up_analysis
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from stagebench.analysis.attribution import attribute, mean_of
from stagebench.analysis.experiments import measured_roofline, runner, thumbnails
from stagebench.analysis.experiments.runner import drop_from_page_cache
from stagebench.analysis.samples import (
    SAMPLES_FILE,
    costs_by_sample,
    read_run,
    read_samples,
    select,
    thumbnail_of,
)
from stagebench.cli import main
from stagebench.core.artifacts import Media
from stagebench.core.errors import StageError
from stagebench.core.settings import ModelSettings
from stagebench.core.stages import STAGE_NAMES
from stagebench.models.protocol import VisionLanguageModel

MODELS = ("eventgpt", "llava-1.5")
QUICK = ("--model", ",".join(MODELS), "--device", "cpu", "--order-seed", "1")


def analyze(out, *arguments):
    return CliRunner().invoke(main, ["analyze", *QUICK, "--out", str(out), *map(str, arguments)])


@pytest.fixture(scope="module", autouse=True)
def _ceilings_measured_once():
    """Of one machine and one dtype."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "measure_ceilings", functools.cache(runner.measure_ceilings))
        yield


@pytest.fixture(scope="module")
def media(tmp_path_factory, synthetic):
    """Two good samples, one clip that can't be decoded, one empty one, and a text."""
    folder = tmp_path_factory.mktemp("media")
    for path in (synthetic.video, synthetic.events):
        shutil.copy(path, folder)
    shutil.copy(synthetic.video, folder / "straße_1.mp4")
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 8)
    (folder / "empty.mp4").touch()
    (folder / "notes.txt").write_text("not a sample")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, media):
    """A whole run: the folder, and what the command said."""
    out = tmp_path_factory.mktemp("out")
    more = ("--profile", "tiny-random", "--new-tokens", "3,6", "--durations", "0.6,1.2,9", "--allow-failures", "2")
    return out, analyze(out, "--dataset", media, *more)


def test_it_ends_well_where_no_more_failed_than_were_allowed(finished):
    assert finished[1].exit_code == 0, finished[1].output


def test_every_sample_is_measured_once_in_each_mode_and_by_each_model(finished):
    good = [row for row in read_samples(finished[0] / SAMPLES_FILE) if row["study"] == "main" and "error" not in row]
    assert Counter((row["sample"], row["model"], row["mode"]) for row in good) == Counter(
        (sample, model, mode) for sample in ("scene", "straße_1") for model in MODELS for mode in ("natural", "fixed")
    )


def test_a_row_explains_its_e2e(finished):
    for row in read_samples(finished[0] / SAMPLES_FILE):
        if "error" not in row:
            assert sum(row["seconds"].values()) + row["unattributed"] == pytest.approx(row["e2e"])
            assert (list(row["seconds"]), len(row["token_ids"])) == (list(STAGE_NAMES), row["tokens"])


def test_the_stages_of_a_row_begin_one_after_the_other_and_its_tokens_come_in_decode(finished):
    for row in select(read_samples(finished[0] / SAMPLES_FILE)):
        ends = [row["starts"][stage] + row["seconds"][stage] for stage in STAGE_NAMES]
        assert all(row["starts"][after] >= end - 1e-3 for after, end in zip(STAGE_NAMES[1:], ends, strict=False))
        assert (list(row["starts"]), row["starts"]["load"]) == (list(STAGE_NAMES), 0)
        assert len(row["token_times"]) == row["tokens"] - 1
        in_order = [row["starts"]["decode"] - 1e-3, *row["token_times"], ends[-1] + 1e-3]
        assert in_order == sorted(in_order)


def test_each_model_gets_its_own_kind_of_media_where_there_is_one(finished):
    shown = {
        (row["model"], row["sample"]): row["path"] for row in read_samples(finished[0] / SAMPLES_FILE) if "path" in row
    }
    assert shown["eventgpt", "scene"] == "scene.npy"
    assert shown["llava-1.5", "scene"] == "scene.mp4"
    assert shown["eventgpt", "straße_1"] == "straße_1.mp4"


def test_what_the_models_saw_is_noted_and_shown_in_the_report(finished):
    rows = [row for row in select(read_samples(finished[0] / SAMPLES_FILE)) if row["study"] == "main"]
    seen = {(row["sample"], row["path"], row["media"]["images"]): row["media"]["kind"] for row in rows}
    assert seen == {
        ("scene", "scene.npy", 5): "events",
        ("scene", "scene.mp4", 8): "frames",
        ("straße_1", "straße_1.mp4", 5): "frames",
        ("straße_1", "straße_1.mp4", 8): "frames",
    }
    kept = {thumbnail_of(*shown) for shown in seen}
    assert {path.relative_to(finished[0]) for path in (finished[0] / "thumbnails").iterdir()} == kept
    page = (finished[0] / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == len(kept) == 4
    assert "2 of 2 samples, as the models see them" in page


@pytest.mark.parametrize(("images", "size"), [(1, (120, 90)), (5, (608, 90)), (8, (486, 182)), (30, (486, 182))])
def test_a_thumbnail_shows_up_to_eight_images(images, size):
    frames = tuple(np.full((480, 640, 3), i, np.uint8) for i in range(images))
    sheet = thumbnails._sheet(Media(frames, "frames", images, 1, None))
    assert Image.open(io.BytesIO(sheet)).size == size


def test_what_failed_before_the_run_and_in_it_is_named(finished):
    failures = {
        each["name"]: each["reason"] for each in json.loads((finished[0] / "report.json").read_text())["failures"]
    }
    assert sorted(failures) == ["empty.mp4", "noise"]
    assert failures["empty.mp4"] == "empty.mp4: must hold data, got an empty file"
    assert "noise.mp4: must be a whole video" in failures["noise"]


def test_what_is_no_sample_is_skipped_and_named(finished):
    assert [each["name"] for each in read_run(finished[0])["plan"]["skipped"]] == ["notes.txt", "a duration of 9 s"]


def test_models_are_proven_before_they_are_timed(finished):
    (session,) = read_run(finished[0])["sessions"]
    assert {model: sorted(modes) for model, modes in session["proofs"].items()} == {
        m: ["fixed", "natural"] for m in MODELS
    }
    assert (session["together"], min(session["ceilings"]["flops"], session["ceilings"]["bandwidth"]) > 0) == (
        True,
        True,
    )


def test_a_step_moves_the_weights_once_and_the_cache_so_far(finished):
    proof = read_run(finished[0])["sessions"][0]["proofs"]["llava-1.5"]["fixed"]
    layers, hidden, wide, vocabulary, tokens = 2, 64, 128, 512, 6
    matrices = layers * (4 * hidden * hidden + 3 * hidden * wide + 2 * hidden) + hidden + hidden * vocabulary
    prompt = proof["work"]["prefill"]["prompt_tokens"]
    cached = sum(prompt + k for k in range(1, tokens))
    assert proof["bytes"]["decode"] == {"weights": 4 * matrices * (tokens - 1), "kv": 4 * 2 * layers * hidden * cached}


def test_the_attribution_is_that_of_the_rows(finished):
    rows = [
        r
        for r in read_samples(finished[0] / SAMPLES_FILE)
        if (r["study"], r["mode"]) == ("main", "fixed") and "error" not in r
    ]
    (pair,) = json.loads((finished[0] / "report.json").read_text())["modes"]["fixed"]["pairs"]
    costs = {m: mean_of(list(costs_by_sample([r for r in rows if r["model"] == m]).values())) for m in MODELS}
    expected = attribute(costs[pair["baseline"]["model"]], costs[pair["other"]["model"]])
    assert pair["seconds"] == pytest.approx(expected.seconds)
    assert (pair["saved"] >= 0, sum(pair["seconds"].values())) == (True, pytest.approx(pair["saved"]))


def test_the_lines_alone_give_the_attribution_of_the_report(finished):
    result = CliRunner().invoke(main, ["explain", str(finished[0] / "samples.jsonl"), "--json", "-"])
    (found,) = json.loads(result.stdout)["attributions"]
    (pair,) = json.loads((finished[0] / "report.json").read_text())["modes"]["natural"]["pairs"]
    assert {key: found[key] for key in ("seconds", "sentences")} == {key: pair[key] for key in ("seconds", "sentences")}


def test_the_costs_are_set_against_durations_and_tokens(finished):
    scaling = json.loads((finished[0] / "report.json").read_text())["scaling"]
    sizes = {study: [size for size, _ in models["eventgpt"]["e2e"]["points"]] for study, models in scaling.items()}
    assert sizes == {"durations": [0.6, 1.2], "new_tokens": [3.0, 6.0]}


def test_more_failures_than_allowed_give_exit_code_two(finished):
    result = analyze(finished[0], "--report-only", "--allow-failures", "1")
    assert (result.exit_code, result.output.splitlines()[-1]) == (
        2,
        "stagebench: at most 1 samples may fail, got 2; the report names them",
    )


def test_a_finished_run_measures_nothing_again(finished, media, monkeypatch):
    monkeypatch.setattr(runner, "load_model", None)  # calling it would raise
    before = read_samples(finished[0] / SAMPLES_FILE)
    more = ("--profile", "tiny-random", "--new-tokens", "3,6", "--durations", "0.6,1.2,9", "--allow-failures", "2")
    assert analyze(finished[0], "--dataset", media, *more).exit_code == 0
    assert read_samples(finished[0] / SAMPLES_FILE) == before


def test_another_run_does_not_go_on_in_the_folder(finished, media):
    result = analyze(finished[0], "--dataset", media, "--new-tokens", "5")
    assert (result.exit_code, "generation: " in result.output, "samples: " in result.output) == (2, True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--new-tokens", "many"), "--new-tokens must be whole numbers above 0 with commas, got 'many'"),
        (("--new-tokens", ""), "--new-tokens must be whole numbers above 0 with commas, got ''"),
        (("--new-tokens", "1.5"), "--new-tokens must be whole numbers above 0 with commas, got '1.5'"),
        (("--durations", "1,-2"), "--durations must be numbers above 0 with commas, got '1,-2'"),
        (("--dataset", "no-such-folder"), "can't read the dataset: no-such-folder: can't be read"),
        (("--report-only",), "can't read the run"),
        (("--model", "gpt-9"), "llava-onevision or hf:FOLDER, got gpt-9"),
    ],
)
def test_what_is_refused_is_one_line_and_exit_code_two(tmp_path, arguments, message):
    result = CliRunner().invoke(main, ["analyze", "--device", "cpu", "--out", str(tmp_path / "out"), *arguments])
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
    assert message in result.output


@pytest.mark.parametrize("change", [{"order_seed": 5}, {"order_seed": "first"}])
def test_a_run_without_an_order_seed_is_refused_in_one_line(tmp_path, change):
    run = made_up_analysis.run()
    (tmp_path / "run.json").write_text(json.dumps(run | {"identity": run["identity"] | change}))
    result = CliRunner().invoke(main, ["analyze", "--device", "cpu", "--out", str(tmp_path)])
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
    assert "order" in result.output


def test_a_sample_that_fails_in_a_stage_does_not_stop_the_others(tmp_path, monkeypatch):
    honest = runner.timed_pass

    def fails_once(model, sample, options):
        if sample.loading.start == 0.0:
            raise StageError("the stage fell\nover")
        return honest(model, sample, options)

    monkeypatch.setattr(runner, "timed_pass", fails_once)
    result = analyze(tmp_path, "--samples", "3", "--mode", "fixed", "--new-tokens", "2")
    assert result.exit_code == 2
    rows = read_samples(tmp_path / SAMPLES_FILE)
    assert Counter("error" in row for row in rows) == {True: 2, False: 4}
    assert {row["error"] for row in rows if "error" in row} == {"the stage fell over"}


def test_a_text_for_which_something_was_set_up_is_held_against_generate(tmp_path, monkeypatch):
    honest, passes = runner.timed_pass, []

    def of_a_new_shape(model, sample, options):
        run = honest(model, sample, options)
        passes.append(run)
        first, *rest = run.generation.token_ids[0]
        return replace(run, generation=replace(run.generation, token_ids=((first + 1, *rest),)))

    monkeypatch.setattr(runner, "timed_pass", of_a_new_shape)
    monkeypatch.setattr(VisionLanguageModel, "setups", property(lambda _: len(passes)))
    analyze(tmp_path, "--samples", "2", "--mode", "fixed", "--new-tokens", "2")
    errors = [row["error"] for row in read_samples(tmp_path / SAMPLES_FILE)]
    assert {error.split(",")[0] for error in errors} == {"the stages must give the tokens of generate()"}


def test_a_name_that_is_no_text_is_written_as_one(tmp_path, media):
    folder = tmp_path / os.fsdecode(b"\xfe")
    folder.mkdir()
    shutil.copy(media / "straße_1.mp4", folder / os.fsdecode(b"\xff.mp4"))

    done = analyze(tmp_path / "out", "--dataset", folder, "--mode", "fixed", "--new-tokens", "2")

    assert done.exit_code == 0, done.output
    assert {row["path"] for row in read_samples(tmp_path / "out" / SAMPLES_FILE)} == {r"\udcff.mp4"}


def test_an_interrupted_run_reports_what_there_is_and_goes_on(tmp_path, monkeypatch):
    honest, calls = runner.timed_pass, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return honest(*arguments)

    more = ("--samples", "3", "--mode", "fixed", "--new-tokens", "2")
    monkeypatch.setattr(runner, "timed_pass", interrupted)
    result = analyze(tmp_path, *more)
    assert (result.exit_code, "interrupted; repeat the command to resume" in result.output) == (2, True)
    assert "3 passes measured of 6 planned" in (tmp_path / "report.md").read_text()
    monkeypatch.setattr(runner, "timed_pass", honest)
    assert analyze(tmp_path, *more).exit_code == 0
    rows = read_samples(tmp_path / SAMPLES_FILE)
    assert len({(row["sample"], row["model"]) for row in rows}) == 6
    assert [row["order"] for row in rows] == list(range(6))


def test_interrupted_before_the_first_sample_says_so_and_leaves_the_folder_to_other_options(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    quick = ("--samples", "1", "--mode", "fixed")
    with monkeypatch.context() as patched:
        patched.setattr(runner, "verify", interrupted)
        result = analyze(tmp_path, *quick, "--new-tokens", "3")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("stagebench: interrupted before the first sample")
    assert analyze(tmp_path, *quick, "--new-tokens", "2").exit_code == 0


def test_models_that_do_not_fit_together_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_free_memory", lambda device: 0)
    assert analyze(tmp_path, "--samples", "2", "--mode", "fixed", "--new-tokens", "2").exit_code == 0
    models = [row["model"] for row in read_samples(tmp_path / SAMPLES_FILE)]
    assert sorted(models) == ["eventgpt", "eventgpt", "llava-1.5", "llava-1.5"]
    assert models[0] == models[1]
    assert "one model after the other" in (tmp_path / "report.md").read_text()


def test_each_model_loads_each_sample_from_the_disk_once(finished):
    rows = [row for row in read_samples(finished[0] / SAMPLES_FILE) if "cold_load" in row or "not_cold" in row]
    assert Counter((row["sample"], row["model"]) for row in rows) == Counter(
        (sample, model) for sample in ("scene", "straße_1") for model in MODELS
    )


def test_where_the_cache_keeps_a_file_it_is_said(media, monkeypatch):
    monkeypatch.setattr(os, "preadv", lambda *a: 1)  # the first byte is there at once
    assert drop_from_page_cache(media / "straße_1.mp4") == "the page cache keeps files of this file system"


def test_where_the_cache_cannot_be_controlled_it_is_said(media, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise")
    assert drop_from_page_cache(media).startswith("the page cache can't be controlled here")


def test_ceilings_are_bytes_and_operations_over_the_fastest_time(monkeypatch):
    monkeypatch.setattr(measured_roofline, "_fastest", lambda function, device: function() is None or 0.5)
    found = measured_roofline.measure_ceilings(ModelSettings())
    assert (found.bandwidth, found.flops, found.bandwidth_kind) == (2 * 2**28 / 0.5, 2 * 1024**3 / 0.5, "copy")


def test_killed_in_the_middle_no_sample_is_lost_and_none_is_there_twice(tmp_path, warm_processes):
    only = ("--model", "eventgpt", "--device", "cpu", "--samples", "16", "--mode", "fixed", "--new-tokens", "2")
    command = ("stagebench", "analyze", *only, "--out", tmp_path)
    samples = tmp_path / "samples.jsonl"
    process = warm_processes.start(*command)
    while not samples.exists() or samples.read_bytes().count(b"\n") < 5:
        os.kill(process.pid, 0)  # it runs
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.finish().returncode == -signal.SIGKILL
    before = samples.read_bytes()
    assert 5 <= before.count(b"\n") < 16
    samples.write_bytes(before + b'{"study": "main", "model": "ev')  # as if the kill had come while it wrote
    result = warm_processes.run(*command)
    assert result.returncode == 0, result.stderr
    assert samples.read_bytes().startswith(before)
    assert Counter(row["sample"] for row in read_samples(tmp_path / SAMPLES_FILE)).most_common(1)[0][1] == 1
    assert len(read_samples(tmp_path / SAMPLES_FILE)) == 16
