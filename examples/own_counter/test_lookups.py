"""A counter of one's own, of a function without any model: `stagebench gate` compares it exactly, on any machine.

pytest examples/own_counter
stagebench gate --base main --counters-only -- examples/own_counter
"""

from typing import Any

WORDS = {f"word{i}": i for i in range(1000)}


class Counted(dict[str, int]):
    """A table that counts how often somebody looked something up."""

    lookups = 0

    def __getitem__(self, word: str) -> int:
        self.lookups += 1
        return super().__getitem__(word)


def ids_of(text: str, table: dict[str, int]) -> list[int]:
    """Return the numbers of words."""
    return [table[word] for word in text.split()]


def test_ids(benchmark: Any) -> None:
    text = " ".join(WORDS)
    assert benchmark(ids_of, text, WORDS) == [*range(1000)]

    counted = Counted(WORDS)
    ids_of(text, counted)  # once, and not while it is timed
    benchmark.extra_info["counters"] = {"lookups": counted.lookups}
