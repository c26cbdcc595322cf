"""The decode loop when a step is one launch: tokens stay on the device, and the host looks two steps back.

A step's launch takes the host less time than the step takes the device. Waiting for each token, to see whether it is a
stop, would leave the device idle in between; so the host waits for the token before the last one. Only where tokens
are sampled does it wait for each: a wasted step would draw random numbers, and the next text would be another one.
"""

import time
from dataclasses import replace

import torch
from torch import Tensor

from stagebench.backends.capture import Captured
from stagebench.core.artifacts import Prefilled
from stagebench.pipeline.decode import append_next_token

LAG = 2  # steps in flight of a greedy search; those after all rows have stopped are counted, as `wasted_steps`


def advance(step: Captured, prefilled: Prefilled, steps: int | None = None) -> Prefilled:
    """Take some decode steps; see `pipeline.decode.advance`."""
    sequences, unfinished = prefilled.sequences, prefilled.unfinished
    room = prefilled.generation_config.max_length - sequences.shape[1]
    limit = (room if steps is None else min(room, steps)) if bool(unfinished.max()) else 0
    progress = _OnDevice(sequences.device, limit) if sequences.device.type == "cuda" else _Progress()
    lag = 1 if prefilled.generation_config.do_sample else LAG
    choice = prefilled.logits_processor, prefilled.stopping_criteria, prefilled.generation_config
    was_unfinished = list[Tensor]()
    for i in range(limit):
        if i >= lag and not progress.going(i - lag):
            break
        was_unfinished.append(unfinished)
        step.inputs["tokens"].copy_(sequences[:, -1:])
        sequences, unfinished = append_next_token(step(), sequences, unfinished, *choice)
        progress.note(unfinished)
    taken = len(was_unfinished)
    needed = next((i + 1 for i in range(taken) if not progress.going(i)), taken)
    lengths = torch.stack([prefilled.lengths, *was_unfinished]).sum(dim=0)
    return replace(
        prefilled,
        sequences=sequences[:, : sequences.shape[1] - (taken - needed)],
        unfinished=unfinished,
        lengths=lengths,
        step_ends=(*prefilled.step_ends, *progress.ends(needed)),
        wasted_steps=prefilled.wasted_steps + taken - needed,
    )


class _Progress:
    """Whether any row went on after each step, and when the step ended. On a CPU, where nothing runs ahead."""

    def __init__(self) -> None:
        self._steps: list[tuple[bool, float]] = []

    def note(self, unfinished: Tensor) -> None:
        self._steps.append((bool(unfinished.max()), time.perf_counter()))

    def going(self, i: int) -> bool:
        return self._steps[i][0]

    def ends(self, steps: int) -> list[float]:
        return [end for _, end in self._steps[:steps]]


class _OnDevice(_Progress):
    """Each step's flag is copied to the host as it is made, and an event says when it is there."""

    def __init__(self, device: torch.device, limit: int) -> None:
        self.flags = torch.empty(limit, dtype=torch.long, pin_memory=True)
        torch.cuda.synchronize(device)
        self.start, self.began = torch.cuda.Event(enable_timing=True), time.perf_counter()
        self.start.record()
        self.events: list[torch.cuda.Event] = []

    def note(self, unfinished: Tensor) -> None:
        self.flags[len(self.events)].copy_(unfinished.max(), non_blocking=True)
        self.events.append(torch.cuda.Event(enable_timing=True))
        self.events[-1].record()

    def going(self, i: int) -> bool:
        self.events[i].synchronize()
        return bool(self.flags[i])

    def ends(self, steps: int) -> list[float]:
        # Later events, of wasted steps, may not have come to pass yet, and torch times no such event.
        return [self.began + self.start.elapsed_time(event) / 1e3 for event in self.events[:steps]]
