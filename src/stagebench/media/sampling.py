"""Choose the images that a model gets, by one rule for the frames of a clip and the images of a folder."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` distinct, evenly spaced indices into `total` items, the first and the last included.

    They are Video-LLaVA's `np.linspace(0, total - 1, count)` truncated to integers, without linspace's rounding errors
    (total 123, count 15). A count of 1 gives the first. Refuse a count below 1 or above `total`.
    """
    if count < 1:
        raise MediaError(f"at least 1 image must be requested, got {count}")
    if total < count:
        raise MediaError(f"{count} images need as many to choose from, got {total}")
    return [i * (total - 1) // max(count - 1, 1) for i in range(count)]


def ascend(times: Sequence[int | None]) -> bool:
    """Return whether every frame has a time, later than the one before: otherwise they may be decoding times."""
    known = [time for time in times if time is not None]
    return len(known) == len(times) and all(one < other for one, other in pairwise(known))


def own_times(name: str, times: Sequence[int | None]) -> list[int]:
    """Return the times of a clip's frames, in display order; refuse times that are missing or do not ascend."""
    known = [time for time in times if time is not None]
    if not ascend(times):
        got = "times that do not ascend" if len(known) == len(times) else f"{len(known) or 'none'}"
        raise MediaError(f"{name}: must have the time of every frame before a part of it can be read, got {got}")
    return known


def choose_frames(
    name: str, times: Sequence[int | None], base: Fraction, count: int, loading: LoadSettings
) -> list[int]:
    """Return the indices of `count` evenly spaced frames in the window of `loading`.

    `times` are those of the frames in display order, in units of `base` seconds, None where unknown. A frame is in the
    window if start <= time < start + duration, to a microsecond, counted from the first frame. Refuse a count below 1
    or above the number of frames, and a window where times are unknown or do not ascend.
    """
    inside = list(range(len(times)))
    where = ""
    if not loading.whole:
        known = own_times(name, times)
        seconds = [round(float((time - known[0]) * base), 6) for time in known]
        end = float("inf") if loading.duration is None else round(loading.start + loading.duration, 6)
        inside = [i for i, time in enumerate(seconds) if round(loading.start, 6) <= time < end]
        where = f" in {loading.describe_window()}"
    if len(inside) < count:
        raise MediaError(f"{name}: must have at least {count} frames{where}, got {len(inside)}")
    return [inside[i] for i in evenly_spaced(len(inside), count)]
