"""Runs a study: models are built and proven, then every task is measured and written down."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from stagebench.analysis.experiments.bytes_moved import TrafficCounter
from stagebench.analysis.experiments.dataset import Entry, one_line, path_shown
from stagebench.analysis.experiments.measured_roofline import measure_ceilings
from stagebench.analysis.experiments.page_cache import drop_from_page_cache
from stagebench.analysis.experiments.sample_log import Journal, Row
from stagebench.analysis.experiments.schedule import MAIN, Task
from stagebench.analysis.report import stage_table
from stagebench.backends.load import load_model
from stagebench.core import environment
from stagebench.core.artifacts import Run, Sample
from stagebench.core.errors import ExperimentError, MediaError, StagebenchError
from stagebench.core.settings import GenerationSettings, LoadSettings, ModelSettings
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.weights import release
from stagebench.pipeline.load import load
from stagebench.pipeline.run_stages import run_stages
from stagebench.pipeline.timed_pass import COLLECTION, check_passes, timed_pass
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import count_reference, repeats_itself, verify

Models = dict[str, VisionLanguageModel]
Texts = dict[tuple[str, Sample, GenerationSettings], tuple[tuple[int, ...], ...]]
"""Tokens that a first pass gave, a row each, by model, sample and settings."""
SPARE_MEMORY = 1.3
"""Times a model's weights: what it needs while it works."""


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that a run is made of.

    Attributes:
        models: names, in the order in which they are built.
        settings: how they are built.
        loading: how media are read, and which; each sample adds its own window.
        tasks: what is measured, in order.
    """

    models: Sequence[str]
    settings: ModelSettings
    loading: LoadSettings
    tasks: Sequence[Task]

    def sample(self, entry: Entry, model: VisionLanguageModel) -> Sample:
        """What a model gets of a sample."""
        path = path_shown(entry, self.loading.media, model.input_kind)
        if path is None:
            raise ExperimentError(f"{entry.id} must have {self.loading.media}, got {', '.join(entry.paths)}")
        loading = self.loading
        if entry.duration is not None:
            loading = replace(loading, start=entry.start, duration=entry.duration)
        return Sample(path, entry.question, loading)


def measure(study: Study, journal: Journal) -> Iterator[Row]:
    """Measure what the journal does not have yet.

    Before a model is timed, an untimed pass in each mode must give the tokens, and do the work, of `generate()`.

    Yields:
        Each row, once it is on the disk. Of a failed sample it has an `error`.

    Raises:
        StagebenchError: a model can't be built, or does not pass its proof.
    """
    left = [task for task in study.tasks if not journal.has(task.key)]
    if not left:
        return
    names = [name for name in study.models if any(task.model == name for task in left)]
    with pinned_runtime(study.settings):
        session: dict[str, Any] = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_warning": environment.load_warning(),
            "ceilings": asdict(measure_ceilings(study.settings)),
            "together": None,
            "proofs": {},
            "same_tokens": [],
        } | COLLECTION
        journal.begin_session(session)
        vocabularies: dict[str, dict[int, str]] = {}
        texts: Texts = {}
        for models in _lineups(names, study.settings):
            session["together"] = len(models) == len(names)
            session["proofs"] |= {name: _prove(study, model, texts) for name, model in models.items()}
            vocabularies |= {name: _ordinary_tokens(model) for name, model in models.items()}
            session["same_tokens"] = _same(vocabularies)
            journal.save_run()
            for task in left:
                if task.model in models:
                    row = _row(study, models[task.model], task, session["proofs"][task.model], texts)
                    journal.append(row | {"order": len(journal.rows)})
                    yield row
            models.clear()


def _lineups(names: Sequence[str], settings: ModelSettings) -> Iterator[Models]:
    """All models at once where the memory is large enough for as many as the first one, else one after the other."""
    first = load_model(names[0], settings)
    weights = sum(p.nbytes for p in first.hf_model.parameters())
    together = weights * (len(names) - 1) * SPARE_MEMORY < _free_memory(first.hf_model.device)
    models = {names[0]: first}
    del first
    if together:
        models |= {name: load_model(name, settings) for name in names[1:]}
    yield models
    if together:
        return
    for name in names[1:]:
        release()  # the model before this one is out of reach by now, but its memory is not yet free
        yield {name: load_model(name, settings)}


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _prove(study: Study, model: VisionLanguageModel, texts: Texts) -> dict[str, Any]:
    """Prove a model in each mode on the first sample that can be read; it warms up too.

    Returns:
        By mode: seconds that it took, counters by stage, bytes by stage, and on a GPU peak bytes by stage.
    """
    generations = {task.mode: task.generation for task in study.tasks if task.study == MAIN}
    sample = _readable(study, model)
    return {mode: _proof(study, model, sample, each, texts) for mode, each in sorted(generations.items())}


def _proof(
    study: Study, model: VisionLanguageModel, sample: Sample, generation: GenerationSettings, texts: Texts
) -> dict[str, Any]:
    # Of the weights of all models in memory, a model's own peak has to do with its own only.
    device = model.hf_model.device
    others = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    others -= sum(p.nbytes for p in model.hf_model.parameters())
    start = time.perf_counter()
    verified = verify(model, count_reference(model, sample, generation.options()), study.settings.kernels)
    texts[model.name, sample, generation] = verified.generation.token_ids
    traffic = TrafficCounter(model)
    run_stages(model, sample, generation.options(), traffic)
    found = {
        "seconds": time.perf_counter() - start,
        "sample": one_line(sample.path.name),
        "work": verified.work,
        "bytes": traffic.as_json(),
    }
    peaks = {stage: work["peak_bytes"] - others for stage, work in verified.work.items() if "peak_bytes" in work}
    return found | ({"peak_bytes": peaks} if peaks else {})


def _readable(study: Study, model: VisionLanguageModel) -> Sample:
    """The first sample that can be read. One that can't will fail in its turn."""
    problem = "there is none"
    for task in study.tasks:
        if task.study == MAIN:
            sample = study.sample(task.entry, model)
            try:
                load(sample, model.images_per_sample)
            except MediaError as error:
                problem = str(error)
            else:
                return sample
    raise ExperimentError(f"at least one sample must be readable, got none; the last one: {problem}")


