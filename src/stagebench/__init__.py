"""Stage-by-stage benchmarks for vision-language models.

    settings = stagebench.settings_of(model="llava-1.5", input="clip.mp4", new_tokens=16)
    for name, claim in stagebench.verify(settings):  # same tokens, same work as generate()
        print(name, claim.held, claim.claim)
    print(stagebench.run(settings)["llava-1.5"].median.seconds)

The path, in reading order: a `Sample` goes through `pipeline/load.py`, `preprocess.py`, `encode.py`, `prefill.py` and
`decode.py`; `pipeline/run_stages.py` runs them in a row; `gate/baseline.py` keeps what they took.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {  # where each name is: imported when it is asked for, because most of them wait for torch
    "Registration": "models.registration",
    "Sample": "core.artifacts",
    "compare": "gate.decide",
    "load_model": "suite.measure",
    "register_model": "models.registry",
    "run": "suite.measure",
    "settings_of": "suite.settings",
    "verify": "suite.measure",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
