"""How often the gate is wrong, and what it sees, from recorded processes in which nothing changed.

    python benchmarks/experiments/gate_error_rates.py RECORDED... [--json OUT]

RECORDED are folders that `stagebench gate` recorded with the same code on both sides. A simulated decision draws
pairs out of them, swaps base and head of each pair by a coin, and decides as the gate does: a first look at all
benchmarks, and a confirmation on other pairs for what it did not clear. For the power curve the head's times of one
benchmark are multiplied. All decisions are by the functions that decide in earnest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from scipy.stats import binomtest

from stagebench.core import statistics
from stagebench.core.json_files import write_json
from stagebench.core.results import REFERENCE, read_results, versioned
from stagebench.gate.decide import log_ratios
from stagebench.gate.limits import Rules, read_rules

SLOWDOWNS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class Recording:
    """Pairs of processes: names of the m benchmarks, log-ratios of shape (m, pairs), and the log-limit of each."""

    names: tuple[str, ...]
    ratios: statistics.Array
    limits: statistics.Array


@dataclass(frozen=True)
class Plan:
    """How many pairs a first look and a confirmation have, and what decides."""

    first: int
    second: int
    rules: Rules


def read(folders: tuple[Path, ...], rules: Rules) -> Recording:
    """Pair the processes of each block as they ran: the first two, and the last two."""
    pairs = []
    for folder in folders:
        runs = [read_results(path) for path in sorted(folder.glob("first-*.json"))]
        for one, other in zip(runs[::2], runs[1::2], strict=False):
            sides = {run["stagebench"]["scheduled"]["variant"]: run for run in (one, other)}
            pairs.append((sides["base"], sides["head"]))
    if not pairs:
        raise click.UsageError(
            f"a simulation needs recorded processes, got no recorded pair in {', '.join(map(str, folders))}"
        )
    names = tuple(b["fullname"] for b in _judged(pairs[0][0]))
    typical = np.median([_medians(run) for pair in pairs for run in pair], axis=0)
    limits = [np.log1p(rules.limit_of(name, {}).of(t)) for name, t in zip(names, typical, strict=True)]
    bases, heads = zip(*pairs, strict=True)
    return Recording(names, np.stack([log_ratios(bases, heads, name) for name in names]), np.array(limits))


def _judged(run):
    found = [b for b in run["benchmarks"] if not b["name"].startswith(REFERENCE)]
    return sorted(found, key=lambda b: b["fullname"])


def _medians(run):
    return [b["stats"]["median"] for b in _judged(run)]


def decide_many(recording: Recording, plan: Plan, decisions: int, slower: np.ndarray, seed: int) -> np.ndarray:
    """Simulate decisions of both looks.

    Args:
        recording: what was measured.
        plan: of the gate.
        decisions: how many.
        slower: what to add to the log-ratios of each benchmark, shape (m,).
        seed: of the draws.

    Returns:
        Verdicts, shape (decisions, m).
    """
    rng = np.random.default_rng(seed)
    available = recording.ratios.shape[-1]
    drawn = np.stack([_draw(rng, available, plan.first + plan.second) for _ in range(decisions)])
    swaps = rng.choice((1.0, -1.0), drawn.shape)
    ratios = recording.ratios[:, drawn].transpose(1, 0, 2) * swaps[:, None, :] + slower[:, None]
    first, second = ratios[..., : plan.first], ratios[..., plan.first :]
    rules = plan.rules
    verdicts = statistics.decide(statistics.weigh(first, rules.confidence), recording.limits, rules.alpha).astype(
        "<U12"
    )
    for i in range(decisions):
        again = np.isin(verdicts[i], ("regression", "inconclusive"))
        if again.any():
            evidence = statistics.weigh(second[i, again], rules.confidence)
            verdicts[i, again] = statistics.decide(evidence, recording.limits[again], rules.alpha)
    return verdicts


def _draw(rng: np.random.Generator, available: int, wanted: int) -> np.ndarray:
    """Each pair once where there are enough, as a gate never sees one twice."""
    return rng.choice(available, wanted, replace=available < wanted)


def share(hits: np.ndarray) -> dict[str, float]:
    """A rate with its exact (Clopper-Pearson) 95 % interval."""
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95)
    return {"rate": float(hits.mean()), "low": float(interval.low), "high": float(interval.high), "of": len(hits)}


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--first", default=8, show_default=True, help="Pairs of the first look.")
@click.option("--second", default=8, show_default=True, help="Pairs of the confirmation.")
@click.option("--decisions", default=10_000, show_default=True, help="For the false alarms.")
@click.option("--power-decisions", default=200, show_default=True, help="For each benchmark and slowdown.")
@click.option("--config", type=click.Path(path_type=Path), default=Path("pyproject.toml"), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False))
def main(folders, first, second, decisions, power_decisions, config, json_path):
    """Print the rate of false alarms of whole suites, and the power curve of each benchmark."""
    rules = read_rules(config)
    recording, plan = read(folders, rules), Plan(first, second, rules)
    m, pairs = recording.ratios.shape
    quiet = decide_many(recording, plan, decisions, np.zeros(m), seed=0)
    out = {
        "pairs": pairs,
        "pairs_of_a_decision": [first, second],
        "limit": asdict(rules.limit),
        "benchmarks": m,
        "false_alarms": share((quiet == "regression").any(1)),
        "inconclusive_suites": share((quiet == "inconclusive").any(1)),
        "power": {},
    }
    click.echo(f"{pairs} recorded pairs of {m} benchmarks; {first} pairs, then {second} to confirm")
    for name in ("false_alarms", "inconclusive_suites"):
        click.echo("{}: {rate:.2%} ({low:.2%} to {high:.2%}, {of} decisions)".format(name, **out[name]))
    click.echo(f"{'found, at a slowdown of':60}" + "".join(f"{s:>6.1%}" for s in SLOWDOWNS))
    for j, name in enumerate(recording.names):
        found = {s: _power(recording, plan, power_decisions, j, s) for s in SLOWDOWNS}
        out["power"][name] = {str(s): rate for s, rate in found.items()}
        click.echo(f"{name.split('::')[-1]:60}" + "".join(f"{rate['rate']:>6.0%}" for rate in found.values()))
    if json_path:
        write_json(json_path, versioned("report", out))


def _power(recording, plan, decisions, benchmark, slowdown):
    slower = np.zeros(len(recording.names))
    slower[benchmark] = np.log1p(slowdown)
    return share(decide_many(recording, plan, decisions, slower, seed=1)[:, benchmark] == "regression")


if __name__ == "__main__":
    main()
