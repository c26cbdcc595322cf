"""The registration of a model: its network, its real shapes, and how its processor is made. Needs no torch."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

from stagebench.core.errors import ModelError
from stagebench.core.settings import BACKENDS
from stagebench.core.shown import one_line

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # part of pytest's ids, of lists with commas, and of file names


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A named model that can be split into stages, with random weights of its real shapes or of narrow ones.

    Without a config the network is a `protocol.Family`, which makes its own. The chat template is a plain one from
    `image` and `video`. Where transformers has no processor, a function makes one from the network's config. It needs
    `tokenizer`, `chat_template`, `apply_chat_template` and `__call__`, as transformers' processors have.
    """

    name: str  # as on the command line
    network: Any  # a network's class, or its "module:Class", imported when the model is built
    config: Mapping[str, Any] | None = None  # arguments of the network's config class, for its real shapes
    tiny: Mapping[str, Any] = field(default_factory=dict)  # changes to the narrow config that `profiles.narrow` makes
    tokens: Mapping[str, str] = field(default_factory=dict)  # special tokens, by their names in processor and config
    image: str = ""  # text of an image in a prompt
    video: str = ""  # text of a video
    image_processor: Mapping[str, Any] = field(default_factory=dict)  # settings other than the class's defaults
    # The processor's settings, or a function that makes it, imported as the network is.
    processor: Mapping[str, Any] | Callable[[Any], Any] | str = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ModelError(f"a model's name must consist of letters, digits and ._+-, got {self.name!r}")
        if ending := next((each for each in BACKENDS if self.name.endswith(f"-{each}")), None):
            raise ModelError(f"a model's name must not end with a backend's, got {self.name!r} and {ending}")

    def resolve(self, what: str) -> Any:
        """Return the object that the field `network` or `processor` names; raise ModelError where the import fails."""
        value = getattr(self, what)
        return imported(value, f"the {what} of {self.name}") if isinstance(value, str) else value


def imported(place: str, what: str) -> Any:
    """Import an object by "module:OBJECT"; raise ModelError, in one line, for any error."""
    try:
        return resolve_name(place)
    except (Exception, SystemExit) as error:  # not narrower: it runs foreign code
        raise ModelError(f"can't import {what}, {place}: {one_line(error)}") from error
