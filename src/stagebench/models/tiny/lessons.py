"""Make what a tiny model is trained on: clips as it sees them, and all questions about a clip in one sequence.

The visual tokens come first, once. Each question with its answer sees them and itself alone. Its positions are those of
a prompt with that question only. So one pass teaches everything about a clip.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, one_hot, pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from stagebench.core.artifacts import Inputs
from stagebench.media.clips import FRAMES, HEIGHT, QUESTIONS, RATE, SHAPES, WIDTH, Clip, Thing, draw_clips
from stagebench.media.rendering import EVENT_TIMES, GRAIN, on, render, render_events, scenes_of
from stagebench.models.llava import COLUMNS, ROWS, Llava
from stagebench.models.protocol import CACHE_ARGUMENT, Family

_IGNORED = -100  # cross_entropy's, of labels
_ALONE = 0.25  # of a step's clips have one object: which of two is asked about is learned last
_ON = 8  # one step of so many has captions that go on
_USES = {"video": 1, "events": 2}  # steps that clips are used for: to draw events takes as long as to train on them


class Lesson(NamedTuple):
    """One step's clips and texts, in host memory."""

    scenes: Tensor  # `rendering.scenes_of` the clips
    seed: int  # of the pixels' noise; a step with the seed of the step before has its pixels too
    ids: Tensor  # int64 (clips, tokens), of all that follows the visual tokens
    labels: Tensor  # the same where an answer and its stop token are, `_IGNORED` elsewhere
    positions: Tensor  # int64 (tokens,), counted from the visual tokens on
    question: Tensor  # int64 (tokens,): the number of each token's question, from 1
    answered: Tensor  # int64, the places where any clip has a label
    weights: Tensor  # float32, of the labels at these places: an answer's length counts by its square root
    where: Tensor  # float32 (clips, images, shapes, 3): x, y and opacity of each of `SHAPES` in each image


