"""How often the gate is wrong, what it sees, and how long it takes, from recorded processes in which nothing changed.

    python benchmarks/experiments/gate_error_rates.py RECORDED... [--blocks N] [--json OUT]

RECORDED are folders that `stagebench gate` recorded with the same code on both sides, or one OUT of before, for the
same pairs. A simulated gate draws pairs out of them, swaps base and head of each pair by a coin, and goes through its
phases in earnest: its looks, what it measures again, and its decision. For the power curve the head's times of one
benchmark are multiplied. Seconds are those of the processes that it asks for: their start and their rounds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.stats import binomtest

from stagebench.core.errors import ResultsError
from stagebench.core.json_files import read_json, write_json
from stagebench.core.results import is_reference, read_results, versioned
from stagebench.gate.decide import log_ratios
from stagebench.gate.limits import Rules, read_rules
from stagebench.gate.runner.ab_runner import BLOCK, PAIRS, ABPlan
from stagebench.gate.runner.phases import Phases
from stagebench.gate.verdicts import Decision

SLOWDOWNS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
HERE = {"device": "recorded", "profile": "none", "dtype": "none"}
SOUND = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}


@dataclass(frozen=True)
class Recording:
    """Pairs of processes: names of the m benchmarks, their median seconds, and log-ratios of shape (m, pairs)."""

    names: list[str]
    seconds: list[float]
    ratios: np.ndarray


class Replay:
    """Stands in for the runner of a gate: its processes take no time, and have the times of recorded pairs."""

    changed = ()

    def __init__(self, recording: Recording, plan: ABPlan, start: float, seed: int) -> None:
        """Draw pairs by the seed; a process takes `start` seconds beside its rounds."""
        self.plan, self._recording, self._start = plan, recording, start
        self._rng, self._left = np.random.default_rng(seed), []
        self.slower = np.zeros(len(recording.names))  # to add to each benchmark's log-ratios
        self.spent, self.seconds = 0.0, 0.0  # of all processes, and of the last one

    def count(self):
        """Return a process of each side."""
        (pair,) = self._pairs(1, self._recording.names, 1)
        return tuple([side] for side in pair)

    def time(self, phase, block, blocks, paths, rounds):
        """Return the pairs of a block."""
        return tuple(map(list, zip(*self._pairs(PAIRS, paths or self._recording.names, rounds), strict=True)))

    def _pairs(self, wanted, names, rounds):
        at = [self._recording.names.index(name) for name in names]
        base = np.array(self._recording.seconds)[at]
        self.seconds = self._start + rounds * base.sum()
        self.spent += 2 * wanted * self.seconds
        for _ in range(wanted):
            swap = self._rng.choice((1.0, -1.0))
            ratios = swap * self._recording.ratios[at, self._next()] + self.slower[at]
            yield _run(names, base), _run(names, base * np.exp(ratios))

    def _next(self) -> int:
        """Return a pair that was not drawn yet, where there are enough: a gate never sees one twice."""
        if not self._left:
            self._left = list(self._rng.permutation(self._recording.ratios.shape[1]))
        return int(self._left.pop())


def _run(names, seconds) -> dict[str, Any]:
    rows = [{"fullname": n, "name": n, "stats": {"median": t}} for n, t in zip(names, seconds, strict=True)]
    return {"machine_info": HERE, "stagebench": SOUND, "benchmarks": rows}


def read(paths: tuple[Path, ...]) -> Recording:
    """Pair the processes of each block as they ran, the first two and the last two; or read pairs of before."""
    if paths[0].is_file():
        stored = read_json(paths[0], str(paths[0]), ResultsError)["recorded"]
        return Recording(stored["names"], stored["seconds"], np.array(stored["ratios"]))
    pairs = []
    for folder in paths:
        runs = [read_results(path) for path in sorted(folder.glob("first-*.json"))]
        for one, other in zip(runs[::2], runs[1::2], strict=False):
            sides = {run["stagebench"]["scheduled"]["variant"]: run for run in (one, other)}
            pairs.append((sides["base"], sides["head"]))
    if not pairs:
        raise click.UsageError(
            f"a simulation needs recorded processes, got no recorded pair in {', '.join(map(str, paths))}"
        )
    names = sorted(b["fullname"] for b in pairs[0][0]["benchmarks"] if not is_reference(b["fullname"]))
    times = [{b["fullname"]: b["stats"]["median"] for b in run["benchmarks"]} for pair in pairs for run in pair]
    seconds = [float(np.median([each[name] for each in times])) for name in names]
    bases, heads = zip(*pairs, strict=True)
    return Recording(names, seconds, np.stack([log_ratios(bases, heads, name) for name in names]))


@dataclass(frozen=True)
class Simulation:
    """Gates of one recording: all that they have in common."""

    recording: Recording
    plan: ABPlan
    rules: Rules
    start: float  # seconds of a process beside its rounds

    def gates(self, decisions: int, slowdown: float = 0.0, benchmark: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return verdicts of shape (decisions, m), and the seconds of each gate, with one benchmark slowed down."""
        verdicts, seconds = [], []
        for seed in range(decisions):
            replay = Replay(self.recording, self.plan, self.start, seed)
            replay.slower[benchmark] = np.log1p(slowdown)
            made = Phases(replay, self.rules, Decision(), lambda _: None, 0.0).decide()
            of = {v.benchmark: v.verdict for v in made if v.kind == "time"}
            verdicts.append([of[name] for name in self.recording.names])
            seconds.append(replay.spent)
        return np.array(verdicts), np.array(seconds)


