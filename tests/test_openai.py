"""`stagebench run --engine openai`, against servers on the loopback that behave as a test says."""

import json
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from loopback import CLOSE, MODEL, answer, plain, served
from PIL import Image

from stagebench import read_results, settings_of
from stagebench.analysis.samples import costs_of, parse_samples
from stagebench.cli import main
from stagebench.core.artifacts import Sample
from stagebench.core.errors import EngineError, ModelError, StageError
from stagebench.core.settings import EngineSettings, GenerationSettings, ModelSettings
from stagebench.engines.client import KEYS, Server
from stagebench.engines.engine import start
from stagebench.engines.openai import OpenAIEngine, _shifted
from stagebench.engines.stream import Answer
from stagebench.suite import measure

KEY = "sk-do-not-show-me"
THREE = answer("a", " b", " c")
SERVER = {"engine": "openai", "url": "http://a"}
UNTIMED = 4  # requests before the first timed one: three of inputs that the server can't know, and a pass


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def there():
    with served() as server:
        server.chat = THREE
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small images, as many as frames are shown by default."""
    made = tmp_path_factory.mktemp("images")
    for i in range(8):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 60, 3), np.uint8)).save(made / f"{i}.png")
    return made


@pytest.fixture
def engine(there):
    """Starts an engine that asks the server."""
    with ExitStack() as started:

        def start(model="", **own):
            made = OpenAIEngine(model, ModelSettings(frames=2), EngineSettings(url=there.address, **own))
            started.callback(made.close)
            return made

        yield start


@pytest.fixture
def invoke(there, folder, tmp_path):
    """Runs the command on two frames and three tokens; returns its result, and its JSON if there is any."""

    def run(*more, code=0):
        file = tmp_path / "out.json"
        asked = (
            "--engine",
            "openai",
            "--url",
            there.address,
            "--frames",
            "2",
            "--new-tokens",
            "3",
            "--json",
            str(file),
        )
        done = CliRunner().invoke(main, ["run", str(folder), *asked, *more])
        assert done.exit_code == code, done.output
        return done, json.loads(file.read_text()) if file.exists() else None

    return run


def test_a_run_shows_what_a_server_shows_and_no_more(invoke, there):
    there.chat = answer("a", " b", " c", pause=0.02)
    done, written = invoke()
    rows = [line.split()[0] for line in done.stdout[done.stdout.index("ms    ") :].splitlines()]
    assert rows[2:8] == ["load", "request", "first", "decode", "unattributed", "e2e"]
    assert [*written["samples"][0]["seconds"]] == ["decode", "first token", "load", "request"]
    assert [each["text"] for each in written["samples"]] == ["a b c"] * 3
    assert [(each["tokens"], each["token_ids"], len(each["itl"])) for each in written["samples"]] == [(3, [], 1)] * 3
    assert {written["identity"][key] for key in ("dtype", "weights", "profile", "attention")} == {"none"}
    assert written["identity"]["engine"] == f"openai at {there.address}: somebody, model tiny, images as png"


def test_the_parts_of_a_pass_add_up_and_time_per_token_is_by_the_servers_count(there, engine, folder):
    there.chat = answer("a", " b", pause=0.02, tokens=5)
    run = engine().run(Sample(folder), GenerationSettings(5, fixed_length=True))
    assert run.e2e == pytest.approx(sum(run.seconds.values()))
    assert run.ttft == pytest.approx(run.seconds["request"] + run.seconds["first token"])
    assert run.tpot == pytest.approx(run.seconds["decode"] / 4)


def test_frames_are_sent_in_a_greedy_request_of_fixed_length(invoke, there):
    invoke("--engine-args", "image_format=jpeg", "--engine-args", "seed=3")
    sent = there.chats[-1]
    assert (sent["temperature"], sent["max_tokens"], sent["min_tokens"], sent["ignore_eos"]) == (0, 3, 3, True)
    assert (sent["seed"], sent["model"], "image_format" in sent) == (3, MODEL, False)
    urls = [part["image_url"]["url"] for part in sent["messages"][0]["content"][:-1]]
    assert [url.partition(";")[0] for url in urls] == ["data:image/jpeg"] * 2


def test_the_commands_of_the_guide_run(there, folder):
    there.chat = lambda number: answer(*["a"] * there.chats[-1]["max_tokens"])
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "engines.md").read_text(encoding="utf-8")
    commands = re.findall(r"(?m)^\$ stagebench (run --engine openai .*)$", guide)
    for command in commands:
        here = command.replace("http://127.0.0.1:8000", there.address).replace("clip.mp4", str(folder))
        done = CliRunner().invoke(main, shlex.split(here))
        assert done.exit_code == 0, done.output
    assert len(commands) == 2
    assert len(there.chats) == 7 + 7 + 12


def test_the_suite_has_a_benchmark_of_each_row(there, folder, suite_command, tmp_path):
    there.chat = answer(*"abcd")
    asked = ("--stage-engine=openai", f"--stage-url={there.address}", "--stage-frames=2", f"--stage-input={folder}")
    done = suite_command("-k", "test_engine", *asked, f"--benchmark-json={tmp_path / 'out.json'}")
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    found = read_results(tmp_path / "out.json")["benchmarks"]
    assert {each["group"] for each in found} == {"load", "request", "first token", "decode", "e2e"}


def test_a_natural_length_asks_for_nothing_that_a_strict_server_refuses(invoke, there):
    invoke("--natural-length")
    assert {*there.chats[-1]} == {"model", "messages", "temperature", "max_tokens", "stream", "stream_options"}


def test_a_server_of_vllms_is_asked_for_its_version_and_for_token_ids(invoke, there):
    there.owner = "vllm"
    _, written = invoke()
    assert ", 1.2.3, " in written["identity"]["engine"]
    assert there.chats[-1]["return_token_ids"] is True


def test_a_gateway_before_vllm_may_not_tell_its_version(engine, there, monkeypatch):
    there.owner = "vllm"
    monkeypatch.setattr("loopback.plain", lambda status, body: plain(404 if "version" in body else status, body))
    assert engine().described.endswith(": vllm, model tiny, images as png")


def test_a_text_of_another_length_than_the_fixed_one_is_refused(invoke, there):
    there.chat = answer("a", " b", finish="stop")
    done, _ = invoke(code=2)
    assert done.stderr.endswith("must give 3 tokens (or use --natural-length), got 2\n")


def test_passes_before_a_failure_are_shown_and_written(invoke, there):
    there.chat = lambda number: [*THREE[:3], CLOSE] if number == UNTIMED + 3 else THREE
    done, written = invoke(code=2)
    assert len(written["samples"]) == 2
    assert f"stagebench: {written['error']}" == done.stderr.splitlines()[-1]
    assert "got after 2 events: RemoteProtocolError" in written["error"]
    assert "e2e of all passes" in done.stdout


def test_a_failure_before_the_first_timed_pass_is_one_line(invoke, there):
    there.chat = [plain(500, {"error": {"message": "no"}})]
    done, written = invoke(code=2)
    assert (written, done.stdout, len(done.stderr.splitlines())) == (None, "", 1)


def test_a_key_is_in_no_output(invoke, there, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    there.chat = lambda number: [plain(401, {"detail": KEY})] if number == UNTIMED + 2 else THREE
    done, written = invoke(code=2)
    assert KEY.encode() in there.requests[-1][0]
    assert KEY not in done.output + json.dumps(written)


def test_tokens_from_a_cache_of_prefixes_are_a_warning(invoke, there):
    there.chat = answer("a", " b", " c", prompt_tokens_details={"cached_tokens": 8})
    done, _ = invoke()
    assert "warning: openai: 8 of 9 prompt tokens came from the server's cache of prefixes" in done.stderr


def test_a_first_token_that_comes_sooner_for_a_known_input_is_a_warning(invoke, there):
    there.chat = lambda number: [0.3 * (number < UNTIMED), *THREE]
    done, _ = invoke()
    assert "ms for this one: it has a cache of prefixes or of images" in done.stderr


def test_a_server_without_a_cache_gets_no_warning(invoke, there):
    there.chat = [0.2, *answer("a", " b", " c", pause=0.01)]
    done, _ = invoke("--passes", "2")
    assert "warning" not in done.stderr


def test_frames_can_not_be_sent_as_a_video(there):
    with pytest.raises(EngineError, match="a server gets frames as images, got --as video"):
        OpenAIEngine("", ModelSettings(frames=2, as_="video"), EngineSettings(url=there.address))


def test_events_of_several_tokens_and_different_texts_are_warnings(invoke, there):
    there.chat = lambda number: answer("a", f" {number}", tokens=3)
    done, _ = invoke()
    assert "warning: openai: 2 events held 3 tokens: gaps are those between events" in done.stderr
    assert "warning: openai: the server's passes gave 4 different texts" in done.stderr


@pytest.mark.parametrize("gap", [0.0, 1e-4, 1e-2])
def test_tokens_faster_than_any_models_are_a_warning(gap, there, engine, folder, monkeypatch):
    times = 10.0, 10.0 + gap
    made = Answer(9.0, 9.5, times, times[-1] + gap, "", 3, 9, "stop", None, (), None, None)
    monkeypatch.setattr(Server, "ask", lambda *_: made)
    started = engine()
    started._unknown, started._answers = [1.0, 1.0], [made] * 3
    assert any("in 3 of 3 passes tokens came together" in each for each in started.warnings) == (gap < 1e-3)


def test_several_requests_at_once_are_of_different_pixels(invoke, there):
    done, written = invoke("--concurrency", "2", "--passes", "2")
    [found] = written["under_load"].values()
    assert (found["completed"], found["failed"], found["concurrency"], found["total_output_tokens"]) == (4, 0, 2, 12)
    assert [*found["percentiles"]] == ["e2e", "itl", "tpot", "ttft"]
    assert "4 requests, 2 at once, in " in done.stdout
    assert len({json.dumps(chat["messages"]) for chat in there.chats[-4:]}) == 4


def test_requests_that_fail_under_load_leave_the_others_and_the_passes(invoke, there):
    there.chat = lambda number: [plain(500, {"detail": "no"})] if number == UNTIMED + 5 else THREE
    done, written = invoke("--concurrency", "2", code=2)
    [found] = written["under_load"].values()
    assert (found["completed"], found["failed"], len(written["samples"])) == (5, 1, 3)
    assert done.stderr.splitlines()[-1] == f"stagebench: {found['errors'][0]}"


def test_percentiles_are_those_of_the_answers(there, engine, folder, monkeypatch):
    gaps = (1.0, 2.0, 3.0, 4.0)
    made = [
        Answer(10, 10, (10 + gap, 10 + 3 * gap), 10 + 5 * gap, "", 3, 9, "stop", None, (), None, None) for gap in gaps
    ]
    monkeypatch.setattr(Server, "ask_all", lambda *_: made)
    found = engine().under_load(Sample(folder), GenerationSettings(3), 4, 2)
    assert found["percentiles"]["ttft"] == pytest.approx({"p50": 2.5, "p90": 3.7, "p99": 3.97})
    assert found["percentiles"]["itl"] == pytest.approx({"p50": 5.0, "p90": 7.4, "p99": 7.94})
    assert found["percentiles"]["tpot"] == pytest.approx({"p50": 5.0, "p90": 7.4, "p99": 7.94})
    assert found["percentiles"]["e2e"] == pytest.approx({"p50": 12.5, "p90": 18.5, "p99": 19.85})
    assert found["output_throughput"] == pytest.approx(12 / found["duration"])


def test_an_input_that_no_server_knows_has_the_same_pixels_elsewhere():
    image = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    others = [_shifted([image])[0] for _ in range(20)]
    assert all(np.array_equal(np.sort(other, axis=None), np.sort(image, axis=None)) for other in others)
    assert len({other.tobytes() for other in others}) > 10


@pytest.mark.parametrize("model", ["", "tiny", "hf:elsewhere"])
def test_the_only_model_of_a_server_needs_no_name(model, engine):
    assert f"model {MODEL}" in engine(model).described


def test_a_model_that_a_server_does_not_list_is_refused(engine):
    with pytest.raises(EngineError, match="must serve one model, or that of --model, got tiny, and --model large"):
        engine("large")


def test_a_list_of_models_that_is_none_is_refused(engine, monkeypatch):
    monkeypatch.setattr("loopback.MODEL", 7)
    with pytest.raises(EngineError, match="/v1/models: id must be a text"):
        engine()


def test_a_format_of_images_that_is_none_is_refused(engine):
    with pytest.raises(EngineError, match="image_format must be one of png, jpeg, got 'gif'"):
        engine(arguments={"image_format": "gif"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "openai"}, "must have a url"),
        ({**SERVER, "dtype": "float16", "seed": 1}, "is as the server built it, got dtype, seed"),
        ({**SERVER, "as_": "video"}, "is as the server built it, got as for"),
        ({"url": "http://a"}, "the engine openai, and no other, must have a url"),
        (
            {"engine": "openai", "url": "http://a", "tensor_parallel": 2},
            "tensor_parallel_size must be for the engine vllm",
        ),
    ],
)
def test_options_of_a_server_and_no_server_are_refused(options, said):
    with pytest.raises(ModelError, match=said):
        settings_of(device="cpu", **options)


def test_several_requests_at_once_need_a_server():
    with pytest.raises(StageError, match=r"requests at once need a server \(the engine openai\), got 2 and no url"):
        measure.run(settings_of(model="llava-1.5", device="cpu"), concurrency=2)


@pytest.mark.parametrize("url", ["http://me:secret@127.0.0.1:1", "http://127.0.0.1:1/?key=secret", "http://a/#secret"])
def test_an_address_with_a_secret_is_refused_without_showing_it(url):
    with pytest.raises(ModelError, match="--url must be an address alone") as error:
        EngineSettings(url=url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://a:b", "http://a:99999", "http://[", "http://a\n"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ModelError, match="--url must be an address, as"):
        EngineSettings(url=url)


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_an_address_is_taken_with_the_version_of_the_interface_and_without(tail):
    assert EngineSettings(url=f"http://a/b{tail}").url == "http://a/b"


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    for name in ("client", "openai"):
        monkeypatch.delitem(sys.modules, f"stagebench.engines.{name}", raising=False)
    with pytest.raises(
        ModelError, match=r"^the engine openai needs the extra: pip install 'stagebench\[openai\]', got no"
    ):
        start("openai", "", ModelSettings(), EngineSettings(url="http://a"))


def test_the_parts_before_the_first_token_are_explained_as_one(invoke, tmp_path):
    _, written = invoke("--passes", "1")
    [line] = written["samples"]
    costs = costs_of(parse_samples(json.dumps(line).encode(), "line")[0])
    assert costs.parts["ttft"] == pytest.approx(line["ttft"])
    assert [*costs.parts] == ["load", "ttft", "unattributed"]