def _row(study: Study, model: VisionLanguageModel, task: Task, proofs: Mapping[str, Any], texts: Texts) -> Row:
    about = {
        "study": task.study,
        "value": task.value,
        "model": task.model,
        "sample": task.entry.id,
        "sequence": task.entry.sequence,
        "mode": task.mode,
        "pass": task.number,
    }
    try:
        sample = study.sample(task.entry, model)
        cold = _cold_load(model, sample) if task.cold else {}
        load(sample, model.images_per_sample)  # so that the pass finds the file in the page cache
        run = _checked_run(study, model, sample, task.generation, texts)
    except (StagebenchError, torch.OutOfMemoryError) as error:
        return about | {"error": one_line(error)}
    peaks = {"peak_bytes": proofs[task.mode]["peak_bytes"]} if "peak_bytes" in proofs.get(task.mode, {}) else {}
    shown = {"path": one_line(sample.path.name), "load": "warm"}
    return about | shown | _measured(run) | cold | peaks


def _checked_run(
    study: Study, model: VisionLanguageModel, sample: Sample, generation: GenerationSettings, texts: Texts
) -> Run:
    run = timed_pass(model, sample, generation.options())
    first = texts.setdefault((model.name, sample, generation), run.generation.token_ids)
    check_passes(model, [run], first if repeats_itself(model, study.settings.kernels) else None)
    return run


def _measured(run: Run) -> Row:
    generation = run.generation
    return stage_table.pass_as_json(run) | {
        "tokens": run.new_tokens,
        "token_ids": list(generation.token_ids[0]),
        "finish_reason": generation.finish_reasons[0],
        "text": run.text,
        "work": {"decode": generation.work()},
    }


def _cold_load(model: VisionLanguageModel, sample: Sample) -> Row:
    """Time a load from the disk, where the page cache gives the files up."""
    kept = drop_from_page_cache(sample.path)
    if kept is not None:
        return {"not_cold": kept}
    start = time.perf_counter()
    load(sample, model.images_per_sample)
    return {"cold_load": time.perf_counter() - start}


def _ordinary_tokens(model: VisionLanguageModel) -> dict[int, str]:
    """The tokenizer's tokens by id, those left out that a model family added."""
    added = model.tokenizer.get_added_vocab()
    return {number: token for token, number in model.tokenizer.get_vocab().items() if token not in added}


def _same(vocabularies: Mapping[str, dict[int, str]]) -> list[list[str]]:
    """Pairs of models of which every id means the same ordinary token, as far as both have it."""
    names = list(vocabularies)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return [[a, b] for a, b in pairs if _agree(vocabularies[a], vocabularies[b])]


def _agree(a: dict[int, str], b: dict[int, str]) -> bool:
    return bool(a.keys() & b.keys()) and all(a[number] == b[number] for number in a.keys() & b.keys())
