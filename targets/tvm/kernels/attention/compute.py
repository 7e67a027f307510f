"""Attention as one kernel: a block of queries at a time against all keys and values of its head.

For a block of queries, one vector lane each: scores with a block of keys (keys are read as they lie, the queries are
transposed once), their exponentials, and the sum of values weighted by them. Scores live in the first-level cache and
never in memory. Where keys come in several blocks, the maximum and the sum so far are corrected from block to block
(online softmax: M. Milakov, N. Gimelshein, 2018; as in FlashAttention: T. Dao and others, 2022).

Each of the four tensors is given as a function from (batch, head, position, element) to its element, so that heads may
be read from and written to any layout. A query that may see no key gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from graphopt.targets.tvm.kernels.common.statements import Expr

Read = Callable[[Expr, Expr, Expr, Expr], Expr]
"""Returns an element for a batch, a head, a position and an index in the head (for a bias, a query and a key)."""
Write = Callable[[Expr, Expr, Expr, Expr, Expr], tirx.Stmt]
"""Stores an element."""


@dataclass(frozen=True)
class AttentionSpec:
    """Sizes (ints or expressions; the two head sizes are ints) and accesses. `repeat` query heads share a key head.

    The queries are multiplied by `scale`; `bias` is added to the scores, -inf for a key that must not be seen.
    """

    batch: Expr
    heads: int
    queries: Expr
    keys: Expr
    size: int
    value_size: int
    repeat: int
    scale: float
    query: Read
    key: Read
    value: Read
    bias: Read | None
    store: Write
