"""Patterns of nodes to leave alone: by operator, name, result, regular expression, or between two nodes."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence

from graphopt.errors import PassError
from graphopt.ir import Graph, Node
from graphopt.rewriting.passes import PassContext

_REGULAR = "re:"
_RANGE = ".."


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise ValueError for a regular expression that is none, and for a range without both ends."""
    for pattern in patterns:
        if pattern.startswith(_REGULAR):
            try:
                re.compile(pattern.removeprefix(_REGULAR))
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
        elif _RANGE in pattern and not all(pattern.split(_RANGE, 1)):
            raise ValueError(f"'{pattern}' lacks an end: write from{_RANGE}to")


def ignored_nodes(graph: Graph, patterns: Sequence[str], context: PassContext) -> set[Node]:
    """Return the nodes of a graph, and of those nested in it, that any pattern means.

    A pattern is compared to a node's operator, its name, the names of the user's nodes that it came from, and those of
    its results: `Gemm`, `*/head/*`, `re:layers[.][0-3][.].*`. `from..to`, with a pattern on each side, means these
    nodes and all between them. The context counts patterns that mean no node. Raises PassError for a range without such
    ends.
    """
    found: set[Node] = set()
    nodes = list(graph.all_nodes())
    for pattern in patterns:
        meant = _between(nodes, pattern) if _is_range(pattern) else _named(nodes, pattern)
        if not meant:
            context.miss(f"no node is meant by the pattern '{pattern}'")
        found |= meant
    return found


def _is_range(pattern: str) -> bool:
    return _RANGE in pattern and not pattern.startswith(_REGULAR)


def _named(nodes: Iterable[Node], pattern: str) -> set[Node]:
    if pattern.startswith(_REGULAR):
        expression = re.compile(pattern.removeprefix(_REGULAR))
        return {node for node in nodes if any(expression.fullmatch(name) for name in _names(node))}
    return {node for node in nodes if any(fnmatch.fnmatchcase(name, pattern) for name in _names(node))}


def _names(node: Node) -> tuple[str, ...]:
    return (node.op, node.name, *node.origin, *(value.name for value in node.outputs if value.name))


def _between(nodes: Sequence[Node], pattern: str) -> set[Node]:
    first, last = (_named(nodes, end) for end in pattern.split(_RANGE, 1))
    for end, meant in zip(pattern.split(_RANGE, 1), (first, last), strict=True):
        if not meant:
            raise PassError(
                f"no node is meant by '{end}' of the pattern '{pattern}'",
                remedy="graphopt inspect lists the names of nodes",
            )
    after = _reached(first, lambda node: [use.node for value in node.outputs for use in value.uses])
    before = _reached(last, lambda node: [v.producer for v in node.inputs if v is not None and v.producer is not None])
    return after & before


def _reached(start: set[Node], neighbours: Callable[[Node], list[Node]]) -> set[Node]:
    found, waiting = set(start), list(start)
    while waiting:
        for node in neighbours(waiting.pop()):
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found
