"""Record a benchmark's backend, and refuse timed rounds in which it set something up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagebench.models.protocol import VisionLanguageModel


def about(model: VisionLanguageModel) -> dict[str, Any]:
    """Return for `extra_info` the model, its backend, and the backend's set-ups so far."""
    if model.backend is None:
        return {"model": model.name, "backend": "eager"}
    done: Any = model.backend.setups  # `Captured`s
    cost = {"seconds": sum(s.seconds for s in done), "bytes": sum(s.nbytes for s in done), "captures": len(done)}
    return {"model": model.name, "backend": model.backend.name, "setup": cost, "stages": dict(model.backend.stages)}


def settled(
    model: VisionLanguageModel, pedantic: Callable[..., Any], rounds: int, pass_on: Callable[[], None]
) -> Callable[..., Any]:
    """Return `gpu_monitored.pedantic` that fails if a timed round set something up, with `pass_on` between rounds."""

    def checked(
        function: Callable[..., Any], args: tuple[Any, ...] = (), setup: Callable[[], None] | None = None, **more: Any
    ) -> Any:
        counts: list[int] = []

        def prepare() -> None:
            pass_on()
            if setup:
                setup()
            counts.append(model.setups)

        result = pedantic(function, args, setup=prepare, rounds=rounds, **more)
        pass_on()
        assert counts[-rounds] == model.setups, "nothing is captured or compiled in a timed round"
        return result

    return checked
