"""Stage-by-stage benchmarks for vision-language models.

    >>> settings = stagebench.settings_of(model="llava-1.5", input="clip.mp4", new_tokens=16)
    >>> [*stagebench.run(settings)["llava-1.5"].median.seconds]
    ['load', 'preprocess', 'encode', 'prefill', 'decode']

The path, in reading order: a `Sample` goes through `pipeline/load.py`, `preprocess.py`, `encode.py`, `prefill.py` and
`decode.py`; `pipeline/run_stages.py` runs them in a row; `gate/baseline.py` keeps what they took.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker sees; `_PUBLIC` says the same to Python
    from stagebench.core.artifacts import Run as Run
    from stagebench.core.artifacts import Sample as Sample
    from stagebench.core.errors import StagebenchError as StagebenchError
    from stagebench.core.results import Results as Results
    from stagebench.core.results import read_results as read_results
    from stagebench.gate.decide import compare as compare
    from stagebench.gate.runner.gate import gate as gate
    from stagebench.gate.runner.recording import bench as bench
    from stagebench.gate.verdicts import Decision as Decision
    from stagebench.gate.verdicts import Verdict as Verdict
    from stagebench.models.registration import Registration as Registration
    from stagebench.models.registry import register_model as register_model
    from stagebench.pipeline.claims import Claim as Claim
    from stagebench.suite.measure import Measured as Measured
    from stagebench.suite.measure import load_model as load_model
    from stagebench.suite.measure import measure as measure
    from stagebench.suite.measure import run as run
    from stagebench.suite.measure import verify as verify
    from stagebench.suite.settings import Settings as Settings
    from stagebench.suite.settings import settings_of as settings_of

__version__ = "0.1.0"

_OF_MODULES = {  # where the names are: imported when one is asked for, because most of them wait for torch
    "core.artifacts": "Run Sample",
    "core.errors": "StagebenchError",
    "core.results": "Results read_results",
    "gate.decide": "compare",
    "gate.runner.gate": "gate",
    "gate.runner.recording": "bench",
    "gate.verdicts": "Decision Verdict",
    "models.registration": "Registration",
    "models.registry": "register_model",
    "pipeline.claims": "Claim",
    "suite.measure": "Measured load_model measure run verify",
    "suite.settings": "Settings settings_of",
}
_PUBLIC = {name: module for module, names in _OF_MODULES.items() for name in names.split()}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_PUBLIC[name]}")
    return globals().get(name) or getattr(module, name)  # `gate` is a folder, which can be called


def __dir__() -> list[str]:
    return [*globals(), *__all__]
