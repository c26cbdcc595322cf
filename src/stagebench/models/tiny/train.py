"""Train a tiny model to say what happens in synthetic clips: `python -m stagebench.models.tiny.train --help`.

What a step is trained on follows from the seed and its number, so that a run that goes on after an interruption gives
what it would have given without. Held-out clips are drawn by a seed of their own.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stagebench.core.artifacts import Inputs
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.media.clip_texts import told
from stagebench.media.clips import FRAMES, HEIGHT, RATE, SHAPES, WIDTH, Clips, draw_clips
from stagebench.media.rendering import render, render_events
from stagebench.models.assembly import assemble
from stagebench.models.llava import COLUMNS, ROWS, Llava
from stagebench.models.pixels import center_cropped, resized_in_float
from stagebench.models.protocol import Family
from stagebench.models.tiny.checkpoint import MODELS, TEXTS, save_checkpoint, untrained, write_card

_HELD_OUT = 1 << 40  # the number of no step
_WARM_UP = 0.05  # of the steps
_GRAIN = 0.01  # of frames, as a camera's and a codec's, in standard deviations
_IGNORED = -100  # cross_entropy's, of labels
_ASKED = 4  # steps that clips are used for: to draw events takes longer than to train on them
_SHOWN, _KEPT = 100, 500  # steps


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips as a model takes them, a question about each, and its answer."""

    inputs: Inputs
    answers: Tensor  # int64 (clips, tokens), `_IGNORED` after the stop token


def pixels_of(model: Family, clips: Clips, generator: torch.Generator) -> Tensor:
    """Return what preprocessing makes of clips' files, on the generator's device: (clips, images, 3, side, side)."""
    device, side = generator.device, model.hf_model.config.vision_config.image_size
    reference: Any = model.image_processor.reference
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (reference.image_mean, reference.image_std))
    count, wide = model.images_per_sample, side * WIDTH // HEIGHT
    if model.input_kind == "events":
        drawn = render_events(clips, count, generator).flatten(0, 1)
        pixels: Tensor = center_cropped(resized_in_float(drawn, side, wide), side, side).float() / 255
        return ((pixels - mean) / std).reshape(len(clips), count, 3, side, side)
    height, width = (side // COLUMNS * HEIGHT // WIDTH, side // COLUMNS) if isinstance(model, Llava) else (side, wide)
    times = [i * (FRAMES - 1) // (count - 1) / RATE for i in range(count)]
    frames = torch.stack([render(clips, at, height, width, device) for at in times], 1)
    frames = (frames + _GRAIN * torch.randn(frames.shape, device=device, generator=generator)).clamp_(0, 1)
    if isinstance(model, Llava):
        cells = frames.unflatten(1, (ROWS, COLUMNS)).permute(0, 3, 1, 4, 2, 5)
        grid = cells.reshape(len(clips), 3, ROWS * height, COLUMNS * width)
        canvas = mean.repeat(len(clips), 1, side, side)
        top = (side - grid.shape[-2]) // 2
        canvas[:, :, top : top + grid.shape[-2]] = grid
        return ((canvas - mean) / std).unsqueeze(1)
    left = (width - side) // 2
    return (frames[..., left : left + side] - mean) / std


def shown(model: Family, seed: tuple[int, int], number: int) -> tuple[Clips, Tensor]:
    """Draw clips by a seed, and return them with their pixels in the model's dtype."""
    clips = draw_clips(seed, number)
    generator = torch.Generator(model.hf_model.device).manual_seed(int(np.random.default_rng(seed).integers(1 << 62)))
    return clips, pixels_of(model, clips, generator).to(model.hf_model.dtype)


def batch_of(model: Family, about: str, clips: Clips, pixels: Tensor, seed: tuple[int, int]) -> Batch:
    """Ask the same about each clip, where it is about an object, of one that the seed chooses."""
    question, answer = TEXTS[model.name][about]
    chosen = np.where(clips.present, np.random.default_rng(seed).random(clips.present.shape), -1).argmax(1)
    visual, stop = model.visual_tokens(pixels.shape[1]), model.tokenizer.eos_token_id
    prompts = torch.tensor([model.prompt_ids(question.format(shape), visual) for shape in SHAPES])  # all of one length
    asked = prompts[torch.from_numpy(chosen)].to(pixels.device)
    answers = [answer(told(clips, index), SHAPES[column]) for index, column in enumerate(chosen)]
    ids = [[*each, stop] for each in model.tokenizer(answers, add_special_tokens=False).input_ids]
    longest = max(map(len, ids))
    padded = torch.tensor([[*each, *[_IGNORED] * (longest - len(each))] for each in ids], device=pixels.device)
    images = len(clips) * pixels.shape[1]
    return Batch(Inputs(asked, torch.ones_like(asked), {model.pixels_argument: pixels}, images), padded)


def loss_of(model: Family, batch: Batch) -> Tensor:
    """Return the mean loss of the answers' tokens."""
    stop, tokens = model.tokenizer.eos_token_id, batch.answers.shape[1]
    ids = torch.cat([batch.inputs.input_ids, batch.answers.masked_fill(batch.answers == _IGNORED, stop)], 1)
    inputs = Inputs(ids, torch.ones_like(ids), batch.inputs.given, batch.inputs.images)
    embeds = model.embed(inputs, model.encode(inputs))
    logits = model.hf_model(inputs_embeds=embeds, logits_to_keep=tokens + 1).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), batch.answers.flatten(), ignore_index=_IGNORED)


