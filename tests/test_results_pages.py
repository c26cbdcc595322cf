"""Every number on the pages of results, and of what the gate sees, is that of the stored runs."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from generate_overhead import ratios
from scipy.stats import ttest_1samp

from stagebench.analysis.report.report_data import summarize
from stagebench.analysis.samples import read_samples, select
from stagebench.core.shown import Unit
from stagebench.core.stages import STAGE_NAMES
from stagebench.models.tiny.train import COURSES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
MS = Unit("{:.1f}", 1e3)
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in RESULTS.glob("*.md")}
H100, H200, TINY, STUDY = PAGES["h100"], PAGES["h200"], PAGES["tiny"], PAGES["tiny-study"]
OF_GPU = {"h100-7b": H100, "h200-7b": H200}
STATISTICS = (ROOT / "docs" / "concepts" / "statistics.md").read_text(encoding="utf-8")

TRAINED = json.loads((RESULTS / "tiny-training.json").read_text(encoding="utf-8"))["runs"]
STUDIED = ("eventgpt", "llava-1.5", "video-llava")
REPORTS = {name: RESULTS / "tiny-study" / name / "report.json" for name in ("own", "frames", "events", "cached")}
ASKED = ("count", "shape", "size", "direction", "speed", "ending", "color", "background")


def joined(text):
    """Its sentences, wherever their lines break and whatever list they are in."""
    return " ".join(text.split())


def test_the_table_of_the_h100_is_that_of_the_samples():
    rows = read_samples(ROOT / "docs" / "results" / "h100-7b-analysis" / "samples.jsonl")
    found = [summarize(select(rows, model=m, mode="fixed", study="main")) for m in ("eventgpt", "video-llava")]
    spreads = {name: [each["stages"][name] for each in found] for name in STAGE_NAMES}
    spreads |= {"e2e": [each["e2e"] for each in found]}
    cells = {
        name: [f"{MS.write(s['mean'])} ({MS.write(s['interval'])})" for s in both] for name, both in spreads.items()
    }
    cells["tpot (mean, p90)"] = [f"{MS.write(each['tpot']['mean'])}, {MS.write(each['tpot']['p90'])}" for each in found]
    lines = [f"| {name} | {' | '.join(values)} |" for name, values in cells.items()]
    assert [line for line in lines if line not in H100] == []


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
    assert [row for row in [*rows, alarms] if row not in STATISTICS] == []


def test_what_the_looks_gain_is_that_of_the_simulations():
    both = [result(name) for name in ("gate-looks-before.json", "gate-looks.json")]
    assert both[0]["recorded"] == both[1]["recorded"]
    rows = {
        "false alarms in suites": [
            "{rate:.2%} ({low:.2%} to {high:.2%})".format(**each["false_alarms"]) for each in both
        ],
        "suites undecided somewhere": [
            "{rate:.0%} ({low:.0%} to {high:.0%})".format(**each["inconclusive_suites"]) for each in both
        ],
        "seconds, unchanged": ["{mean:.0f}, {p90:.0f} in 90 %".format(**each["seconds"]) for each in both],
    }
    for slowdown in ("0.1", "0.2"):
        powers = [[power[slowdown] for power in each["power"].values()] for each in both]
        found = [[rate["rate"] for rate in rates] for rates in powers]
        rows[f"found at {float(slowdown):.0%}: mean, least stage"] = [
            f"{np.mean(rates):.0%}, {min(rates):.0%}" for rates in found
        ]
        seconds = [np.mean([rate["seconds"] for rate in rates]) for rates in powers]
        rows[f"seconds, one stage slower by {float(slowdown):.0%}"] = [f"{mean:.0f}" for mean in seconds]
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    assert [line for line in lines if line not in STATISTICS] == []


MODELS = ("eventgpt", "llava-1.5", "video-llava")
BACKENDS = ("", "-graph", "-compiled", "-fused")
BACKEND_STAGES = ("encode", "prefill", "decode")


def recording(gpu):
    """The benchmarks of a recording, by name."""
    return {benchmark["name"]: benchmark for benchmark in result(f"{gpu}/results.json")["benchmarks"]}


def processes_of(gpu):
    """The benchmarks of each timing process of a recording, by name."""
    paths = sorted((ROOT / "docs" / "results" / gpu / "processes").glob("*.json"))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths[1:]]  # the first one proves
    return [{benchmark["name"]: benchmark for benchmark in run["benchmarks"]} for run in runs]


@pytest.fixture(scope="module")
def recorded():
    """Those of the H100."""
    return recording("h100-7b")


@pytest.fixture(scope="module")
def processes():
    """Those of the H100."""
    return processes_of("h100-7b")


def ms(benchmark, which="median"):
    """Of a decode, that of one step."""
    info = benchmark["extra_info"]
    return benchmark["stats"][which] * 1e3 / (info["units"] if info.get("stage") == "decode" else 1)


@pytest.mark.parametrize(("gpu", "count"), [("h100-7b", 8), ("h200-7b", 5), ("h200-7b-scale", 1)])
def test_a_recording_is_that_of_its_processes(gpu, count):
    recorded, processes = recording(gpu), processes_of(gpu)
    timed = [name for name in recorded if name != "test_reference"]  # which has no time of its own
    medians = {name: [process[name]["stats"]["median"] for process in processes] for name in timed}
    assert medians == {name: recorded[name]["stats"]["data"] for name in timed}
    assert {(count, 1)} == {
        (len(processes), process[name]["stats"]["rounds"]) for process in processes for name in timed
    }


@pytest.mark.parametrize("gpu", ["h100-7b", "h200-7b"])
def test_the_commit_the_command_and_the_environment_are_those_of_the_recording(gpu):
    found = result(f"{gpu}/results.json")
    plan, machine = found["stagebench"]["recording"], found["machine_info"]
    driver = f"driver {machine['driver']}, {machine['cores']} cores"
    command = (
        f'stagebench bench out --processes {plan["processes"]} --rounds {plan["rounds"]} --select "{plan["select"]}"'
    )
    assert [said for said in (found["commit_info"]["id"], driver, command) if said not in OF_GPU[gpu]] == []


@pytest.mark.parametrize("gpu", ["h100-7b", "h200-7b"])
def test_the_times_of_the_backends_are_those_of_the_recording(gpu):
    recorded = recording(gpu)
    stages = {f"encode, {n} image{'s' * (n > 1)}": f"test_images[images{n}-llava-1.5{{}}]" for n in (1, 5, 8)}
    stages |= {
        "prefill, 590 tokens": "test_stage[llava-1.5{}-prefill]",
        "prefill, 2,070 tokens (video-llava)": "test_stage[video-llava{}-prefill]",
        "decode, a step": "test_stage[llava-1.5{}-decode]",
    }

    def row(line, name, reference, by_generate):
        base = ms(recorded[reference])
        times = [ms(recorded[name.format(backend)]) for backend in BACKENDS]
        return f"| {line} |{by_generate} | {' | '.join(f'{time:.1f} ({time / base:.2f})' for time in times)} |"

    rows = [row(line, name, name.format(""), "") for line, name in stages.items()]
    for model in MODELS:
        reference = f"test_e2e_generate[{model}]"
        generate = f" {ms(recorded[reference]):.1f}"
        rows.append(row(f"e2e, {model}", f"test_e2e[{model}{{}}]", reference, generate))
    assert [row for row in rows if row not in OF_GPU[gpu]] == []


def share(run, model, stages, whole):
    """What stages of a run add up to, in parts of one of its benchmarks."""
    parts = [run[f"test_stage[{model}-{stage}]"]["stats"]["median"] for stage in stages]
    return sum(parts) / run[f"{whole}[{model}]"]["stats"]["median"]


@pytest.mark.parametrize("gpu", ["h100-7b", "h200-7b"])
def test_what_the_stages_add_up_to_in_minutes_of_their_own_is_that_of_the_recording(gpu):
    def to_generate(run, model):
        return share(run, model, BACKEND_STAGES, "test_generate")

    of_all = [to_generate(recording(gpu), model) for model in MODELS]
    of_each = [to_generate(run, model) for run in processes_of(gpu) for model in MODELS]
    logs = [np.mean([np.log(to_generate(run, model)) for model in MODELS]) for run in processes_of(gpu)]
    low, high = ttest_1samp(logs, 0).confidence_interval(0.95)  # the process is the sample
    assert (
        f"{min(of_all):.3f} to {max(of_all):.3f} of `generate()` by model, "
        f"{min(of_each):.2f} to {max(of_each):.2f} in single processes, "
        f"{np.exp(np.mean(logs)):.2f} ({np.exp(low):.2f} to {np.exp(high):.2f}) over all"
    ) in joined(OF_GPU[gpu])


def spread(benchmark):
    return f"{ms(benchmark, 'min'):.1f} to {ms(benchmark, 'max'):.1f}"


def test_the_spread_of_the_processes_is_that_of_the_recording(recorded):
    of_e2e = [share(recorded, model, STAGE_NAMES, "test_e2e") for model in MODELS]
    sentences = [
        f"eager decode step of llava-1.5 took {spread(recorded['test_stage[llava-1.5-decode]'])} ms",
        f"one of eventgpt {spread(recorded['test_stage[eventgpt-decode]'])}, but",
        f"`graph` step of llava-1.5 {spread(recorded['test_stage[llava-1.5-graph-decode]'])}.",
        f"all five stages to {min(of_e2e):.2f} to {max(of_e2e):.2f} of e2e",
    ]
    assert [sentence for sentence in sentences if sentence not in joined(H100)] == []


def test_the_spread_on_the_h200_is_that_of_its_recording():
    recorded = recording("h200-7b")
    assert (
        f"an eager decode step of llava-1.5 took {spread(recorded['test_stage[llava-1.5-decode]'])} ms, "
        f"its prefill {spread(recorded['test_stage[llava-1.5-prefill]'])}, "
        f"and a `graph` step {spread(recorded['test_stage[llava-1.5-graph-decode]'])}."
    ) in joined(H200)


def test_what_the_gate_sees_on_a_good_and_on_a_bad_day_is_that_of_the_simulations():
    good, busy = result("gate-cpu-tiny.json"), result("gate-cpu-tiny-busy.json")

    def span(slowdown):
        rates = [power[slowdown]["rate"] for power in busy["power"].values()]
        return f"{min(rates):.0%} to {max(rates):.0%}"

    sentences = [
        "the design of before: {} pairs and {} to confirm".format(*good["pairs_of_a_decision"]),
        f"limit {good['limit']['threshold'] * 100:g} %, [{good['pairs']} pairs](../results/gate-cpu-tiny.json):",
        f"{good['inconclusive_suites']['rate']:.0%} of suites undecided in at least one of {good['benchmarks']} bench",
        f"[{busy['pairs']} pairs](../results/gate-cpu-tiny-busy.json) of processes one after the other found 10 % in "
        f"{span('0.1')} of decisions, by stage, and 20 % in {span('0.2')}.",
    ]
    assert [sentence for sentence in sentences if sentence not in joined(STATISTICS)] == []


def test_the_real_decisions_of_the_gate_are_those_made():
    made = result("gate-demonstration.json")["outcomes"]
    assert {kind: sum(each["right"] for each in decisions) for kind, decisions in made.items()} == {
        "aa": 6,
        "slower-0.1": 3,
        "slower-0.2": 3,
        "tower": 20,
        "copy": 20,
        "frames": 20,
    }
    assert [each for each in made["aa"] if each["seconds"] > 600] == []
    loops = [*made["slower-0.1"], *made["slower-0.2"]]
    sentences = [
        "six in which nothing had changed took {} to {} s, called".format(*span_of_seconds(made["aa"])),
        f"left {sum(each['verdicts'].get('inconclusive', 0) for each in made['aa'])} of "
        f"{sum(sum(each['verdicts'].values()) for each in made['aa'])} verdicts open",
        "took {} to {} s beside other work".format(*span_of_seconds(loops)),
        f"and named it for {sum(len(each['slower']) for each in made['slower-0.1'])} of 9 models at 10 %, "
        f"{sum(len(each['slower']) for each in made['slower-0.2'])} of 9 at 20 %, and no other stage",
    ]
    assert [sentence for sentence in sentences if sentence not in joined(STATISTICS)] == []


def span_of_seconds(decisions):
    seconds = [each["seconds"] for each in decisions]
    return min(seconds), max(seconds)


def test_the_work_of_the_eager_stages_is_that_of_the_recording():
    recorded = recording("h200-7b")

    def part(model, counter):
        done = [recorded[f"test_stage[{model}-{s}]"]["extra_info"]["work"] for s in ("encode", "prefill", "decode")]
        return sum(work[counter] for work in done) / recorded[f"test_generate[{model}]"]["extra_info"]["work"][counter]

    (operators,) = {f"{part(model, 'aten_operators'):.3f}" for model in MODELS}
    assert f"on the H200 {operators} of the operators of `generate()`" in joined(H200)
    assert {part(model, "flops") for model in MODELS} == {1.0}


def test_the_stages_add_up_to_the_whole_path_with_every_backend():
    recorded = recording("h200-7b")

    def of_e2e(model, backend):
        parts = [recorded[f"test_stage[{model}{backend if s in BACKEND_STAGES else ''}-{s}]"] for s in STAGE_NAMES]
        whole = recorded[f"test_e2e[{model}{backend}]"]
        return sum(part["stats"]["median"] for part in parts) / whole["stats"]["median"]

    shares = [of_e2e(model, backend) for model in MODELS for backend in BACKENDS]
    assert f"add up to {min(shares):.2f} to {max(shares):.2f} of e2e by these medians, whatever the backend" in joined(
        H200
    )


def test_the_table_of_the_readme_is_that_of_the_h200():
    rows = re.findall(r"(?m)^\| (?:decode|e2e), .*\|$", README)
    assert ([row for row in rows if row not in H200], len(rows)) == ([], 4)


def test_the_steps_by_batch_and_context_are_those_measured():
    recorded = recording("h200-7b-scale")
    name = "test_scale[batch{}-context{}-llava-1.5-graph-decode]"
    steps = [[f"{ms(recorded[name.format(rows, context)]):.1f}" for rows in (1, 4, 8)] for context in (640, 2112)]
    words = ["{}, {} and {}".format(*of_context) for of_context in steps]
    assert "takes {} ms at 640 tokens of context, and {} at 2,112".format(*words) in joined(H200)


PREFILLS = {f"test_stage[video-llava{backend}-prefill]" for backend in BACKENDS}
AT_THE_CAP = {
    "h100-7b": PREFILLS | {"test_stage[video-llava-fused-decode]", "test_e2e[video-llava-fused]"},
    "h200-7b": PREFILLS - {"test_stage[video-llava-prefill]"}
    | {"test_stage[video-llava-fused-decode]", "test_e2e[video-llava-fused]", "test_e2e[video-llava-compiled]"},
}


@pytest.mark.parametrize("gpu", AT_THE_CAP)
def test_the_gpu_was_alone_and_at_its_power_cap_where_the_readme_says_so(gpu):
    processes = processes_of(gpu)
    names = [name for name, benchmark in recording(gpu).items() if "gpu" in benchmark["extra_info"]]
    told = [run[name]["extra_info"]["gpu"] for run in processes for name in names]
    readings = [of[when] for of in told for when in ("before", "after")]
    assert {reading["foreign_processes"] for reading in readings} == {0}
    assert {reason for reading in readings for reason in reading["throttled"]} == {"power cap"}
    disturbed = [{name for name in names if run[name]["extra_info"]["gpu"]["disturbed_rounds"]} for run in processes]
    assert set.intersection(*disturbed) == AT_THE_CAP[gpu]


def runs_beside_generate(gpu):
    """One run on the H200, two on the H100."""
    found = result(f"{gpu}-beside-generate.json")
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("gpu", ["h100-7b", "h200-7b"])
def test_the_stages_beside_generate_are_those_measured(gpu):
    runs = runs_beside_generate(gpu)
    rows = {name: [row for run in runs for row in run["rows"] if row["model"] == name] for name in MODELS}
    passes = {name: [of for row in found for of in row["passes"]] for name, found in rows.items()}
    assert {len(of) for of in passes.values()} == {32}
    passes["all three"] = [of for each in passes.values() for of in each]
    lines = [
        f"| {gpu[:4].upper()}, {name} | "
        + " | ".join("{ratio:.3f} ({low:.3f} to {high:.3f})".format(**each) for each in ratios(of).values())
        for name, of in passes.items()
    ]
    assert [line for line in lines if line not in OF_GPU[gpu]] == []
    assert (
        "{ratio:.3f} ({low:.3f} to {high:.3f})".format(**ratios(passes["all three"])["of_all_seconds"]) in OF_GPU[gpu]
    )


@pytest.mark.parametrize("gpu", ["h100-7b", "h200-7b"])
def test_the_ratios_beside_generate_are_those_of_their_passes(gpu):
    for run in runs_beside_generate(gpu):
        told = [row["ratios"] for row in run["rows"]] + [run["over_all"]]
        again = [ratios(row["passes"]) for row in run["rows"]]
        again.append(ratios([of for row in run["rows"] for of in row["passes"]]))
        for given, found in zip(told, again, strict=True):
            assert {what: of["ratio"] for what, of in found.items()} == {
                what: pytest.approx(of["ratio"]) for what, of in given.items()
            }


def test_the_first_turn_is_as_much_longer_than_that_of_generate_as_measured():
    (run,) = runs_beside_generate("h200-7b")
    longer, parts = [], []
    for row in run["rows"]:
        staged, generate = (np.array([of[way] for of in row["passes"]]) for way in ("staged", "generate"))
        longer.append(np.median(staged[:, 0] - generate[:, 0]) * 1e3)
        parts.append(np.median(generate[:, 0] / generate.sum(axis=1)))
    assert (
        f"The first turn, {min(parts) * 100:.0f} to {max(parts):.0%} of the time, "
        f"is longer there by {min(longer):.1f} to {max(longer):.1f} ms"
    ).replace("%", " %") in joined(H200)


def test_the_step_is_that_of_the_profile():
    profile = (ROOT / "docs" / "results" / "h100-7b-step.md").read_text(encoding="utf-8")
    floor, size, rate = re.search(r"The floor is (\S+) ms: (\S+) GB of weights at the (\S+) TB/s", profile).groups()
    eager = profile.partition("\n## eager\n")[2]
    step = float(re.search(r"A step takes (\S+) ms", eager)[1])
    idle = int(re.search(r"\| no kernel: [^|]*\| (\d+) ", eager)[1]) / 1e3
    sentences = [
        f"reads {float(size):.1f} GB of weights, which takes {float(floor):.1f} ms at the {rate} TB/s measured",
        f"profiled, it took {step:.0f} ms, and in {idle:.0f} of these no kernel ran",
    ]
    assert [sentence for sentence in sentences if sentence not in joined(H100)] == []
    assert set(re.findall(r"^## (\w+)$", profile, flags=re.MULTILINE)) == {"eager", "graph", "compiled", "fused"}


def test_the_fused_step_on_the_h200_is_that_of_the_profile():
    profile = (ROOT / "docs" / "results" / "h200-7b-step.md").read_text(encoding="utf-8")
    step, above = re.search(r"## fused\n\nA step takes (\S+) ms, .* of the (\S+) ms above it", profile).groups()
    assert f"Of a step of {float(step):.1f} ms `fused` takes {float(above):.1f} more than the weights do" in joined(
        H200
    )


def test_the_gate_in_turns_on_the_h100_is_that_of_its_simulation():
    found = result("gate-h100-7b-graph.json")
    power = {name.split("-")[-1].rstrip("]"): rates for name, rates in found["power"].items()}
    encode, decode = ({s: f"{rate['rate']:.0%}" for s, rate in power[stage].items()} for stage in ("encode", "decode"))
    sentences = [
        f"with `graph`, and {found['pairs']} pairs to draw from",
        "false alarms in {rate:.2%} ({low:.2%} to {high:.2%}), ".format(**found["false_alarms"])
        + f"{found['inconclusive_suites']['rate']:.0%} of suites undecided somewhere.",
        f"A decode slower by 1 % was called in {decode['0.01']}, "
        f"an encode slower by 1 % in {encode['0.01']} and by 2 % in {encode['0.02']}.",
    ]
    assert [sentence for sentence in sentences if sentence not in joined(STATISTICS)] == []


def test_the_times_of_two_gpus_are_those_measured():
    medians = {(r["model"], r["stage"], r["tp"]): r["median"] * 1e3 for r in result("h100-7b-tp.json")["rows"]}
    rows = [
        f"| {model} | {' | '.join(f'{medians[model, s, n]:.0f}' for s in ('prefill', 'decode') for n in (1, 2))} |"
        for model in ("eventgpt", "llava-1.5", "video-llava")
    ]
    assert [row for row in rows if row not in H100] == []


@pytest.mark.parametrize("gpu", ["h100-7b", "h200-7b"])
def test_the_backends_kept_their_promise_on_every_text(gpu):
    rows = result(f"{gpu}-tokens.json")["rows"]
    texts = Counter((row["backend"], row["verdict"], row["repeats"], row["tokens"]) for row in rows)
    near = dict.fromkeys(("compiled", "fused"), ("near-tie", True, 128))
    assert texts == {("graph", "equal", True, 128): 15} | {(name, *verdict): 15 for name, verdict in near.items()}
    gaps = {name: [row["gap_ulps"] for row in rows if row["backend"] == name] for name in near}
    ulps = " and ".join(f"{min(found):.0f} to {max(found):.0f}" for found in gaps.values())
    assert f"the reference's own logits were {ulps} ulps apart" in joined(OF_GPU[gpu])


def test_the_tiny_models_know_what_their_page_and_their_cards_say():
    first, again = [run for run in TRAINED if run["run"] == 1], [run for run in TRAINED if run["run"] == 2]
    rows = []
    for about in first[-1]["accuracy"]:
        found = [run["accuracy"].get(about) for run in first + again]
        cells = [f"{x['right']:.1%} ({x['shuffled']:.1%}, {x['chance']:.1%})" if x else "" for x in found]
        rows.append(f"| {about} | {' | '.join(cells).replace('%', '')} |")
    assert [row for row in rows if row not in TINY] == []
    for run in first:
        card = (ROOT / "src/stagebench/models/tiny/weights" / run["model"] / "README.md").read_text(encoding="utf-8")
        told = {row[0]: row[1] for row in re.findall(r"(?m)^\| ([\w ]+) \| ([\d.]+%) \|", card)}
        assert told == {about: f"{x['right']:.1%}" for about, x in run["accuracy"].items()}
        assert " ".join(f"--{key} {value}" for key, value in run["course"].items()) in card


def test_the_tiny_models_answer_what_they_are_shown_and_guess_what_they_are_not():
    found = [(run["model"], about, x) for run in TRAINED for about, x in run["accuracy"].items() if about in ASKED]
    assert [each for each in found if each[2]["right"] < 0.97] == []
    assert [each for each in found if each[2]["shuffled"] > each[2]["chance"] + 0.05] == []


def test_the_tiny_models_were_trained_by_the_command_of_today():
    today = {name: course | {"seed": 0} for name, course in COURSES.items()}
    assert {run["model"]: run["course"] for run in TRAINED} == today


@pytest.fixture(scope="module")
def study():
    """Each run over the 200 clips."""
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in REPORTS.items()}


def of_models(report, mode="natural"):
    return [report["modes"][mode]["models"][name] for name in STUDIED]


def with_interval(mean, interval, unit=MS):
    return f"{unit.write(mean)} ({unit.write(tuple(interval[end] for end in ('low', 'high')))})"


def of_spread(spread):
    return with_interval(spread["mean"], spread["interval"])


def row_of(*cells):
    return f"| {' | '.join(cells)} |"


def test_the_table_of_the_200_clips_is_that_of_their_report(study):
    natural = of_models(study["own"])
    rows = [row_of(name, *(of_spread(each["stages"][name]) for each in natural)) for name in STAGE_NAMES]
    rows.append(row_of("e2e", *(of_spread(each["e2e"]) for each in natural)))
    rows.append(row_of("new tokens", *(f"{each['tokens']['mean']:.1f}" for each in natural)))
    rows.append(row_of("time per token", *(f"{each['tpot']['mean'] * 1e3:.2f}" for each in natural)))
    fixed = of_models(study["own"], "fixed")
    rows.append(row_of("e2e, 48 tokens each", *(of_spread(each["e2e"]) for each in fixed)))
    assert [row for row in rows if row not in STUDY] == []
    assert [(run["plan"]["samples"], run["measured"], run["failures"]) for run in study.values()] == [
        (200, 1200, [])
    ] * 4


def test_what_each_factor_saves_over_the_200_clips_is_that_of_the_report(study):
    pairs = {
        (each["other"]["model"], each["baseline"]["model"]): each for each in study["own"]["modes"]["natural"]["pairs"]
    }
    found = [pairs["eventgpt", slower] for slower in ("llava-1.5", "video-llava")]
    names = {name: name for name in (*STAGE_NAMES[:-1], "unattributed", "time per token")} | {
        "number of tokens": "tokens"
    }
    rows = [
        row_of(name, *(with_interval(each["seconds"][key], each["intervals"]["seconds"][key]) for each in found))
        for name, key in names.items()
    ]
    rows.append(row_of("all", *(with_interval(each["saved"], each["intervals"]["saved"]) for each in found)))
    assert [row for row in rows if row not in STUDY] == []
    assert [each["sentences"][0] for each in found if each["sentences"][0] not in joined(STUDY)] == []


def test_the_same_pixels_and_the_cache_took_what_the_reports_of_the_200_clips_say(study):
    rows = []
    for shown, run in {"its own": "own", "frames": "frames", "event images": "events"}.items():
        for name, natural, fixed in zip(STUDIED, of_models(study[run]), of_models(study[run], "fixed"), strict=True):
            times = of_spread(fixed["e2e"]), of_spread(natural["e2e"]), f"{natural['tokens']['mean']:.1f}"
            rows.append(row_of(shown, name, *times, f"{natural['right']['share']:.1%}"))
    pairs = [each for run in ("frames", "events") for each in study[run]["modes"]["fixed"]["pairs"]]
    sides = [(each, {each["other"]["model"], each["baseline"]["model"]}) for each in pairs]
    told = [each["sentences"][0] for each, both in sides if "eventgpt" in both]
    assert (len(told), [sentence for sentence in told if sentence not in joined(STUDY)]) == (4, [])
    own, cached = of_models(study["own"]), of_models(study["cached"])
    for name, *both in zip(STUDIED, own, cached, strict=True):
        times = [of_spread(each["stages"]["load"]) for each in both] + [of_spread(each["e2e"]) for each in both]
        rows.append(row_of(name, *times))
    assert [row for row in rows if row not in STUDY] == []


def test_the_drafts_were_accepted_as_often_as_the_report_of_the_200_clips_says(study):
    share, times, rows = Unit("{:.1%}", 1), Unit("{:.2f}", 1), []
    for each in study["own"]["drafting"]:
        found = each["speculation"]
        accepted = with_interval(found["acceptance"], found["acceptance_interval"], share)
        measured = with_interval(found["measured_speedup"], found["measured_interval"], times)
        expected = f"{found['tokens_per_check']:.2f}", f"{found['expected_speedup']:.2f}"
        if each["target"] != "eventgpt":
            rows.append(row_of(each["draft"], each["target"], accepted, *expected, measured))
    assert len(rows) == 4
    assert [row for row in rows if row not in STUDY] == []
