"""Run an experiment: build and verify the models, then measure and record every task."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import combinations, groupby
from pathlib import Path
from typing import Any, cast

import torch

from stagebench.analysis.experiments.dataset import Entry, one_line, path_shown
from stagebench.analysis.experiments.design import Task
from stagebench.analysis.experiments.measured_roofline import BytesMoved, measure_ceilings
from stagebench.analysis.experiments.speculative import draft_lines, ordinary_tokens, share_tokens
from stagebench.analysis.experiments.thumbnails import keep_thumbnail, note
from stagebench.analysis.samples import KEY, MAIN, MODES, DraftLine, SampleLine, SampleLog, sample_of
from stagebench.backends.load import load_model
from stagebench.core.artifacts import Sample
from stagebench.core.errors import AnalysisError, MediaError, StagebenchError
from stagebench.core.machine import environment
from stagebench.core.settings import GenerationSettings, LoadSettings, ModelSettings
from stagebench.core.stages import DECODE
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.weights import release
from stagebench.pipeline.load import load
from stagebench.pipeline.run_stages import run_stages
from stagebench.pipeline.timed_pass import COLLECTION, check_passes, timed_pass
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import count_reference, require_text, verify

SPARE_MEMORY = 1.3  # a model's memory while it runs, as a ratio to its weights


@dataclass(frozen=True, slots=True)
class Experiment:
    """The models, settings and tasks of a run."""

    models: Sequence[str]  # in the order of building
    settings: ModelSettings
    loading: LoadSettings  # each sample adds its own window
    tasks: Sequence[Task]  # in order
    draft_tokens: int = 0  # drafted at once by models of one tokenizer for each other; 0 for none

    def sample(self, entry: Entry, model: VisionLanguageModel) -> Sample:
        """Return a model's sample from a dataset's entry."""
        path, loading = path_shown(entry, self.loading.media, model.input_kind), self.loading
        if path is None:
            raise AnalysisError(f"{entry.id} must have {loading.media}, got {', '.join(entry.paths)}")
        if entry.duration is not None:
            loading = replace(loading, start=entry.start, duration=entry.duration)
        return Sample(path, entry.question, loading)


def measure(experiment: Experiment, log: SampleLog) -> Iterator[SampleLine]:
    """Measure the tasks that the log lacks; yield each line once it is on the disk, with `error` for a failed one.

    Before a model is timed, an untimed pass in each mode must give the tokens, and do the work, of `generate()`. Raise
    StagebenchError where it does not, or the model can't be built.
    """
    left = [task for task in experiment.tasks if not log.has(task.key)]
    names = [name for name in experiment.models if any(task.model == name for task in left)]
    if not left:
        return
    with pinned_runtime(experiment.settings):
        session: Any = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_warning": environment.load_warning(),
            "ceilings": asdict(measure_ceilings(experiment.settings)),
            "together": None,
            "proofs": {},
            "same_tokens": [],
        } | COLLECTION
        log.begin_session(session)
        vocabularies: dict[str, dict[int, str]] = {}
        for models in _lineups(names, experiment.settings):
            session["together"] = len(models) == len(names)
            vocabularies |= {model.name: ordinary_tokens(model) for model in models}
            session["same_tokens"] = [
                [a, b] for a, b in combinations(vocabularies, 2) if share_tokens(vocabularies[a], vocabularies[b])
            ]
            workers = {model.name: _Worker(experiment, model, log.folder) for model in models}
            session["proofs"] |= {name: worker.proofs for name, worker in workers.items()}
            log.save_run()
            for (study, _), tasks in groupby(left, lambda task: (task.block.study, task.entry)):
                for task in tasks:
                    if task.model in workers:
                        line = workers[task.model].line(task, len(log.lines))
                        log.append(line)
                        yield line
                if study == MAIN and experiment.draft_tokens:
                    log.run.setdefault("drafts", []).extend(_drafts(experiment, models, task))
                    log.save_run()
            models.clear()
            workers.clear()


def _drafts(experiment: Experiment, models: Sequence[VisionLanguageModel], task: Task) -> Iterator[DraftLine]:
    """Draft a task's sample, of natural length where that is measured; what can't be read is named by its own task."""
    entry, generations = task.entry, task.block.generations
    options = next(generations[mode] for mode in MODES if mode in generations).options()
    with suppress(MediaError):
        samples = {model.name: experiment.sample(entry, model) for model in models}
        for line in draft_lines(models, samples, options, experiment.draft_tokens):
            yield line | {"sample": entry.id, "sequence": entry.sequence}


def _lineups(names: Sequence[str], settings: ModelSettings) -> Iterator[list[VisionLanguageModel]]:
    """Build all models at once if the memory holds that many of the first one's size, else one by one."""
    models = [load_model(names[0], settings)]
    others = names[1:]
    if _weights(models[0]) * len(others) * SPARE_MEMORY < _free_memory(models[0].hf_model.device):
        yield models + [load_model(name, settings) for name in others]
        return
    yield models
    for name in others:
        release()  # the memory of the previous model, which is unreachable by now
        yield [load_model(name, settings)]


