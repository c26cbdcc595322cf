"""What each process of `stagebench run --tensor-parallel` calls in the tests: the measuring itself, watched.

Each rank writes what it saw to the folder that the variable `SEEN` of the environment names.
"""

import json
import os
from pathlib import Path

import torch.distributed as dist
from torch.distributed.tensor import DTensor

from stagebench.backends import tensor_parallel
from stagebench.backends.tensor_parallel import share
from stagebench.models.eventgpt import EventGPT
from stagebench.suite import measure

measure_honestly, interleaved, random_config = measure.on_each_rank, tensor_parallel.interleaved, EventGPT.random_config


def shape_of_queries(model):
    weights = dict(model.hf_model.named_parameters())
    (name,) = [name for name in weights if name.endswith("layers.0.self_attn.q_proj.weight") and "tower" not in name]
    weight = weights[name]
    return list(weight.to_local().shape if isinstance(weight, DTensor) else weight.shape)


def odd_vocabulary(profile):
    config = random_config(profile)
    config.vocab_size = 515  # as that of the real EventGPT, 32003, no multiple of 2
    return config


def watched(settings, passes):
    seen = []

    def watch(whole, sharded, *given):
        done = interleaved(whole, sharded, *given)
        seen.append(
            {
                "model": whole.name,
                "queries": [shape_of_queries(whole), shape_of_queries(sharded)],
                "share": share(sharded.hf_model, whole.hf_model),
                "passes": [[each.processes, list(each.tokens)] for each in done],
            }
        )
        return done

    tensor_parallel.interleaved, EventGPT.random_config = watch, odd_vocabulary
    result = measure_honestly(settings, passes)
    (Path(os.environ["SEEN"]) / f"{dist.get_rank()}.json").write_text(json.dumps(seen))
    return result


def refuse_on_rank_1():
    """Fail on one rank, while the other waits for it."""
    if dist.get_rank() == 1:
        raise measure.ModelError("rank 1 has no room")
    dist.barrier()