class Lessons(Dataset[Lesson]):
    """Makes the lesson of a step from its number and the seed alone."""

    def __init__(self, model: Family, clips: int, seed: int) -> None:
        self.questions, self.clips, self.seed = QUESTIONS[model.input_kind], clips, seed
        self.images, self.events = model.images_per_sample, model.input_kind == "events"
        self.uses, self.tokenizer = _USES[model.input_kind], model.tokenizer
        visual = model.visual_tokens(1 if isinstance(model, Llava) else self.images)
        self.prompts = {
            (about, shape): model.prompt_ids(question.format(shape), visual)
            for about, (question, _) in self.questions.items()
            for shape in SHAPES
        }
        self.head = self.prompts["caption", SHAPES[0]]
        self.head = self.head[: self.head.index(model.placeholder)]  # what comes before the visual tokens
        self.after = len(self.head) + visual

    def drawn(self, number: int, alone: float = 0.5) -> tuple[list[Clip], Tensor, list[Thing]]:
        """Draw the clips of a step, also as numbers, and choose the object of each clip for the questions."""
        clips = draw_clips((self.seed, number // self.uses), self.clips, alone)
        rng = np.random.default_rng((self.seed, number, 1))
        frames = [i * (FRAMES - 1) // (self.images - 1) / RATE for i in range(self.images)]
        scenes = scenes_of(clips, EVENT_TIMES if self.events else frames, gray=self.events)
        return clips, scenes, [clip.things[rng.integers(len(clip.things))] for clip in clips]

    def answers(self, about: str, clips: list[Clip], things: list[Thing], times: int = 1) -> list[list[int]]:
        """Return the ids of right answers, given so many times, and their stop token."""
        answer = self.questions[about][1]
        texts = [" . ".join([answer(clip, thing)] * times) for clip, thing in zip(clips, things, strict=True)]
        stop = self.tokenizer.eos_token_id
        return [[*ids, stop] for ids in self.tokenizer(texts, add_special_tokens=False).input_ids]

    def __getitem__(self, number: int) -> Lesson:
        """Ask everything about a step's clips."""
        clips, scenes, _ = self.drawn(number, _ALONE)
        ids, labels, weights, lengths = [], [], [], []
        for about, nth in [(a, n) for a, (q, _) in self.questions.items() for n in range(2 if "{}" in q else 1)]:
            things = [clip.things[nth % len(clip.things)] for clip in clips]
            asked = [self.prompts[about, thing.shape][self.after :] for thing in things]
            # Who may not stop says the same again. As seldom as this, it doesn't do so where it may stop.
            times = 3 if about == "caption" and number % _ON == 0 else 1
            answers = self.answers(about, clips, things, times)
            rows = [[*question, *answer] for question, answer in zip(asked, answers, strict=True)]
            wanted = [[*[_IGNORED] * len(q), *answer] for q, answer in zip(asked, answers, strict=True)]
            ids.append(_padded(rows, self.tokenizer.eos_token_id))
            labels.append(_padded(wanted, _IGNORED))
            labelled = labels[-1] != _IGNORED
            weights.append(labelled / labelled.sum(1, keepdim=True).sqrt())
            lengths.append(ids[-1].shape[1])
        label = torch.cat(labels, 1)
        answered = (label != _IGNORED).any(0).nonzero()[:, 0]
        return Lesson(
            scenes=scenes,
            seed=number // self.uses,
            ids=torch.cat(ids, 1),
            labels=label,
            positions=torch.cat([torch.arange(length) for length in lengths]),
            question=torch.arange(1, len(lengths) + 1).repeat_interleave(torch.tensor(lengths)),
            answered=answered,
            weights=torch.cat(weights, 1)[:, answered],
            where=where_of(scenes, self.images) if self.events else scenes[:, :, 1:, :3],
        )


def _padded(rows: list[list[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def where_of(scenes: Tensor, images: int) -> Tensor:
    """Return x, y and opacity of each shape in event images: (clips, images, shapes, 3), means of its slice's steps.

    Slices are those of equal area swept, from which events come.
    """
    x, y, shown, radius = scenes[:, :, 1:, :4].unbind(-1)
    moved = torch.hypot(x.diff(dim=1), y.diff(dim=1)) * shown[:, 1:]
    swept = (4 * radius[:, 1:] * moved + math.pi * radius[:, 1:] ** 2 * shown.diff(dim=1)).sum(-1)
    slices = ((swept.cumsum(1) - swept / 2) / swept.sum(1, keepdim=True) * images).long().clamp_(0, images - 1)
    of = one_hot(slices, images).float()
    sums = torch.einsum("csi,cstk->citk", of, scenes[:, 1:, 1:, :3])
    return sums / of.sum(1).clamp_(min=1)[..., None, None]


def pixels_of(model: Family, scenes: Tensor, generator: torch.Generator) -> Tensor:
    """Return what preprocessing makes of clips' files, on the generator's device: (clips, images, 3, side, side)."""
    device, side = generator.device, model.hf_model.config.vision_config.image_size
    reference: Any = model.image_processor.reference
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (reference.image_mean, reference.image_std))
    scenes, wide = scenes.to(device, non_blocking=True), side * WIDTH // HEIGHT
    if model.input_kind == "events":
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        drawn = render_events(scenes, model.images_per_sample, generator).to(dtype)
        # Matrices that resize and crop: many times faster than to interpolate.
        down, across = (_resizing(*sizes).to(device, dtype) for sizes in ((HEIGHT, side), (WIDTH, wide)))
        left = (wide - side) // 2
        pixels: Tensor = down @ drawn @ across[left : left + side].T
        return (pixels.float().mul_(255).round_().clamp_(0, 255) / 255 - mean) / std
    height, width = (side // COLUMNS * HEIGHT // WIDTH, side // COLUMNS) if isinstance(model, Llava) else (side, wide)
    frames: Tensor = on(device.type, render)(scenes, height, width)
    frames = (frames + GRAIN * torch.randn(frames.shape, device=device, generator=generator)).clamp_(0, 1)
    if isinstance(model, Llava):
        cells = frames.unflatten(1, (ROWS, COLUMNS)).permute(0, 3, 1, 4, 2, 5)
        grid = cells.reshape(len(frames), 3, ROWS * height, COLUMNS * width)
        canvas = mean.repeat(len(frames), 1, side, side)
        top = (side - grid.shape[-2]) // 2
        canvas[:, :, top : top + grid.shape[-2]] = grid
        return ((canvas - mean) / std).unsqueeze(1)
    left = (width - side) // 2
    return (frames[..., left : left + side] - mean) / std


def _resizing(before: int, after: int) -> Tensor:
    """Return the matrix (after, before) that resizes a side, antialiased and bicubic."""
    eye = torch.eye(before)[None, None]
    matrix: Tensor = interpolate(eye, (after, before), mode="bicubic", antialias=True)[0, 0]
    return matrix


def loss_of(model: Family, lessons: Lessons, lesson: Lesson, pixels: Tensor) -> Tensor:
    """Return the mean loss of the answers' tokens, and how far off the places are that images' mean features tell."""
    ids = torch.zeros(len(pixels), 1, dtype=torch.long)
    features = model.encode(Inputs(ids, ids, {model.pixels_argument: pixels}, pixels.shape[1]))
    told = answers_loss(model, lessons, lesson, features)
    in_one_image = isinstance(model, Llava)  # all of its frames, so that no feature is of one of them
    return told if in_one_image else told + places_loss(lessons, lesson, features)


def answers_loss(model: Family, lessons: Lessons, lesson: Lesson, features: Tensor) -> Tensor:
    """Return the weighted mean loss of the answers' tokens."""
    device, head, after = features.device, lessons.head, lessons.after
    ids, labels, positions, question, answered, weights = (x.to(device, non_blocking=True) for x in lesson[2:8])
    network, embed = model.hf_model, model.hf_model.get_input_embeddings()
    prefix = torch.cat([embed(torch.tensor([head] * len(ids), device=device)), features], 1)
    seen = network(inputs_embeds=prefix, use_cache=True, logits_to_keep=1).past_key_values
    of = pad(question, (after, 0))
    given = {
        "attention_mask": (((question[:, None] == of) | (of == 0)).tril(after))[None, None],
        "position_ids": after + positions[None],
        "logits_to_keep": answered - 1,
    }
    logits = network(inputs_embeds=embed(ids), **{CACHE_ARGUMENT: seen}, **given).logits.float()
    losses = cross_entropy(logits.transpose(1, 2), labels[:, answered], ignore_index=_IGNORED, reduction="none")
    return (losses * weights).sum() / weights.sum()


def places_loss(lessons: Lessons, lesson: Lesson, features: Tensor) -> Tensor:
    """Return the mean distance of the first numbers of images' mean features from where shapes are, in half heights.

    A model that has to tell where each shape is learns sooner how it moves.
    """
    where, images = lesson.where.to(features.device, non_blocking=True), lesson.where.shape[1]
    pooled = features[:, :images] if lessons.events else features.unflatten(1, (images, -1)).mean(2)
    told = pooled[..., : 2 * len(SHAPES)].float().unflatten(-1, (-1, 2))
    middle = where.new_tensor((WIDTH, HEIGHT)) / 2
    off: Tensor = (told - (where[..., :2] - middle) / (HEIGHT / 2)).abs().mean(-1)
    return (off * (where[..., 2] > 0)).mean()