@dataclass(frozen=True, slots=True)
class Course:
    """How a model is trained: a run of other settings is another run."""

    steps: int
    clips: int  # a step
    rate: float  # AdamW's, at its highest
    seed: int

    def rate_at(self, step: int) -> float:
        """Return the rate of a step: it rises for `_WARM_UP` of them, then falls as a cosine to a fiftieth."""
        return self.rate * min(
            1, (step + 1) / (_WARM_UP * self.steps), 0.51 + 0.49 * math.cos(math.pi * step / self.steps)
        )


def train(model: Family, course: Course, stored: Path, until: int | None = None) -> list[float]:
    """Train to the end of a course, or until one of its steps, from where the stored run stopped; return all losses.

    Raise ModelError where that one was of another course.
    """
    about, network, device = [*TEXTS[model.name]], model.hf_model, model.hf_model.device
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
    begin, first, last = time.monotonic(), len(losses), min(course.steps, until or course.steps)
    for step in range(first, last):
        optimizer.param_groups[0]["lr"] = course.rate_at(step)
        if step % _ASKED == 0 or step == first:
            clips, pixels = shown(model, (course.seed, step // _ASKED), course.clips)
        which = about[0] if step % 2 == 0 else about[1 + step // 2 % (len(about) - 1)]  # the caption, or another
        batch = batch_of(model, which, clips, pixels, (course.seed, step))
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        done = step + 1
        if done % _SHOWN == 0 or done == last:
            seconds = time.monotonic() - begin
            click.echo(f"{model.name}: step {done}, {seconds:.0f} s, loss {torch.stack(losses[-_SHOWN:]).mean():.4f}")
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
    found, held_out = {}, (seed, _HELD_OUT)
    clips, pixels = shown(model, held_out, number)
    for about in TEXTS[model.name]:
        batch = batch_of(model, about, clips, pixels, held_out)
        inputs = batch.inputs
        pad = model.hf_model.generation_config.pad_token_id
        expected = batch.answers.masked_fill(batch.answers == _IGNORED, pad)
        others = {name: pixels.roll(1, 0) for name, pixels in inputs.given.items()}
        shares = {"chance": int(expected.unique(dim=0, return_counts=True)[1].max()) / number}
        for name, given in (("right", inputs), ("shuffled", replace(inputs, given=others))):
            limits = {"max_new_tokens": expected.shape[1], "do_sample": False}
            rows = model.hf_model.generate(**model.reference_inputs(given), **limits)[:, inputs.input_ids.shape[1] :]
            wide = torch.full_like(expected, pad)
            wide[:, : rows.shape[1]] = rows
            shares[name] = int((wide == expected).all(1).sum()) / number
        found[about] = shares
    return found


@click.command()
@click.option("--model", "names", multiple=True, type=click.Choice([*MODELS]), help="which; by default all, in turn")
@click.option("--steps", default=4000, show_default=True)
@click.option("--clips", default=64, show_default=True, help="that a step is trained on")
@click.option("--rate", default=1e-3, show_default=True, help="AdamW's, at its highest")
@click.option("--seed", default=0, show_default=True, help="of weights and of clips")
@click.option("--held-out", default=512, show_default=True, help="clips that each question is asked about at the end")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.argument("out", type=click.Path(path_type=Path))
def main(names: tuple[str, ...], out: Path, held_out: int, device: str, **course: Any) -> None:
    """Train tiny models, and save each as a checkpoint in OUT/NAME; go on with a run that was interrupted there."""
    for name in names or MODELS:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        model = untrained(name, folder, ModelSettings(device=device, seed=course["seed"]))
        losses = train(model, Course(**course), out / f"{name}.pt")
        save_checkpoint(model, folder)
        settings = ModelSettings(profile="pretrained", weights=str(folder), device=device)
        found = accuracy(assemble(MODELS[name], settings), held_out)
        (out / f"{name}.json").write_text(json.dumps({"course": course, "losses": losses, "accuracy": found}))
        click.echo(write_card(folder, name, " ".join(f"--{key} {value}" for key, value in course.items()), found))


if __name__ == "__main__":
    main()
