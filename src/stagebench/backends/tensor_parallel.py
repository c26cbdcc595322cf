"""Tensor parallelism: one network over several processes, each with a part of every layer of the language model.

transformers does it by the network's own plan: it splits the weights and adds the communication between layers. The
vision tower and the projector are in no plan, so every process encodes all images itself.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import ProcessException, spawn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.distributed import DistributedConfig

from stagebench.core.artifacts import Sample
from stagebench.core.errors import ModelError, StagebenchError, StageError
from stagebench.core.stages import DECODE, IN_GENERATE
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.weights import reading, require_exact_keys
from stagebench.pipeline.run_stages import Options, prepared, run_stages, scored_generate
from stagebench.pipeline.timing import Stopwatch
from stagebench.pipeline.verify import TokenMatch, match_tokens


class Pass(NamedTuple):
    """A timed pass."""

    processes: int
    tokens: tuple[int, ...]  # the new ones
    seconds: dict[str, float]  # by stage, of the slowest process


def require_devices(device: str, processes: int) -> None:
    """Refuse a device that transformers won't use, or fewer GPUs than processes, before any process starts."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if device != kind:
        raise ModelError(f"tensor parallelism runs on {kind} here (CUDA_VISIBLE_DEVICES= hides GPUs), got {device}")
    if kind == "cuda" and processes > (gpus := torch.cuda.device_count()):
        raise ModelError(f"tensor parallelism needs one GPU per process, got {processes} processes and {gpus} GPUs")


def spread(processes: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a module's function in new processes, with NCCL on one GPU each, or with gloo on CPUs.

    Return rank 0's result, which must be JSON. Raise StageError with the message of the first process that failed with
    an error of ours, and ProcessException for another failure. No process outlives the others.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            spawn(_on_rank, (processes, folder, function, arguments), processes)
        except ProcessException:
            for said in sorted(folder.glob("error-*")):
                raise StageError(said.read_text(encoding="utf-8")) from None
            raise
        return json.loads((folder / "result").read_text(encoding="utf-8"))


def _on_rank(rank: int, processes: int, folder: Path, function: Callable[..., Any], arguments: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}  # transformers reads them
    gpu = torch.device("cuda", rank) if torch.cuda.is_available() else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    backend, store = "gloo" if gpu is None else "nccl", f"file://{folder / 'store'}"
    dist.init_process_group(backend, store, rank=rank, world_size=processes, device_id=gpu)
    try:
        result = function(*arguments)
    except StagebenchError as error:
        (folder / f"error-{rank}").write_text(str(error), encoding="utf-8")
        raise
    if rank == 0:
        (folder / "result").write_text(json.dumps(result), encoding="utf-8")
    dist.destroy_process_group()  # not after an error: other processes may wait for this one in another call


def local_device() -> str:
    """Return this process's device: its own GPU where there are any, else the CPU."""
    return f"cuda:{dist.get_rank()}" if torch.cuda.is_available() else "cpu"


def collectives() -> str:
    """Return the number of processes and their backend, for the identity of a run."""
    backend = dist.get_backend()
    version = f" {'.'.join(map(str, torch.cuda.nccl.version()))}" if backend == "nccl" else ""
    return f"{dist.get_world_size()} processes, {backend}{version}"


def shard(model: VisionLanguageModel) -> VisionLanguageModel:
    """Split a model that each process has built whole; parts are views where possible, so that both fit a GPU."""
    whole, processes = model.hf_model, dist.get_world_size()
    require_even_heads(whole.config.get_text_config(), processes)
    plan = dict(whole.tp_plan)
    if whole.config.get_text_config().vocab_size % processes:
        plan.pop("lm_head", None)  # transformers 5.17 refuses an uneven one; newer versions split it anyway
    with reading(f"{model.name}'s weights in {processes} parts"):
        hf_model, report = type(whole).from_pretrained(
            None,
            config=whole.config,
            state_dict=whole.state_dict(),
            dtype=whole.dtype,
            attn_implementation=whole.config._attn_implementation,
            distributed_config=DistributedConfig(tp_size=processes, tp_plan=plan),
            output_loading_info=True,
        )
        require_exact_keys(model.name, report)
    hf_model.generation_config = whole.generation_config
    return replace(model, hf_model=hf_model)


def require_even_heads(config: PretrainedConfig, processes: int) -> None:
    """Refuse a number of processes that does not divide a language model's attention heads."""
    for heads in ("num_attention_heads", "num_key_value_heads"):
        if (count := getattr(config, heads)) % processes:
            raise ModelError(f"the processes must divide {heads} {count}, got {processes}")


def share(hf_model: PreTrainedModel, whole: PreTrainedModel) -> float:
    """Return the share, 0 to 1, of a network's weights that this process holds."""
    # Up to transformers 5.15 a weight is the process's part itself.
    parts = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in hf_model.parameters())
    mine, everyones = sum(part.numel() for part in parts), sum(weight.numel() for weight in whole.parameters())
    return float(mine / everyones)


