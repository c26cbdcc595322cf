"""The command line, called in this process."""

import json
import os
import shutil
import subprocess
import sys
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.cli.output import require_writable
from stagebench.core.machine.environment import cores
from stagebench.core.stages import STAGE_NAMES
from stagebench.models.llava import Llava
from stagebench.pipeline import run_stages
from stagebench.pipeline import verify as verify_module
from stagebench.pipeline.claims import Claim
from stagebench.pipeline.load import load
from stagebench.suite import measure
from stagebench.suite.settings import settings_of

QUICK = ("--device", "cpu", "--new-tokens", "4", "--passes", "1")


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_embedded_scene_goes_through_all_models(tmp_path):
    out = tmp_path / "run.json"
    result = invoke("run", *QUICK, "--json", out)
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["samples"]
    assert [row["model"] for row in rows] == ["eventgpt", "llava-1.5", "video-llava"]
    assert [sorted(row["seconds"]) for row in rows] == [sorted(STAGE_NAMES)] * 3
    assert invoke("explain", out).exit_code == 0


def test_the_table_has_a_row_for_everything(synthetic):
    result = invoke("run", synthetic.video, "--model", "llava-1.5", *QUICK)
    rows = [line.split("  ")[0].strip() for line in result.output.splitlines()]
    assert [row for row in rows if row in {*STAGE_NAMES, "unattributed", "e2e", "tpot", "new tokens"}] == [
        *STAGE_NAMES,
        "unattributed",
        "e2e",
        "tpot",
        "new tokens",
    ]


def test_the_stages_and_the_rest_make_up_the_whole(synthetic, tmp_path):
    out = tmp_path / "run.json"
    assert invoke("run", synthetic.video, "--model", "video-llava", *QUICK, "--json", out).exit_code == 0
    (row,) = json.loads(out.read_text())["samples"]
    assert sum(row["seconds"].values()) + row["unattributed"] == pytest.approx(row["e2e"])


@pytest.mark.parametrize("media", ["video", "events"])
def test_any_media_feed_any_model(synthetic, media):
    result = invoke("run", getattr(synthetic, media), *QUICK)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("kind", ["frames", "events"])
def test_all_models_see_the_same_pixels_where_the_medium_is_chosen(kind):
    own_and_count = (("events", 5), ("video", 8), ("video", 5), ("events", 8))
    with settings_of(media=kind, device="cpu").samples() as sample_of:
        five, eight, five_too, eight_too = (
            load(sample_of(SimpleNamespace(input_kind=own)), count) for own, count in own_and_count
        )
    assert {media.kind for media in (five, eight)} == {kind}
    assert all(map(np.array_equal, five.images, five_too.images))
    assert all(map(np.array_equal, eight.images, eight_too.images))


def test_a_model_of_events_sees_frames_where_they_are_chosen(monkeypatch, tmp_path):
    out, seen, honest = tmp_path / "run.json", [], run_stages.preprocess
    monkeypatch.setattr(
        run_stages, "preprocess", lambda model, media, ask: seen.append(media) or honest(model, media, ask)
    )
    result = invoke("run", "--model", "eventgpt", "--media", "frames", *QUICK, "--json", out)
    assert result.exit_code == 0, result.output
    assert {media.kind for media in seen} == {"frames"}
    assert json.loads(out.read_text())["identity"]["input"] == "clip, frames"


def test_preprocessing_in_torch_is_printed_and_part_of_the_identity(synthetic, tmp_path):
    out = tmp_path / "run.json"
    result = invoke("run", synthetic.video, "--model", "llava-1.5", *QUICK, "--preprocess", "torch", "--json", out)
    assert "torch preprocessing" in " ".join(result.output.split())
    assert json.loads(out.read_text())["identity"]["preprocess"] == "torch: interpolate, bicubic, antialiased"


