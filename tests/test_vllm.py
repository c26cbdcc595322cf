"""Checkpoints of random weights in vLLM itself, on a CPU: `tox -e vllm` brings it, and lets none of this be skipped."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from stagebench.cli import main
from stagebench.core.machine.environment import UNKNOWN, version_of
from stagebench.core.settings import VLLM
from stagebench.core.stages import STAGE_NAMES

pytestmark = [
    pytest.mark.skipif(
        version_of(*VLLM) == UNKNOWN and "STAGEBENCH_NEEDS_VLLM" not in os.environ,
        reason="vllm is not installed: tox -e vllm",
    ),
    pytest.mark.filterwarnings("ignore"),  # of vLLM and what it imports
]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "guides" / "engines.md"
TEXT = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}  # the CPU's attention needs heads of 32
SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}
SERVED = {
    "llava": {"text_config": TEXT},
    "qwen2_5_vl": {"text_config": TEXT | {"rope_parameters": SECTIONS}, "vision_config": {"out_hidden_size": 128}},
    "qwen3_vl": {
        "text_config": TEXT | {"rope_parameters": SECTIONS | {"mrope_interleaved": True}},
        "vision_config": {"out_hidden_size": 128},
    },
}
ASKED = ["--device=cpu", "--new-tokens=12", "--frames=2", "--engine-args=enforce_eager=true"]


def write(family, folder):
    """Save a checkpoint as the hub has it; transformers 5 writes other keys for a CLIP tower."""
    write_checkpoint(family, folder, **SERVED[family])
    if family == "llava":
        weights = load_file(folder / "model.safetensors")
        renamed = {key.replace("vision_tower.", "vision_tower.vision_model."): each for key, each in weights.items()}
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module", params=SERVED)
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    write("llava", folder)
    return folder


def invoked(command, folder, out, *options):
    """Call a command on a checkpoint; return its exit code and its JSON."""
    asked = [command, f"--model=hf:{folder}", *ASKED, *options, "--json", str(out)]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, json.loads(out.read_text())


def test_vllm_gives_the_tokens_of_generate(checkpoint, tmp_path):
    code, found = invoked("verify", checkpoint, tmp_path / "out.json", "--engine=vllm")
    assert (code, {each["claim"]: each["detail"] for each in found["checks"] if not each["held"]}) == (0, {})


def test_five_stages_of_vllm_stand_beside_those_of_transformers(checkpoint, tmp_path):
    engines = "--engine=transformers", "--engine=vllm"
    _, found = invoked("run", checkpoint, tmp_path / "out.json", *engines, "--passes=2")
    by_model = {sample["model"]: sample for sample in found["samples"]}
    plain, served = by_model[f"hf:{checkpoint}"], by_model[f"hf:{checkpoint} vllm"]
    assert served["token_ids"] == plain["token_ids"]
    assert {*served["seconds"]} == {*STAGE_NAMES}
    assert min(served["seconds"].values()) > 0
    assert served["unattributed"] == pytest.approx(served["e2e"] - sum(served["seconds"].values()))
    assert served["unattributed"] > -0.02 * served["e2e"]
    asked = {name: plain["work"]["preprocess"][name] for name in ("images", "prompt_tokens")}
    assert served["work"]["preprocess"] == asked
    explained = CliRunner().invoke(main, ["explain", str(tmp_path / "out.json")])
    assert (explained.exit_code, "vllm" in explained.output, "prefill" in explained.output) == (0, True, True)


@pytest.fixture
def address(llava, tmp_path):
    """Where vLLM serves a checkpoint on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = ["--dtype=float32", "--enforce-eager", "--no-enable-prefix-caching", "--mm-processor-cache-gb=0"]
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={llava}"]
    here = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "log").open("wb") as log:
        command = [*module, "--host=127.0.0.1", f"--port={port}", *given]
        served = subprocess.Popen(command, env=here, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(240):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert served.poll() is None, (tmp_path / "log").read_text()
                time.sleep(1)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(served.pid, signal.SIGTERM)
            served.wait(60)


def test_a_server_of_vllms_gives_the_tokens_of_generate(address, llava, tmp_path):
    asked = ["verify", f"--model=hf:{llava}", *ASKED[:-1], "--engine=openai", "--url", address]
    result = CliRunner().invoke(main, [*asked, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    seen = {each["claim"]: each["detail"] for each in json.loads((tmp_path / "out.json").read_text())["checks"]}
    assert seen["it gives the tokens of generate()"] == "12 tokens equal"
    assert seen["its prompt is that of transformers"].endswith(" tokens equal")


def test_a_video_gives_the_tokens_of_generate_too(tmp_path):
    write("qwen2_5_vl", tmp_path)
    code, found = invoked("verify", tmp_path, tmp_path / "out.json", "--engine=vllm", "--as=video")
    assert (code, {each["claim"]: each["detail"] for each in found["checks"] if not each["held"]}) == (0, {})


def test_a_text_stops_where_that_of_generate_stops_and_only_with_natural_length(llava, tmp_path):
    _, found = invoked("run", llava, tmp_path / "out.json", "--engine=vllm", "--passes=1")
    third = found["samples"][0]["token_ids"][2]
    shutil.copytree(llava, tmp_path / "stopping")
    (tmp_path / "stopping" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": third, "pad_token_id": 3})
    )
    engines = "--engine=transformers", "--engine=vllm", "--passes=1"
    for length in ([], ["--natural-length"]):
        _, found = invoked("run", tmp_path / "stopping", tmp_path / "out.json", *engines, *length)
        plain, served = found["samples"]
        assert served["token_ids"] == plain["token_ids"]
        assert served["finish_reason"] == plain["finish_reason"] == ("stop" if length else "length")


@pytest.mark.parametrize(
    ("frames", "cache", "said"),
    [
        ("8", "enable_prefix_caching=true", "prefix_cache_hits: a cached result"),
        ("2", "enable_prefix_caching=true", "encode must do its work in vllm, got no call: a cached result"),
        ("2", "mm_processor_cache_gb=1", "mm_cache_hits: a cached result"),
    ],
)
def test_a_second_round_from_a_cache_is_noticed(llava, tmp_path, frames, cache, said):
    options = "--engine=vllm", "--engine-args", cache, "--frames", frames
    code, found = invoked("verify", llava, tmp_path / "out.json", *options)
    last = found["checks"][-1]
    assert (code, last["held"], last["claim"]) == (
        1,
        False,
        "a second pass does its work again, and gives the same text",
    )
    assert said in last["detail"]


def test_other_tokens_than_those_of_generate_are_a_difference_with_its_position(llava, tmp_path):
    other = '--engine-args=hf_overrides={"text_config": {"rms_norm_eps": 0.5}}'
    code, found = invoked("verify", llava, tmp_path / "out.json", "--engine=vllm", other)
    (broken,) = [each for each in found["checks"] if not each["held"]]
    assert (code, broken["claim"]) == (1, "it gives the tokens of generate()")
    assert re.match(r"different: token \d+ differs, the reference's logits are [\d.]+ ulps apart", broken["detail"])


def test_what_vllm_refuses_is_one_line(llava):
    asked = ["run", f"--model=hf:{llava}", "--engine=vllm", *ASKED, "--engine-args", "max_model_len=8"]
    result = CliRunner().invoke(main, asked)
    said = result.stderr.splitlines()[-1]
    assert (result.exit_code, said[: said.index("Error")]) == (
        2,
        "stagebench: vllm must answer the sample, got VLLMValidation",
    )


def test_the_commands_of_the_page_run(llava, tmp_path, monkeypatch):
    (tmp_path / "checkpoint").symlink_to(llava)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ ((?:stagebench|pytest) .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    mine = [command for command in commands if "openai" not in command]
    assert len(mine) == 4
    for command in mine:
        name, *arguments = shlex.split(command)
        prefix = "--stage-" if name == "pytest" else "--"
        quick = [] if "explain" in arguments else [each.replace("--", prefix, 1) for each in ASKED]
        rounds = {"pytest": ["--stage-rounds=2", "--benchmark-json=out.json"], "run": ["--passes=1"]}
        more = rounds.get(name, rounds.get(arguments[0], []))
        done = subprocess.run([sys.executable, "-m", name, *arguments, *quick, *more], capture_output=True, text=True)
        assert (done.returncode, command) == (0, command), done.stdout + done.stderr
    found = json.loads(Path("out.json").read_text())
    ids = [each["fullname"] for each in found["benchmarks"]]
    assert ids == [f"benchmarks/test_engine.py::test_engine[hf:./checkpoint-vllm-{s}]" for s in (*STAGE_NAMES, "e2e")]
    assert found["machine_info"]["engine"] == "vllm, enforce_eager=True"
    assert [len(each["stats"]["data"]) for each in found["benchmarks"]] == [2] * len(ids)