def beside_one_process(
    whole: VisionLanguageModel, sample: Sample, options: Options, rounds: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Time passes of a model on one process and on all processes, in turn, after a warm-up each; call it on every rank.

    Rank 0 returns the share of the weights per process, how the tokens compare with those of `generate()`, and a row
    per stage and number of processes. The length must be fixed: ranks that stop at different tokens would wait forever.
    """
    parts = shard(whole)
    done = interleaved(whole, parts, sample, options, rounds + 1)
    if dist.get_rank() > 0:
        return {}, []
    tokens, logits = scored_generate(whole, prepared(whole, sample), options)
    outcomes = certify(done, tuple(tokens[0].tolist()), logits)
    check = {
        "model": whole.name,
        "share_of_weights": share(parts.hf_model, whole.hf_model),
        "tokens": {str(processes): str(outcome) for processes, outcome in outcomes.items()},
    }
    rows = []
    for stage in IN_GENERATE:
        for n in outcomes:
            seconds = [each.seconds[stage] for each in done if each.processes == n][1:]
            median = statistics.median(seconds)
            rows.append({"model": whole.name, "stage": stage, "tp": n, "seconds": seconds, "median": median})
    return check, rows


def interleaved(
    whole: VisionLanguageModel, sharded: VisionLanguageModel, sample: Sample, options: Options, rounds: int
) -> list[Pass]:
    """Return passes of one process, on rank 0 alone, and of all processes, in turn."""
    passes = []
    for _ in range(rounds):
        if dist.get_rank() == 0:
            passes.append(_timed(whole, sample, options, 1))
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, _timed(sharded, sample, options, len(everyone)))
        passes.append(slowest(everyone))
    return passes


def _timed(model: VisionLanguageModel, sample: Sample, options: Options, processes: int) -> Pass:
    """Time a pass; with several processes, each stage starts when all are ready."""
    watch = Stopwatch(model.hf_model.device)

    def timed(stage: str, function: Callable[..., Any], *args: Any) -> Any:
        if processes > 1:
            dist.barrier()
        return watch(stage, function, *args)

    generation = run_stages(model, sample, options, timed)[DECODE.name]
    return Pass(processes, generation.token_ids[0], watch.seconds)


def slowest(ranks: Sequence[Pass]) -> Pass:
    """Return the ranks' passes as one with the longest time per stage; refuse different tokens."""
    if len(texts := {each.tokens for each in ranks}) > 1:
        raise StageError(f"every rank must give the same tokens, got {len(texts)} different texts")
    seconds = {stage: max(each.seconds[stage] for each in ranks) for stage in ranks[0].seconds}
    return ranks[0]._replace(seconds=seconds)


def certify(passes: Sequence[Pass], tokens: Sequence[int], logits: Sequence[Tensor]) -> dict[int, TokenMatch]:
    """Return matches with `generate()` by number of processes; raise StageError for a difference but no near-tie."""
    found: dict[int, TokenMatch] = {}
    for each in passes:
        outcome = match_tokens(tokens, each.tokens, logits)
        if outcome.verdict == "different":
            raise StageError(f"{each.processes} processes must give the tokens of generate(), got {outcome}")
        if found.setdefault(each.processes, outcome).position is None:
            found[each.processes] = outcome
    return found
