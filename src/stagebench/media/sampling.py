"""Choose which images of many are shown to a model: one rule for frames of a clip and for images of a folder."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` distinct indices into `total` things, evenly spaced, the first and the last included.

    They are Video-LLaVA's `np.linspace(0, total - 1, count)` cut to integers, without the float error by which linspace
    can miss by one (total 123, count 15). One of them is the first. Refuse fewer than one, and more than there are.
    """
    if count < 1:
        raise MediaError(f"at least 1 image must be asked for, got {count}")
    if total < count:
        raise MediaError(f"{count} images need as many to choose from, got {total}")
    return [i * (total - 1) // max(count - 1, 1) for i in range(count)]


def ascend(times: Sequence[int | None]) -> bool:
    """Return whether every frame has a time, later than the one before: else they may be those of decoding."""
    known = [time for time in times if time is not None]
    return len(known) == len(times) and all(one < other for one, other in pairwise(known))


def own_times(name: str, times: Sequence[int | None]) -> list[int]:
    """Return the times of a clip's frames, in display order; refuse what some do not have, or what does not ascend."""
    known = [time for time in times if time is not None]
    if not ascend(times):
        got = "times that do not ascend" if len(known) == len(times) else f"{len(known) or 'none'}"
        raise MediaError(f"{name}: must tell the time of every frame to have a part of it read, got {got}")
    return known


def choose_frames(
    name: str, times: Sequence[int | None], base: Fraction, count: int, loading: LoadSettings
) -> list[int]:
    """Return indices of `count` evenly spaced frames of those in the window that `loading` says.

    `times` are those of its frames in display order, in units of `base` seconds, None where it doesn't tell. A frame is
    in the window where start <= time < start + duration, all to a microsecond, counted from the first frame. Refuse
    fewer than one, more than there are, and a window where times are unknown or do not ascend.
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