def _weights(model: VisionLanguageModel) -> int:
    return sum(p.nbytes for p in model.hf_model.parameters())


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class _Worker:
    """Verifies a model in each mode on the first readable sample, as a warm-up, and then measures tasks."""

    def __init__(self, experiment: Experiment, model: VisionLanguageModel, folder: Path) -> None:
        self._experiment, self._model, self._folder = experiment, model, folder
        self._tokens: dict[tuple[Sample, GenerationSettings], tuple[tuple[int, ...], ...]] = {}
        tasks = [task for task in experiment.tasks if task.block.study == MAIN]
        sample, modes = self._readable(tasks), {task.mode: task.generation for task in tasks}
        # Of each mode the seconds of the verification, and by stage counters, bytes, and on a GPU peak bytes.
        self.proofs = {mode: self._proof(sample, generation) for mode, generation in sorted(modes.items())}

    def _readable(self, tasks: Sequence[Task]) -> Sample:
        """Return the first readable sample; unreadable ones fail later in their own tasks."""
        problem = "there is none"
        for task in tasks:
            sample = self._experiment.sample(task.entry, self._model)
            try:
                load(sample, self._model.images_per_sample)
            except MediaError as error:
                problem = str(error)
            else:
                return sample
        raise AnalysisError(f"at least one sample must be readable, got none; the last one: {problem}")

    def _proof(self, sample: Sample, generation: GenerationSettings) -> dict[str, Any]:
        # A model's peak must not include the weights of other models in memory.
        model, device = self._model, self._model.hf_model.device
        others = (torch.cuda.memory_allocated(device) if device.type == "cuda" else 0) - _weights(model)
        start = time.perf_counter()
        options = generation.options()
        verified = verify(model, count_reference(model, sample, options))
        self._tokens[sample, generation] = verified.generation.token_ids
        moved = BytesMoved(model)
        run_stages(model, sample, options, moved)
        peaks = {stage: work["peak_bytes"] - others for stage, work in verified.work.items() if "peak_bytes" in work}
        return {
            "seconds": time.perf_counter() - start,
            "sample": one_line(sample.path.name),
            "work": verified.work,
            "bytes": moved.as_json(),
        } | ({"peak_bytes": peaks} if peaks else {})

    def line(self, task: Task, order: int) -> SampleLine:
        """Measure a task; return its line, with `error` where it failed."""
        line: Any = dict(zip(KEY, task.key, strict=True)) | {"sequence": task.entry.sequence, "order": order}
        try:
            sample = self._experiment.sample(task.entry, self._model)
            path, images = one_line(sample.path.name), self._model.images_per_sample
            if task.block.study == MAIN:
                keep_thumbnail(self._folder, task.entry.id, path, sample, images)
            line |= self._cold_load(sample) if task.cold else {}
            seen = note(load(sample, images))  # puts the file into the page cache
            before, options = self._model.setups, task.generation.options()
            run = timed_pass(self._model, sample, options)
            if self._model.setups > before:  # for a shape that was not verified
                require_text(self._model, sample, options, run.generation.token_ids[0])
            first = self._tokens.setdefault((sample, task.generation), run.generation.token_ids)
            check_passes(self._model, [run], first)
            line = sample_of(run, task.mode) | line | {"path": path, "media": seen}
            line["work"] = {DECODE.name: run.generation.work()}
            answer = task.entry.answers.get(self._model.input_kind)
            line |= {"right": one_line(run.text) == answer} if answer and task.mode == "natural" else {}
        except (StagebenchError, torch.OutOfMemoryError) as error:
            line["error"] = one_line(error)
        if "peak_bytes" in (proof := self.proofs.get(task.mode, {})):
            line["peak_bytes"] = proof["peak_bytes"]
        return cast(SampleLine, line)

    def _cold_load(self, sample: Sample) -> dict[str, Any]:
        """Time a load from the disk, or return why the page cache keeps the files."""
        if kept := drop_from_page_cache(sample.path):
            return {"not_cold": kept}
        start = time.perf_counter()
        load(sample, self._model.images_per_sample)
        return {"cold_load": time.perf_counter() - start}


def drop_from_page_cache(path: Path) -> str | None:
    """Drop a file, or all files of a folder, from Linux's page cache; return the reason where one is still in it."""
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    try:
        return next(filter(None, map(_drop, files)), None)
    except (OSError, AttributeError) as error:  # AttributeError: not on this system
        return f"the page cache can't be controlled here: {error}"


def _drop(file: Path) -> str | None:
    with file.open("rb", buffering=0) as opened:
        os.fsync(opened.fileno())  # unwritten data can't be dropped
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(opened.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:  # it would wait for the disk
            return None
    return "the page cache keeps files of this file system"