@pytest.mark.parametrize("command", ["run", "verify"])
def test_a_medium_of_the_scene_and_a_path_are_a_contradiction(synthetic, command):
    result = invoke(command, synthetic.video, "--device", "cpu", "--media", "frames")
    lines = [line for line in result.output.splitlines() if line.startswith("stagebench: ")]
    expected = "stagebench: media must be own for a given input, got frames and scene.mp4"
    assert (result.exit_code, lines) == (2, [expected])


def test_a_frame_cache_for_a_recording_is_refused(synthetic, tmp_path):
    result = invoke("run", synthetic.events, "--device", "cpu", "--cache", tmp_path / "cache")
    expected = f"stagebench: {synthetic.events.name}: a cache needs a video, got events\n"
    assert (result.exit_code, result.output) == (2, expected)


def test_one_token_has_no_time_per_token(synthetic, tmp_path):
    out = tmp_path / "run.json"
    invoke("run", synthetic.video, "--model", "llava-1.5", "--device", "cpu", "--new-tokens", "1", "--json", out)
    assert "tpot" not in json.loads(out.read_text())["samples"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such.mp4",), "no-such.mp4"),
        (("--model", "gpt-9"), "llava-onevision or hf:FOLDER, got gpt-9"),
        (("--weights", "folder"), "weights must be those of one model, got 3 models"),
        (("--device", "abacus"), "device must be one of cpu"),
        (("--seed", str(2**80)), "seed must be from 0 to"),
        (("--threads", "100000"), f"threads must be at most {4 * cores()} on {cores()} cores, got 100000"),
        (("--new-tokens", "0"), "max_new_tokens must be at least 1, got 0"),
        (("--profile", "pretrained"), "the profile 'pretrained', and no other, takes weights"),
    ],
)
def test_what_is_refused_is_one_line_and_exit_code_two(arguments, message):
    result = invoke("run", *(() if "--device" in arguments else ("--device", "cpu")), *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_an_unknown_profile_is_refused():
    result = invoke("run", "--profile", "huge")
    assert result.exit_code == 2
    assert "'huge' is not one of 'tiny', 'tiny-random', '7b', 'pretrained'" in result.output


def test_a_missing_run_cannot_be_accepted(tmp_path):
    result = invoke("baseline", "accept", tmp_path / "out.json", "--reason", "try", "--baselines", tmp_path)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)


def test_the_model_has_been_run_before_it_is_timed(synthetic, monkeypatch):
    order = []
    for name in ("verify_model", "timed_pass"):
        honest = getattr(measure, name)
        monkeypatch.setattr(measure, name, lambda *a, name=name, honest=honest: order.append(name) or honest(*a))
    assert invoke("run", synthetic.video, "--model", "llava-1.5", *QUICK, "--passes", "2").exit_code == 0
    assert order == ["verify_model", "timed_pass", "timed_pass"]


def test_verify_prints_every_claim_and_writes_them_down(synthetic, tmp_path):
    out = tmp_path / "claims.json"
    result = invoke(
        "verify", synthetic.video, "--model", "llava-1.5", "--device", "cpu", "--new-tokens", "4", "--json", out
    )
    checks = json.loads(out.read_text())["checks"]
    assert all(check["claim"] in result.output for check in checks)
    assert f"{sum(check['held'] for check in checks)} of 11 claims held" in result.output


def test_a_claim_that_does_not_hold_gives_exit_code_one(synthetic, monkeypatch):
    monkeypatch.setattr(measure, "claims", lambda *a, known: [Claim("pigs fly", False, "none seen")])
    result = invoke("verify", synthetic.video, "--model", "llava-1.5", "--device", "cpu")
    words = " ".join(result.output.split())
    assert (result.exit_code, "llava-1.5" in words, "BROKEN pigs fly none seen" in words) == (1, True, True)


def test_a_run_that_parts_from_generate_is_refused(synthetic, monkeypatch):
    honest = verify_module.reference_generate
    monkeypatch.setattr(verify_module, "reference_generate", lambda *a: honest(*a) + 1)
    result = invoke("run", synthetic.video, "--model", "llava-1.5", *QUICK)
    assert result.exit_code == 2
    assert "the stages must give the tokens of generate(), got another token 0" in result.output


