"""Which images of many are shown to a model: one rule for frames of a clip and for images of a folder."""

from __future__ import annotations

from stagebench.errors import MediaError


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` distinct indices into `total` things, evenly spaced, the first and the last included.

    Index i is `i * (total - 1) // (count - 1)`: Video-LLaVA's `np.linspace(0, total - 1, count)` cut to
    integers, without the float error by which linspace can miss by one (total 123, count 15). A count of 1
    gives the first.

    Raises:
        MediaError: `count` is less than 1, or more than `total`.
    """
    if count < 1:
        raise MediaError(f"at least 1 image must be asked for, got {count}")
    if total < count:
        raise MediaError(f"{count} images need as many to choose from, got {total}")
    if count == 1:
        return [0]
    return [i * (total - 1) // (count - 1) for i in range(count)]
