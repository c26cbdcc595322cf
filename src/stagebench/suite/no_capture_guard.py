"""What a benchmark says of the backend that ran it, and that no timed round waited for it to set something up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagebench.models.protocol import VisionLanguageModel


def about(model: VisionLanguageModel) -> dict[str, Any]:
    """Of `extra_info`: the model, its backend, and what that has set up so far."""
    if model.backend is None:
        return {"model": model.name, "backend": "eager"}
    done: Any = model.backend.setups  # `Setup`s; who only counts them needs no more than a size
    cost = {"seconds": sum(s.seconds for s in done), "bytes": sum(s.nbytes for s in done), "captures": len(done)}
    return {"model": model.name, "backend": model.backend.name, "setup": cost, "stages": dict(model.backend.stages)}


def settled(
    model: VisionLanguageModel, pedantic: Callable[..., Any], rounds: int, pass_on: Callable[[], None]
) -> Callable[..., Any]:
    """`gpu_monitored.pedantic`, failing where something was captured or compiled in a timed round.

    Before each round's set-up and after the last round comes `pass_on`, so that another process may have its own round.
    """

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
