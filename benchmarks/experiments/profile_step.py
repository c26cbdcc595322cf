"""What one decode step is made of, by backend: its kernels, and what they leave above the time to read the weights.

    python benchmarks/experiments/profile_step.py [--model llava-1.5] [--backends eager,graph,fused] > profile.md

Needs a GPU. The profiler slows the host down, so the step's own time is taken without it. The weights of `fused` are
read by kernels that also do the norms and the activation.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import click
import torch
from step_profile import Kernel, by_name, overlap, parts_of, remaining
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from stagebench.analysis.experiments.measured_roofline import BytesMoved, measure_ceilings
from stagebench.backends.load import with_backend
from stagebench.core.artifacts import Inputs, Sample
from stagebench.core.settings import BACKENDS, GenerationSettings, ModelSettings
from stagebench.core.stages import DECODE, PREFILL
from stagebench.media.synthetic_clip import write_synthetic_clip
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import build_model
from stagebench.pipeline.decode import advance
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.run_stages import prepared
from stagebench.pipeline.timing import Stopwatch, pinned_runtime

STEPS = 16
SHOWN = 8
OPTIONS = GenerationSettings(2 * STEPS, fixed_length=True).options()


def step_seconds(model: VisionLanguageModel, inputs: Inputs) -> float:
    """A step's time, of several in a row, after a warm-up."""
    watch, features = Stopwatch(model.hf_model.device), encode(model, inputs)
    for _ in range(3):
        watch("steps", advance, model, prefill(model, inputs, features, OPTIONS), STEPS)
    return watch.seconds["steps"] / STEPS


def kernels(model: VisionLanguageModel, inputs: Inputs) -> list[Kernel]:
    """What ran on the GPU in some steps, copies included."""
    prefilled = prefill(model, inputs, encode(model, inputs), OPTIONS)
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler talks of cycles; here is one
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            advance(model, prefilled, STEPS)
            torch.cuda.synchronize()
        return [
            Kernel(event.name, event.time_range.start, event.time_range.end)
            for event in profiler.events()
            if event.device_type == DeviceType.CUDA and not event.is_user_annotation
        ]


def section(model: VisionLanguageModel, inputs: Inputs, backend: str, floor: float) -> str:
    """One backend's, in Markdown; `floor` in seconds."""
    seconds, ran = step_seconds(model, inputs), kernels(model, inputs)
    found = by_name(ran)
    rows = [(f"`{each.name[:70]}`", each.runs / STEPS, each.time / STEPS) for each in found]
    rest = rows[SHOWN:]
    rows = [*rows[:SHOWN], (f"{len(rest)} others", sum(r[1] for r in rest), sum(r[2] for r in rest))]
    lines = [
        f"## {backend}",
        "",
        *remaining(parts_of(found, STEPS, seconds * 1e6, floor * 1e6)),
        *overlap(ran, STEPS),
        "",
        "| kernel | a step | us a step |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {count:g} | {time:.0f} |" for name, count, time in rows),
    ]
    return "\n".join(lines)


@click.command()
@click.option("--model", "name", default="llava-1.5", show_default=True)
@click.option("--backends", default=",".join(BACKENDS), show_default=True)
def main(name: str, backends: str) -> None:
    """Print it for each backend."""
    if not torch.cuda.is_available():
        raise click.ClickException("the profile of a step needs a CUDA device, got none")
    settings = ModelSettings(profile="7b", device="cuda", dtype="bfloat16")
    with pinned_runtime(settings), tempfile.TemporaryDirectory() as folder:
        plain = build_model(name, settings)
        synthetic = write_synthetic_clip(Path(folder))
        inputs = prepared(plain, Sample(synthetic.shown("own", plain.input_kind)))
        ceilings, traffic = measure_ceilings(settings), BytesMoved(plain)
        prefilled = traffic(PREFILL.name, prefill, plain, inputs, encode(plain, inputs), OPTIONS)
        traffic(DECODE.name, advance, plain, prefilled, 1)
        weights = traffic.weight_bytes[DECODE.name]
        floor = weights / ceilings.bandwidth
        click.echo(
            f"# One decode step of {name}\n\n{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16, "
            f"after {inputs.input_ids.shape[1]} prompt tokens. The floor is {floor * 1e3:.2f} ms: "
            f"{weights / 1e9:.2f} GB of weights at the {ceilings.bandwidth / 1e12:.2f} TB/s that a copy moved."
        )
        for backend in backends.split(","):
            click.echo("\n" + section(with_backend(plain, backend), inputs, backend, floor))


if __name__ == "__main__":
    main()
