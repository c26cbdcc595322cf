"""One of the processes that torchrun starts for `stagebench tp`: the command itself, watched.

Run with a folder, where each rank writes what it saw, and the command's options.
"""

import json
import os
import sys
from pathlib import Path

from stagebench.backends.tensor_parallel import interleaved, local, share
from stagebench.cli import main, tp
from stagebench.models import eventgpt

seen = []


def shape_of_queries(model):
    weights = dict(model.hf_model.named_parameters())
    (name,) = [name for name in weights if name.endswith("layers.0.self_attn.q_proj.weight") and "tower" not in name]
    return list(local(weights[name]).shape)


def watched(whole, sharded, *given):
    passes = interleaved(whole, sharded, *given)
    seen.append(
        {
            "model": whole.name,
            "queries": [shape_of_queries(whole), shape_of_queries(sharded)],
            "share": share(sharded.hf_model, whole.hf_model),
            "passes": [[each.processes, list(each.tokens)] for each in passes],
        }
    )
    return passes


def odd_vocabulary(profile, config_of=eventgpt.config_of):
    config = config_of(profile)
    config.vocab_size = 515  # as that of the real EventGPT, 32003, no multiple of 2
    return config


folder, *options = sys.argv[1:]
tp.interleaved = watched
eventgpt.config_of = odd_vocabulary
main(["tp", *options], standalone_mode=False)
(Path(folder) / f"{os.environ['RANK']}.json").write_text(json.dumps(seen))
