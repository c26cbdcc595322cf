"""Slower or not: verdicts, limits, trends, and measuring both sides in turns. Importable without torch."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This package, callable as the function `stagebench.gate`, because both have one name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Decide as `runner.gate.gate` does."""
        from stagebench.gate.runner.gate import gate

        return gate(*args, **options)


sys.modules[__name__].__class__ = _Callable
