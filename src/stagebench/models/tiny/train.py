"""Train a tiny model to say what happens in synthetic clips: `python -m stagebench.models.tiny.train --help`.

What a step is trained on follows from the seed and its number, so that a run that goes on after an interruption gives
what it would have given without. Held-out clips are drawn by a seed of their own.
"""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from stagebench.core.artifacts import Inputs
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.models.assembly import assemble
from stagebench.models.protocol import Family
from stagebench.models.tiny.checkpoint import MODELS, save_checkpoint, untrained
from stagebench.models.tiny.lessons import Lessons, loss_of, pixels_of

_HELD_OUT = 1 << 40  # the number of no step
_SHOWN, _KEPT = 100, 1000  # steps
# All three take about a quarter of an hour on an H200.
COURSES: dict[str, dict[str, Any]] = {
    "eventgpt": {"steps": 6000, "clips": 64, "rate": 2e-3},
    "llava-1.5": {"steps": 2500, "clips": 256, "rate": 1e-3},
    "video-llava": {"steps": 9000, "clips": 64, "rate": 2e-3},
}


@dataclass(frozen=True, slots=True)
class Course:
    """How a model is trained: a run of other settings is another run."""

    steps: int
    clips: int  # a step
    rate: float  # AdamW's, at its highest
    seed: int


def train(model: Family, course: Course, stored: Path, until: int | None = None) -> list[float]:
    """Train to the end of a course, or until one of its steps, from where the stored run stopped; return all losses.

    Raise ModelError where that one was of another course.
    """
    network, device = model.hf_model, model.hf_model.device
    optimizer = torch.optim.AdamW(network.parameters(), lr=course.rate, betas=(0.9, 0.98), weight_decay=0.05)
    losses: list[Tensor] = []
    settings = {"model": model.name} | asdict(course)
    if stored.is_file():
        kept = torch.load(stored, map_location=device, weights_only=True)
        if kept["settings"] != settings:
            raise ModelError(f"{stored} must be a run of {settings}, got {kept['settings']}")
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        losses = [*kept["losses"]]
    network.train()
    for layer in network.modules():
        if isinstance(layer, CLIPEncoderLayer) and device.type == "cuda":
            layer.compile()
    begin, last, pixels, of = time.monotonic(), min(course.steps, until or course.steps), torch.empty(0), None
    lessons, gpu = Lessons(model, course.clips, course.seed), device.type == "cuda"
    workers = min(12, os.cpu_count() or 1) if gpu else 0
    numbers = range(len(losses), last)
    loader = DataLoader(lessons, batch_size=None, sampler=numbers, num_workers=workers, pin_memory=gpu)
    for step, lesson in enumerate(loader, numbers.start):
        # It rises for a twentieth of the steps, then falls as a cosine to a fiftieth.
        risen, fallen = 20 * (step + 1) / course.steps, 0.51 + 0.49 * math.cos(math.pi * step / course.steps)
        optimizer.param_groups[0]["lr"] = course.rate * min(1, risen, fallen)
        if lesson.seed != of:
            generator = torch.Generator(device).manual_seed((course.seed << 32) + lesson.seed)
            pixels, of = pixels_of(model, lesson.scenes, generator), lesson.seed
        with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
            loss = loss_of(model, lessons, lesson, pixels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        done = step + 1
        if done % _SHOWN == 0 or done == last:
            mean = torch.stack(losses[-_SHOWN:]).mean()
            click.echo(f"{model.name}: step {done}, loss {mean:.4f}, {time.monotonic() - begin:.1f} s")
        if done % _KEPT == 0 or done == last:
            part = stored.with_suffix(".part")
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({"settings": settings, "losses": torch.stack(losses), **state}, part)
            part.replace(stored)
    network.eval()
    return torch.stack(losses).tolist()


@torch.no_grad()
def accuracy(model: Family, number: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Ask about held-out clips; say by what was asked how often all of the answer is right, and with others' images.

    "chance" is how often the most frequent answer would be.
    """
    lessons, device = Lessons(model, number, seed), model.hf_model.device
    clips, scenes, things = lessons.drawn(_HELD_OUT)
    pixels = pixels_of(model, scenes, torch.Generator(device).manual_seed(_HELD_OUT)).to(model.hf_model.dtype)
    found = {}
    for about in lessons.questions:
        answers = lessons.answers(about, clips, things)
        shares = {"chance": max(map(answers.count, answers)) / number}
        ids = torch.tensor([lessons.prompts[about, thing.shape] for thing in things], device=device)
        for name, shown in (("right", pixels), ("shuffled", pixels.roll(1, 0))):
            inputs = Inputs(ids, torch.ones_like(ids), {model.pixels_argument: shown}, number * pixels.shape[1])
            limits = {"max_new_tokens": max(map(len, answers)), "do_sample": False}
            rows = model.hf_model.generate(**model.reference_inputs(inputs), **limits)[:, ids.shape[1] :].tolist()
            shares[name] = sum(row[: len(x)] == x for row, x in zip(rows, answers, strict=True)) / number
        found[about] = shares
    return found


@click.command()
@click.option("--model", "names", multiple=True, type=click.Choice([*MODELS]), help="Train this model. Default: all.")
@click.option("--steps", type=int, help="Train for so many steps. Default: by model.")
@click.option("--clips", type=int, help="Train on so many clips in a step. Default: by model.")
@click.option("--rate", type=float, help="Let AdamW's learning rate rise to this. Default: by model.")
@click.option("--seed", default=0, show_default=True, help="Draw weights and clips by this seed.")
@click.option("--held-out", default=512, show_default=True, help="Ask about so many other clips at the end.")
@click.option(
    "--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True, help="Train on it."
)
@click.argument("out", type=click.Path(path_type=Path))
def main(names: tuple[str, ...], out: Path, held_out: int, device: str, **given: Any) -> None:
    """Train tiny models, and save each as a checkpoint in OUT/NAME; go on with a run that was interrupted there."""
    for name in names or MODELS:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        course = COURSES[name] | {key: value for key, value in given.items() if value is not None}
        model = untrained(name, folder, ModelSettings(device=device, seed=course["seed"]))
        losses = train(model, Course(**course), out / f"{name}.pt")
        save_checkpoint(model, folder)
        settings = ModelSettings(profile="pretrained", weights=str(folder), device=device)
        found = accuracy(assemble(MODELS[name], settings), held_out)
        (out / f"{name}.json").write_text(json.dumps({"course": course, "losses": losses, "accuracy": found}))
        rows = [[about, *(f"{x[key]:.1%}" for key in ("right", "shuffled", "chance"))] for about, x in found.items()]
        card = Path(__file__).with_name("card.md").read_text()
        card = card.format(
            name=name,
            seen="event images" if model.input_kind == "events" else "frames",
            options=" ".join(f"--{key} {value}" for key, value in course.items()),
            rows="\n".join(f"| {' | '.join(row)} |" for row in rows),
        )
        (folder / "README.md").write_text(card)
        click.echo(card)


if __name__ == "__main__":
    main()
