"""What an engine must do, and how one is started. To add one, write its file here, and name it below."""

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from stagebench.core.artifacts import Run, Sample
from stagebench.core.errors import ModelError
from stagebench.core.settings import EngineSettings, GenerationSettings, ModelSettings


class Engine(Protocol):
    """Serves one model, and times samples on their way through it."""

    input_kind: str  # of the synthetic clip, as of a model
    described: str  # its name, version and flags, for the identity of its times
    instrumented: bool  # whether its own statistics take time, so that it is also timed without them

    @property
    def warnings(self) -> Sequence[str]:
        """Return a line for each thing that the passes so far do not say of themselves."""

    def run(self, sample: Sample, generation: GenerationSettings) -> Run:
        """Return one timed pass: the stages that it can tell, and `first_token`; raise StageError where it fails.

        A stage that it can't tell is absent. Refuse a pass that an earlier one has done work for.
        """

    def close(self) -> None:
        """End it, and free its memory."""


_PLACES = {"vllm": "vllm:VllmEngine", "openai": "openai:OpenAIEngine"}


def start(engine: str, model: str, settings: ModelSettings, own: EngineSettings, *, statistics: bool = True) -> Engine:
    """Start an engine by its name; raise ModelError where it is not installed, or can't serve the model."""
    module, _, name = _PLACES[engine].partition(":")
    try:
        engine_class = getattr(import_module(f"{__package__}.{module}"), name)
    except ModuleNotFoundError as error:
        must = f"the engine {engine} needs the extra: pip install 'stagebench[{engine}]'"
        raise ModelError(f"{must}, got no {error.name}") from error
    started: Engine = engine_class(model, settings, own, statistics=statistics)
    return started
