"""vLLM's offline `LLM`, with load our own, and its stages by its statistics."""

import os
import time
import warnings
from itertools import count
from typing import Any
from unittest.mock import patch

import torch

from stagebench.core import meter
from stagebench.core.artifacts import Generation, Media, Run, Sample
from stagebench.core.errors import ModelError, StagebenchError, StageError
from stagebench.core.machine.environment import UNKNOWN, version_of
from stagebench.core.settings import VLLM, EngineSettings, GenerationSettings, ModelSettings
from stagebench.core.shown import one_line
from stagebench.core.stages import DECODE, ENCODE, LOAD, PREFILL, PREPROCESS
from stagebench.models import weights
from stagebench.models.huggingface import parts
from stagebench.models.processors import as_images, as_video, prompt_of
from stagebench.pipeline.load import load
from stagebench.pipeline.preprocess import require_question
from stagebench.pipeline.timing import without_collection

CACHES_OFF = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}
"""With one of these the second round of a sample would measure a cache."""

_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}  # and nothing is sent to its makers
_ON_GPU = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}  # once this process asked for the device, a forked one can't use it
_ON_CPU = {  # a cache of 1 GiB, on any cores, and in this process, which starts in seconds
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


class VllmEngine:
    """Serves a checkpoint. Times of encode, prefill and decode are vLLM's own, those of load and preprocess ours."""

    input_kind = "video"
    instrumented = True
    warnings: tuple[str, ...] = ()

    def __init__(self, model: str, settings: ModelSettings, own: EngineSettings, *, statistics: bool = True) -> None:
        if (version := version_of(*VLLM)) == UNKNOWN:
            raise ModelError("the engine vllm must be installed: pip install vllm")
        self.described = f"vllm {version}{own.describe(**CACHES_OFF)}"
        with weights.reading(f"the checkpoint {settings.weights}"):
            self._settings, _, _, self._processor = parts(model, settings)
        given = _arguments(self._settings, statistics=statistics) | own.arguments
        self._model, self._statistics, self._numbers = model, bool(given["enable_mm_processor_stats"]), count()
        self._llm = _started(model, settings, given)

    def run(self, sample: Sample, generation: GenerationSettings) -> Run:
        """Return a timed pass; raise StageError where vLLM fails, or answers from a cache."""
        from vllm import SamplingParams

        params: SamplingParams = self._llm.get_default_sampling_params()  # the checkpoint's own, as generate() has them
        params.temperature, params.max_tokens = 0.0, generation.max_new_tokens
        params.min_tokens = generation.max_new_tokens if generation.fixed_length else 0
        hits = self._cache_hits()
        try:
            with without_collection():
                run, output = self._timed(sample, params)
        except StagebenchError:
            raise
        except Exception as error:  # not narrower: vLLM's own and those of its workers
            raise StageError(f"vllm must answer the sample, got {one_line(error)}") from error
        if hits := {name: n - hits.get(name, 0) for name, n in self._cache_hits().items() if n > hits.get(name, 0)}:
            got = ", ".join(f"{n:g} {name}" for name, n in hits.items())
            raise StageError(f"{self._model}: each pass must do its work in vllm, got {got}: a cached result")
        return self._with_statistics(run, output)

    def _timed(self, sample: Sample, params: Any) -> tuple[Run, Any]:
        engine, before, ends = self._llm.llm_engine, meter.so_far(), list[float]()
        start = time.perf_counter()
        media = load(sample, self._settings.frames)
        loaded = time.perf_counter()
        done = meter.since(before)
        prompt, arguments = self._prompt(media, sample.question)
        engine.add_request(str(next(self._numbers)), prompt, params, tokenization_kwargs=arguments)
        added = time.perf_counter()
        while engine.has_unfinished_requests():
            for output in engine.step():
                ends += [time.perf_counter()] * (len(output.outputs[0].token_ids) - len(ends))
        e2e = time.perf_counter() - start
        answer, prompt_ids = output.outputs[0], tuple(output.prompt_token_ids)
        reasons = (answer.finish_reason,)
        generated = Generation((tuple(answer.token_ids),), reasons, len(ends) - 1, tuple(ends[1:]))
        seconds = {LOAD.name: loaded - start, PREPROCESS.name: added - loaded}
        spans = {LOAD.name: (start, loaded), PREPROCESS.name: (loaded, added)}
        asked = {"images": len(media.images), "prompt_tokens": len(prompt_ids)}
        work = {LOAD.name: done, PREPROCESS.name: asked, PREFILL.name: {"prompt_tokens": len(prompt_ids)}}
        work[DECODE.name] = generated.work()
        text, first = answer.text.strip(), ends[0] - loaded
        return Run(self._model, seconds, {}, e2e, generated, text, spans, work, first, prompt_ids), output

    def _prompt(self, media: Media, question: str) -> tuple[dict[str, Any], dict[str, bool]]:
        """Return vLLM's input, with the prompt and the images or video that transformers' processor gets."""
        require_question(question, self._model, self._processor.tokenizer)
        if self._settings.as_ == "video":
            content, shown = as_video(media)
            (frames,), (metadata,) = shown["videos"], shown["video_metadata"]
            data: dict[str, Any] = {"video": (frames, vars(metadata) | {"do_sample_frames": False})}
        else:
            content, shown = as_images(media)
            data = {"image": shown["images"][0]}
        text, arguments = prompt_of(self._processor, content, question)
        return {"prompt": text, "multi_modal_data": data}, arguments

    def _with_statistics(self, run: Run, output: Any) -> Run:
        """Add the stages in vLLM: from when it schedules the prompt to the first token, and from there to the last."""
        times = output.metrics
        if run.generation.steps:
            run.seconds[DECODE.name] = times.last_token_ts - times.first_token_ts
        if (encoded := self._encoder_statistics()) is None:
            return run
        encode, calls = (sum(e.get(key, 0) for e in encoded) for key in ("encoder_forward_secs", "num_encoder_calls"))
        if not calls:
            raise StageError(f"{self._model}: encode must do its work in vllm, got no call: a cached result")
        run.seconds[ENCODE.name] = encode
        run.seconds[PREFILL.name] = times.first_token_ts - times.scheduled_ts - encode
        run.metered[ENCODE.name] = {"images_encoded": run.metered[PREPROCESS.name]["images"], "encoder_calls": calls}
        return run

    def _encoder_statistics(self) -> list[Any] | None:
        """Return what the encoder counted since the last call; None without statistics, or where vLLM has none."""
        from vllm.benchmarks.mm_processor import get_timing_stats_from_engine

        if not self._statistics or self.warnings:
            return None
        try:
            return [*get_timing_stats_from_engine(self._llm.llm_engine).values()]
        except Exception as error:  # noqa: BLE001 # a worker's own; some of vLLM's runners don't count
            why = f"vllm tells nothing of its encoder ({one_line(error)}): encode and prefill are unattributed"
            self.warnings = (f"{why}; VLLM_USE_V2_MODEL_RUNNER=0 may help",)
            return None

    def _cache_hits(self) -> dict[str, float]:
        """Return how often each of vLLM's caches was hit so far, in tokens or images."""
        counters = self._llm.get_metrics()
        return {each.name.removeprefix("vllm:"): each.value for each in counters if each.name.endswith("cache_hits")}

    def close(self) -> None:
        """End vLLM's processes."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        weights.release()


def _arguments(settings: ModelSettings, *, statistics: bool) -> dict[str, Any]:
    """Return what vLLM's `LLM` gets, to be the same model on the same input as transformers'."""
    if settings.profile not in ("pretrained", "random"):
        raise ModelError(f"vllm must serve a checkpoint's own shapes, got the profile {settings.profile}")
    return CACHES_OFF | {
        "model": settings.weights,
        "dtype": settings.dtype,
        "load_format": "auto" if settings.profile == "pretrained" else "dummy",
        "trust_remote_code": settings.trust_remote_code,
        "seed": settings.seed % 2**32,
        "limit_mm_per_prompt": {"video": 1} if settings.as_ == "video" else {"image": settings.frames},
        "disable_log_stats": False,
        "enable_mm_processor_stats": statistics,
        "use_tqdm_on_load": False,
    }


def _started(model: str, settings: ModelSettings, given: dict[str, Any]) -> Any:
    on_cpu = _ON_CPU | {"OMP_NUM_THREADS": str(settings.threads)}
    wanted = _QUIET | (on_cpu if settings.device == "cpu" else _ON_GPU)
    environment = {name: os.environ.get(name, value) for name, value in wanted.items()}
    # On a CPU it also takes this function away from torch.
    function = patch.object(torch, "set_num_threads", torch.set_num_threads)
    with patch.dict(os.environ, environment), function, warnings.catch_warnings(action="ignore"):
        try:
            from vllm import LLM

            return LLM(**given)
        except Exception as error:  # not narrower: errors of a config, of a worker, and of what it imports
            raise ModelError(f"vllm must serve {model}, got {one_line(error)}") from error
