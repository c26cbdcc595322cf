"""What the README tells people to type works."""

import json
import re
import shlex
import shutil
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from stagebench.analysis.rows import read_rows, select
from stagebench.analysis.summary import summarize
from stagebench.cli import main
from stagebench.media.scene import render_scene
from stagebench.types import STAGES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
]


def commands(program):
    return [command for command in COMMANDS if command.startswith(program)]


def test_every_command_is_of_a_kind_that_is_checked_here():
    assert [c for c in COMMANDS if not c.startswith(("stagebench ", "pytest ", "python3 -m pip install tox && "))] == []


def test_the_two_commands_run_tox_environments_that_exist():
    tox = ConfigParser()
    tox.read(ROOT / "tox.ini")
    names = [command.split("-e ")[1] for command in commands("python3")]
    assert names == ["bench", "py"]
    assert [n for n in names if f"testenv:{n}" not in tox and n not in tox["tox"]["env_list"]] == []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the README's examples name."""
    scene = render_scene(tmp_path)
    shutil.move(scene.video, tmp_path / "clip.mp4")
    shutil.move(scene.events, tmp_path / "recording.npy")
    run = next(ROOT.glob("baselines/*/baseline.json"))
    (tmp_path / "history").mkdir()
    (tmp_path / "out").mkdir()
    for copy in ("out.json", "history/one.json", "out/results.json"):
        shutil.copy(run, tmp_path / copy)
    (tmp_path / "numbers.json").write_text(re.search(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN_MODELS = ("run", "audit", "analyze")
EXIT_CODES = {"compare": {3}, "doctor": {0, 3}}  # one pair of processes decides no time; a busy machine is not fit


RUN_SUITES = (*commands("stagebench gate"), *commands("stagebench record"))


@pytest.mark.parametrize("command", [c for c in commands("stagebench") if c not in RUN_SUITES])
def test_a_stagebench_command_runs(command, folder):
    name, *arguments = shlex.split(command)[1:]
    device = ["--device", "cpu"] if name in RUN_MODELS else []
    result = CliRunner().invoke(main, [name, *arguments, *device])
    assert result.exit_code in EXIT_CODES.get(name, {0}), result.output


@pytest.mark.parametrize("command", commands("stagebench gate"))
def test_a_gate_has_the_options_of_the_readme(command, folder):
    """To run one takes two revisions: test_gate_command.py has them."""
    with main.get_command(None, "gate").make_context("gate", shlex.split(command)[2:]) as context:
        assert context.params["revision"] in {"main", "HEAD~1"}


@pytest.mark.parametrize("command", commands("stagebench record"))
def test_a_recording_has_the_options_of_the_readme(command, folder):
    """It runs a suite several times: test_record.py does, on a CPU."""
    with main.get_command(None, "record").make_context("record", shlex.split(command)[2:]) as context:
        assert context.params["pytest_arguments"] == ("--device", "cuda", "--backends", "eager,graph,compiled,fused")


@pytest.mark.parametrize("command", [c for c in commands("pytest") if "--gate" not in c])  # test_gate_option.py
def test_a_pytest_command_runs(command, folder, suite_command):
    arguments = [a.replace("=clip", f"={folder}/clip").replace("=out", f"={folder}/out") for a in shlex.split(command)]
    done = suite_command(*arguments[2:], "-k", "llava-1.5 and encode")  # one benchmark stands for all
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr


def test_every_test_that_the_lies_name_exists():
    lies = (ROOT / "docs" / "how-numbers-lie.md").read_text(encoding="utf-8")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", lies)
    assert [name for name in named if f"def {name}(" not in tests] == []
    assert len(named) > 12


def test_the_table_of_the_h100_is_that_of_the_samples():
    rows = read_rows(ROOT / "docs" / "results" / "h100-7b-analysis" / "samples.jsonl")
    found = [summarize(select(rows, model=m, mode="fixed", study="main")) for m in ("eventgpt", "video-llava")]
    spreads = {name: [each.stages[name] for each in found] for name in STAGES} | {"e2e": [s.e2e for s in found]}
    cells = {
        name: [f"{s.median * 1e3:.1f} ({s.interval.low * 1e3:.1f} to {s.interval.high * 1e3:.1f})" for s in both]
        for name, both in spreads.items()
    }
    cells["tpot (p50, p90)"] = [f"{s.tpot.p50 * 1e3:.1f}, {s.tpot.p90 * 1e3:.1f}" for s in found]
    lines = [f"| {name} | {' | '.join(values)} |" for name, values in cells.items()]
    assert [line for line in lines if line not in TEXT] == []


def result(name):
    return json.loads((ROOT / "docs" / "results" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "slowdowns"),
    [
        ("gate-cpu-tiny.json", ("0.05", "0.1", "0.15", "0.2", "0.3")),
        ("gate-h100-7b.json", ("0.005", "0.01", "0.02", "0.05", "0.1")),
    ],
)
def test_the_power_of_the_gate_is_that_of_the_simulations(name, slowdowns):
    found = result(name)
    rows = []
    for benchmark, power in found["power"].items():
        what, _, stage = benchmark.split("[")[1].rstrip("]").rpartition("-")
        rates = [f"{power[s]['rate']:.0%}" for s in slowdowns]
        model = re.sub("-(graph|fused)$", r" \1", what)
        rows.append(f"| {model} {stage} | {' | '.join(rates)} |")
    alarms = "{rate:.2%} ({low:.2%} to {high:.2%})".format(**found["false_alarms"])
    assert [row for row in [*rows, alarms] if row not in TEXT] == []


WORDS = " ".join(TEXT.split())  # sentences, wherever their lines break


def test_the_newer_gate_on_the_h100_is_that_of_its_simulation():
    found = result("gate-h100-7b-graph.json")
    power = {name.split("-")[-1].rstrip("]"): rates for name, rates in found["power"].items()}
    encode, decode = ({s: f"{rate['rate']:.0%}" for s, rate in power[stage].items()} for stage in ("encode", "decode"))
    sentences = [
        f"with `graph`, and {found['pairs']} pairs to draw from",
        "false alarms in {rate:.2%} ({low:.2%} to {high:.2%}), ".format(**found["false_alarms"])
        + f"{found['inconclusive_suites']['rate']:.0%} of suites undecided somewhere.",
        f"A decode slower by 1 % was called in {decode['0.01']}, "
        f"an encode slower by 5 % in {encode['0.05']} and by 10 % in {encode['0.1']}.",
    ]
    assert [sentence for sentence in sentences if sentence not in WORDS] == []


def test_the_times_of_the_backends_are_those_of_the_process():
    found = {benchmark["name"]: benchmark for benchmark in result("h100-7b-process.json")["benchmarks"]}

    def ms(name):
        info = found[name]["extra_info"]
        return found[name]["stats"]["median"] * 1e3 / (info["units"] if "decode" in name else 1)

    lines = {f"encode, {n} image{'s' * (n > 1)}": f"test_images[images{n}-llava-1.5{{}}]" for n in (1, 5, 8)}
    lines |= {
        "prefill, 590 tokens": "test_stage[llava-1.5{}-prefill]",
        "decode, a step": "test_stage[llava-1.5{}-decode]",
    }
    lines |= {"prefill, 2,070 tokens (video-llava)": "test_stage[video-llava{}-prefill]"}
    lines |= {f"e2e, {model}": f"test_e2e[{model}{{}}]" for model in ("eventgpt", "llava-1.5", "video-llava")}
    backends = ("", "-graph", "-compiled", "-fused")
    rows = [f"| {line} | {' | '.join(f'{ms(name.format(b)):.1f}' for b in backends)} |" for line, name in lines.items()]
    by_generate = [ms(f"test_e2e_generate[{model}]") for model in ("eventgpt", "llava-1.5", "video-llava")]
    rows.append("text took {:,.0f}, {:,.0f} and {:,.0f} ms".format(*by_generate))
    assert [row for row in rows if row not in TEXT] == []


def test_the_times_of_two_gpus_are_those_measured():
    medians = {(r["model"], r["stage"], r["tp"]): r["median"] * 1e3 for r in result("h100-7b-tp.json")["rows"]}
    rows = [
        f"| {model} | {' | '.join(f'{medians[model, s, n]:.0f}' for s in ('prefill', 'decode') for n in (1, 2))} |"
        for model in ("eventgpt", "llava-1.5", "video-llava")
    ]
    assert [row for row in rows if row not in TEXT] == []


def test_the_backends_kept_their_promise_on_every_text():
    rows = result("h100-7b-tokens.json")["rows"]
    texts = Counter((row["backend"], row["verdict"], row["repeats"], row["tokens"]) for row in rows)
    near = dict.fromkeys(("compiled", "fused"), ("near-tie", True, 128))
    assert texts == {("graph", "equal", True, 128): 15} | {(name, *verdict): 15 for name, verdict in near.items()}
    gaps = {name: [row["gap_ulps"] for row in rows if row["backend"] == name] for name in near}
    ulps = " and ".join(f"{min(found):.0f} to {max(found):.0f}" for found in gaps.values())
    assert f"the reference's own logits were {ulps} ulps apart" in WORDS
