"""What each backend writes, held against `generate()`: three models, five questions, twice.

    python benchmarks/experiments/certify_backends.py tokens.json [--backends graph,compiled,fused] [--new-tokens 128]

Needs a GPU; the exit code is 1 where a text is another than the backend promises.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch

from stagebench.backends.graph import RECIPES
from stagebench.backends.load import with_backend
from stagebench.core.artifacts import Sample
from stagebench.core.json_files import write_json
from stagebench.core.machine.environment import identity
from stagebench.core.results import versioned
from stagebench.core.settings import DEFAULT_MODELS, DEFAULT_QUESTION, GenerationSettings, LoadSettings, ModelSettings
from stagebench.media.synthetic_clip import SyntheticClip, write_synthetic_clip
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import build_model
from stagebench.models.weights import release
from stagebench.pipeline.run_stages import prepared, scored_generate, staged_generate
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import match_tokens, promised

QUESTIONS = (
    DEFAULT_QUESTION,
    "What moves?",
    "Is it day or night, and how can one tell?",
    "Where does the vehicle turn at the end of the scene?",
    "List every object in the foreground, then every object in the background, from left to right.",
)


def texts(
    plain: VisionLanguageModel, synthetic: SyntheticClip, generation: GenerationSettings, backends: list[str]
) -> Iterator[dict[str, Any]]:
    """One row for each question and backend of a model."""
    fast, options = {name: with_backend(plain, name) for name in backends}, generation.options()
    for question in QUESTIONS:
        inputs = prepared(plain, Sample(synthetic.shown("own", plain.input_kind), question))
        tokens, logits = scored_generate(plain, inputs, options)
        for name, model in fast.items():
            first, second = (staged_generate(model, inputs, options).token_ids[0] for _ in range(2))
            outcome = match_tokens(tokens[0].tolist(), first, logits)
            yield {
                "model": plain.name,
                "backend": name,
                "question": question,
                "prompt_tokens": inputs.input_ids.shape[1],
                "tokens": len(first),
                "verdict": outcome.verdict,
                "position": outcome.position,
                "gap_ulps": outcome.gap,
                "repeats": first == second,
                "kept": first == second and outcome.verdict in promised(model),
            }


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--backends", default=",".join(RECIPES), show_default=True)
@click.option("--new-tokens", default=128, show_default=True)
def main(path: Path, backends: str, new_tokens: int) -> None:
    """Write a row for each text to PATH."""
    if not torch.cuda.is_available():
        raise click.ClickException("backends need a CUDA device, got a machine without one")
    settings = ModelSettings(profile="7b", device="cuda", dtype="bfloat16")
    generation = GenerationSettings(new_tokens, fixed_length=True)
    rows: list[dict[str, Any]] = []
    with pinned_runtime(settings), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        synthetic = write_synthetic_clip(Path(folder))
        for name in sorted(DEFAULT_MODELS):
            release()
            for row in texts(build_model(name, settings), synthetic, generation, backends.split(",")):
                click.echo(" ".join(str(row[key]) for key in ("model", "backend", "verdict", "gap_ulps", "repeats")))
                rows.append(row)
    environment = identity(settings, generation, "five questions", None, LoadSettings())
    write_json(path, versioned("report", {"environment": environment, "rows": rows}))
    sys.exit(not all(row["kept"] for row in rows))


if __name__ == "__main__":
    main()
