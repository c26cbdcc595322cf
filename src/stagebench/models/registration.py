"""What a registration says of a model: its network, its real shapes, and how its processor is made. Needs no torch."""

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
    """A model by its name: one that a stage can split, with random weights of its real shapes or of narrow ones.

    Without a config the network is a `protocol.Family`, which makes its own. The chat template is a plain one, made of
    `image` and `video`. Where transformers has no processor, a function makes it of the network's config: something
    with a `tokenizer`, a `chat_template`, `apply_chat_template` and `__call__` as transformers' processors have them.
    """

    name: str  # as on the command line
    network: Any  # a class of networks, or "module:Class" of one, imported when it is built
    config: Mapping[str, Any] | None = None  # its real shapes: arguments of the network's config class
    tiny: Mapping[str, Any] = field(default_factory=dict)  # of the narrow one what `profiles.narrow` does not find
    tokens: Mapping[str, str] = field(default_factory=dict)  # special ones, by the names that processor and config use
    image: str = ""  # what stands for an image in a prompt
    video: str = ""  # and for a video
    image_processor: Mapping[str, Any] = field(default_factory=dict)  # settings where they are not the class's own
    # Its processor's settings, or what makes it, imported as the network is.
    processor: Mapping[str, Any] | Callable[[Any], Any] | str = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ModelError(f"a model's name must be of letters, digits and ._+-, got {self.name!r}")
        if ending := next((each for each in BACKENDS if self.name.endswith(f"-{each}")), None):
            raise ModelError(f"a model's name must not end as a backend's, got {self.name!r} and {ending}")

    def resolve(self, what: str) -> Any:
        """Import what its field `network` or `processor` names; raise ModelError where that fails."""
        value = getattr(self, what)
        return imported(value, f"the {what} of {self.name}") if isinstance(value, str) else value


def imported(place: str, what: str) -> Any:
    """Import an object by "module:OBJECT"; raise ModelError, in one line, for whatever goes wrong on the way."""
    try:
        return resolve_name(place)
    except (Exception, SystemExit) as error:  # no narrower: it runs code of somebody else
        raise ModelError(f"can't import {what}, {place}: {one_line(error)}") from error