def test_a_tower_that_runs_twice_is_refused(synthetic, monkeypatch):
    once = Llava.encode
    monkeypatch.setattr(Llava, "encode", lambda self, inputs: (once(self, inputs), once(self, inputs))[1])
    result = invoke("run", synthetic.video, "--model", "llava-1.5", *QUICK)
    assert (result.exit_code, "the stages must do the work of generate()" in result.output) == (2, True)


def test_json_goes_to_standard_output_for_a_dash(synthetic):
    result = invoke("run", synthetic.video, "--model", "llava-1.5", *QUICK, "--json", "-")
    assert json.loads(result.stdout)["samples"][0]["model"] == "llava-1.5"


@pytest.mark.parametrize("command", [("run",), ("verify",), ("gate", "--base", "HEAD")])
@pytest.mark.parametrize("name", ["file/out.json", "file/folder/out.json"])
def test_json_that_cannot_be_written_is_one_line_before_anything_is_measured(tmp_path, command, name):
    (tmp_path / "file").touch()
    result = invoke(*command, "--json", tmp_path / name)
    assert (result.exit_code, result.output) == (2, f"stagebench: can't write {tmp_path / name}: Not a directory\n")


def test_markdown_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").touch()
    result = invoke("gate", "--base", "HEAD", "--markdown", tmp_path / "file" / "out.md")
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1)
    assert "out.md: Not a directory" in result.output


def test_looking_whether_json_can_be_written_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / "a" / "b" / "out.json")
    assert list(tmp_path.iterdir()) == []


def test_a_model_named_twice_runs_once(synthetic):
    result = invoke("run", synthetic.video, "--model", "llava-1.5", "--model", "llava-1.5", *QUICK)
    assert result.output.count("llava-1.5:") == 1


def test_a_given_order_seed_is_printed(synthetic):
    result = invoke("run", synthetic.video, "--model", "llava-1.5", *QUICK, "--order-seed", "7")
    assert "models in order 7" in " ".join(result.output.split())


def test_verify_puts_every_question_to_every_model(synthetic, monkeypatch):
    asked = []

    def verify(settings, say):
        asked.append((settings.models, settings.question))
        yield "llava-1.5", Claim("it answers", settings.question != "B", settings.question)

    monkeypatch.setattr(measure, "verify", verify)
    result = invoke("verify", synthetic.video, "--model", "llava-1.5", "--question", "A", "--question", "B")
    assert asked == [(("llava-1.5",), "A"), (("llava-1.5",), "B")]
    assert (result.exit_code, "1 of 2 claims held" in result.output) == (1, True)


def test_what_is_stopped_by_the_keyboard_is_no_verdict(synthetic, monkeypatch):
    def verify(settings, say):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "verify", verify)
    result = invoke("verify", synthetic.video, "--model", "llava-1.5", "--device", "cpu")
    assert (result.exit_code, result.output.splitlines()[-1]) == (2, "stagebench: stopped by SIGINT")


def test_passes_are_numbered_in_the_order_of_the_run(tmp_path):
    out = tmp_path / "run.json"
    assert invoke("run", *QUICK, "--passes", "2", "--order-seed", "3", "--json", out).exit_code == 0
    rows = sorted(json.loads(out.read_text())["samples"], key=itemgetter("order"))
    assert [row["order"] for row in rows] == list(range(6))
    assert [row["model"] for row in rows[::2]] == measure.shuffled(["eventgpt", "llava-1.5", "video-llava"], 3)


@pytest.mark.parametrize("command", [["explain", "RUN"], ["trend", "FOLDER"]])
def test_a_reader_that_is_gone_is_no_verdict(command, tmp_path):
    run = next(Path("baselines").glob("*-tiny-*/baseline.json"))
    shutil.copy(run, tmp_path / "one.json")
    named = {"RUN": str(run), "FOLDER": str(tmp_path)}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "stagebench", *(named.get(word, word) for word in command)],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (2, b"stagebench: [Errno 32] Broken pipe\n")