def share(hits: np.ndarray) -> dict[str, float]:
    """A rate with its exact (Clopper-Pearson) 95 % interval."""
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95)
    return {"rate": float(hits.mean()), "low": float(interval.low), "high": float(interval.high), "of": len(hits)}


@click.command()
@click.argument("recorded", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--blocks", type=int, help="Of a phase, at most; by default as a gate chooses them.")
@click.option("--rounds", default=7, show_default=True, help="Of each benchmark in a process.")
@click.option("--start", default=10.0, show_default=True, help="Seconds of a process beside its rounds.")
@click.option("--decisions", default=2_000, show_default=True, help="For the false alarms.")
@click.option("--power-decisions", default=100, show_default=True, help="For each benchmark and slowdown.")
@click.option("--slowdown", "slowdowns", multiple=True, type=float, default=SLOWDOWNS, show_default=True)
@click.option("--config", type=click.Path(path_type=Path), default=Path("pyproject.toml"), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False))
def main(recorded, blocks, rounds, start, decisions, power_decisions, slowdowns, config, json_path):
    """Print the rate of false alarms of whole suites, the seconds of a gate, and the power curve of each benchmark."""
    rules, recording = read_rules(config), read(recorded)
    plan = ABPlan(blocks, rounds, "", "cpu", 0, False, True, ())
    simulation = Simulation(recording, plan, rules, start)
    quiet, seconds = simulation.gates(decisions)
    m, pairs = recording.ratios.shape
    out = {
        "pairs": pairs,
        "blocks": blocks,
        "rounds": rounds,
        "start": start,
        "limit": asdict(rules.limit),
        "benchmarks": m,
        "false_alarms": share((quiet == "regression").any(1)),
        "inconclusive_suites": share((quiet == "inconclusive").any(1)),
        "seconds": {"mean": float(seconds.mean()), "p90": float(np.quantile(seconds, 0.9))},
        "power": {},
        "recorded": asdict(recording) | {"ratios": recording.ratios.round(6).tolist()},
    }
    click.echo(f"{pairs} recorded pairs of {m} benchmarks, blocks of {BLOCK} processes")
    for name in ("false_alarms", "inconclusive_suites"):
        click.echo("{}: {rate:.2%} ({low:.2%} to {high:.2%}, {of} decisions)".format(name, **out[name]))
    click.echo("seconds of a gate: {mean:.0f} in the mean, {p90:.0f} in 90 %".format(**out["seconds"]))
    click.echo(f"{'found, at a slowdown of':60}" + "".join(f"{s:>6.1%}" for s in slowdowns))
    for j, name in enumerate(recording.names):
        gates = {s: simulation.gates(power_decisions, s, j) for s in slowdowns}
        out["power"][name] = {
            str(s): share(verdicts[:, j] == "regression") | {"seconds": float(took.mean())}
            for s, (verdicts, took) in gates.items()
        }
        click.echo(f"{name.split('::')[-1]:60}" + "".join(f"{r['rate']:>6.0%}" for r in out["power"][name].values()))
    if json_path:
        write_json(json_path, versioned("report", out))


if __name__ == "__main__":
    main()
