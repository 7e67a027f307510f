"""Relations among sizes that their names do not express: for example a mask as long as the past plus the present.

A model with a cache may have inputs of P, S and PS entries, and run only if PS = P + S. Such relations are guessed,
most likely first, and tried on small sizes that are all different and greater than 1, so that no wrong guess succeeds
because of broadcasting.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_MOST = 400
"""The limit on guesses: wrong ones fail fast, but each takes a while for a large model."""
_SMALL = ((3, 5, 9, 16, 28, 49), (20, 9, 31, 4, 13, 6))
"""Two rows of sizes: what holds for one by chance does not hold for the other."""


@dataclass(frozen=True)
class Relation:
    """A size that is the sum of others and a number, or the product of others."""

    parts: tuple[str, ...]
    plus: int = 0
    product: bool = False

    def size(self, sizes: Mapping[str, int]) -> int:
        """Return the size, computed from those of its parts."""
        numbers = [sizes[part] for part in self.parts]
        return math.prod(numbers) if self.product else sum(numbers) + self.plus


Relations = Mapping[str, Relation]


def apply(relations: Relations, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes with the dependent ones computed."""
    result = dict(sizes)
    waiting = dict(relations)
    while waiting:
        ready = [name for name, relation in waiting.items() if not waiting.keys() & set(relation.parts)]
        for name in ready:
            result[name] = waiting.pop(name).size(result)
        if not ready:
            raise ValueError(f"sizes depend on each other in a circle: {', '.join(waiting)}")
    return result


def different(symbols: Sequence[str]) -> list[dict[str, int]]:
    """Return two choices of small sizes for the symbols, all different and above 2."""
    return [{symbol: row[index % len(row)] for index, symbol in enumerate(symbols)} for row in _SMALL]


def guesses(symbols: Sequence[str]) -> Iterator[Relations]:
    """Yield possible relations among `symbols`, those suggested by names first."""
    named = _by_names(symbols)
    singles = [(rank, symbol, one) for symbol in symbols for rank, one in enumerate(_relations(symbol, symbols))]
    pairs = [pair for pair in itertools.combinations(singles, 2) if pair[0][1] != pair[1][1]]
    pairs.sort(key=lambda pair: pair[0][0] + pair[1][0])  # two likely relations together are likelier than others
    found = itertools.chain(
        [named] if named else [],
        ({**named, symbol: one} for _, symbol, one in singles if symbol not in named),
        ({symbol: one} for _, symbol, one in singles),
        ({symbol: one for _, symbol, one in pair} for pair in pairs),
    )
    return itertools.islice((guess for guess in found if not _is_circle(guess)), _MOST)


def _relations(symbol: str, symbols: Sequence[str]) -> Iterator[Relation]:
    rest = [other for other in symbols if other != symbol]
    yield from (Relation(pair) for pair in itertools.combinations(rest, 2))
    yield from (Relation((other,)) for other in rest)
    yield from (Relation((other,), plus) for plus in (1, -1) for other in rest)
    yield from (Relation(pair, product=True) for pair in itertools.combinations(rest, 2))


def _is_circle(relations: Relations) -> bool:
    try:
        apply(relations, dict.fromkeys(itertools.chain(*(r.parts for r in relations.values())), 1))
    except ValueError:
        return True
    return False


def _by_names(symbols: Sequence[str]) -> dict[str, Relation]:
    """Return the sums that names suggest: `PS` of `P` and `S`, `total_length` of `past_length` and one other."""
    found = {}
    for symbol in symbols:
        rest = [other for other in symbols if other != symbol]
        joined = (pair for pair in itertools.permutations(rest, 2) if "".join(pair) == symbol)
        past = [other for other in rest if re.search(r"past|cache", other, re.IGNORECASE)]
        present = [other for other in rest if other not in past]
        pair = next(joined, None)
        if pair is None and re.search(r"total|all|full", symbol, re.IGNORECASE) and past and present:
            pair = (past[0], present[0])
        if pair is not None:
            found[symbol] = Relation(pair)
    return {} if _is_circle(found) else found
