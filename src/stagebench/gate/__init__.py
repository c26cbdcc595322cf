"""Slower or not: verdicts, limits, trends, and both sides measured in turns. Importable without torch."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This folder, which a program may call as `stagebench.gate`: its name is the function's too."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Decide as `runner.gate.gate` does."""
        from stagebench.gate.runner.gate import gate

        return gate(*args, **options)


sys.modules[__name__].__class__ = _Callable
