"""Differences between two models: the frame, the operators, what happened to each node, the weights.

Nodes are followed by provenance: a node of the new model stands for the nodes of the old one that its `origin` names
(its own name, if it has no origin).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from graphopt.ir import Attribute, Model, Node, Tensor
from graphopt.util.tables import Table, format_bytes

from .statistics import type_text


@dataclass(frozen=True)
class Change:
    """One difference; `before` is empty if it was added, `after` if it was removed."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """The differences between two models, in four groups."""

    frame: tuple[Change, ...]
    operators: dict[str, tuple[int, int]]
    nodes: tuple[Change, ...]
    weights: tuple[Change, ...]
    bytes: tuple[int, int]

    @property
    def is_empty(self) -> bool:
        changed = any(before != after for before, after in self.operators.values())
        return not (self.frame or self.nodes or self.weights or changed)

    def tables(self, limit: int | None = None) -> list[Table]:
        """Return one table per group, each with at most `limit` rows."""
        operators = Table(
            "operators",
            ("operator", "before", "after", "change"),
            right=frozenset({"before", "after", "change"}),
        )
        for op, (before, after) in self.operators.items():
            if before != after:
                operators.add(op, before, after, f"{after - before:+,}")
        tables = [_table("model", self.frame, limit), operators, _table("nodes", self.nodes, limit)]
        return [*tables, _table("weights", self.weights, limit)]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "same": self.is_empty,
            "model": [vars(change) for change in self.frame],
            "operators": {op: {"before": b, "after": a} for op, (b, a) in self.operators.items()},
            "nodes": [vars(change) for change in self.nodes],
            "weights": [vars(change) for change in self.weights],
            "bytes": {"before": self.bytes[0], "after": self.bytes[1]},
        }


def compare(before: Model, after: Model) -> Difference:
    """Return what changed from `before` to `after`; the numbers they compute are not compared."""
    old, new = _operator_counts(before), _operator_counts(after)
    old_weights, new_weights = _weights(before), _weights(after)
    return Difference(
        frame=tuple(_frame_changes(before, after)),
        operators={op: (old[op], new[op]) for op in sorted({*old, *new})},
        nodes=tuple(_node_changes(before, after)),
        weights=tuple(_weight_changes(old_weights, new_weights)),
        bytes=(_bytes(old_weights), _bytes(new_weights)),
    )


def _table(title: str, changes: tuple[Change, ...], limit: int | None) -> Table:
    table = Table(title, (title, "before", "after"))
    for change in changes[:limit]:
        table.add(change.what, change.before or "-", change.after or "-")
    if limit is not None and len(changes) > limit:
        table.add(f"... and {len(changes) - limit:,} more", "", "")
    return table


def _operator_counts(model: Model) -> Counter[str]:
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    return Counter(node.op for graph in graphs for node in graph.all_nodes())


def _frame(model: Model) -> dict[str, str]:
    """Return everything that a model declares besides its nodes, as text by name."""
    frame = {
        "IR version": str(model.ir_version),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "model version": str(model.model_version),
        "domain": model.domain,
        "description": model.doc_string,
    }
    frame |= {f"opset {domain or 'ai.onnx'}": str(version) for domain, version in model.opsets.items()}
    frame |= {f"metadata {key}": value for key, value in model.metadata.items()}
    frame |= {f"function {'::'.join(key).strip(':')}": "defined" for key in model.functions}
    frame |= {f"input {v.name}": type_text(v) for v in model.graph.inputs if not v.is_initializer}
    frame |= {f"output {v.name}": type_text(v) for v in model.graph.outputs}
    return frame


def _frame_changes(before: Model, after: Model) -> list[Change]:
    old, new = _frame(before), _frame(after)
    names = dict.fromkeys([*old, *new])
    return [Change(n, old.get(n, ""), new.get(n, "")) for n in names if old.get(n, "") != new.get(n, "")]


def _key(node: Node) -> str:
    """Return a name that identifies a node: its own, or that of its first output."""
    return node.name or next((value.name for value in node.outputs if value.name), node.op)


def _described(node: Node) -> tuple[object, ...]:
    """Return what must be equal for a node to count as unchanged; nested graphs have nodes of their own."""
    attributes = {name: _plain(attribute) for name, attribute in node.attributes.items() if not node.subgraphs}
    return node.op, node.overload, len(node.inputs), attributes


def _plain(attribute: Attribute) -> object:
    value = attribute.value
    if isinstance(value, Tensor):
        value = value.digest
    return attribute.kind, value, attribute.ref


def _node_changes(before: Model, after: Model) -> list[Change]:
    """Return what happened to each node: changed ones, then new ones, then removed ones. Constants are weights."""
    old = {_key(node): node for node in before.graph.all_nodes() if node.op != "Constant"}
    heirs: dict[str, list[Node]] = {}
    added = []
    for node in after.graph.all_nodes():
        ancestors = [name for name in (*node.origin, _key(node)) if name in old]
        for name in dict.fromkeys(ancestors):
            heirs.setdefault(name, []).append(node)
        if not ancestors and node.op != "Constant":
            added.append(Change("(new)", "", node.label))
    changed, gone = [], []
    for name, node in old.items():
        found = heirs.get(name, [])
        if not found:
            gone.append(Change(name, node.op, ""))
        elif len(found) > 1 or _described(found[0]) != _described(node):
            became = dict.fromkeys(_described_change(heir, node) for heir in found)
            changed.append(Change(name, node.op, ", ".join(became)))
    return changed + added + gone


def _described_change(heir: Node, node: Node) -> str:
    """Describe the new node; if the operator is the same, by the attributes that changed."""
    if heir.op != node.op:
        return heir.label
    names = sorted({*heir.attributes, *node.attributes})
    changed = [
        name
        for name in names
        if (not node.subgraphs and (name in heir.attributes) + (name in node.attributes) == 1)
        or (name in heir.attributes and name in node.attributes and _differs(heir, node, name))
    ]
    details = [f"{name}={heir.attr(name, 'default')!r}" for name in changed]
    if len(heir.inputs) != len(node.inputs):
        details.append(f"{len(heir.inputs)} inputs instead of {len(node.inputs)}")
    return f"{heir.label} {', '.join(details)}".rstrip()


def _differs(one: Node, other: Node, name: str) -> bool:
    return not one.subgraphs and _plain(one.attributes[name]) != _plain(other.attributes[name])


def _weights(model: Model) -> dict[str, Tensor]:
    """Return the constants of a model by name, whether they are initializers or `Constant` nodes."""
    found = {}
    for graph in model.graph.all_graphs():
        for value in graph.values():
            tensor = value.tensor or value.constant
            if tensor is not None:
                found[value.name] = tensor
    return found


def _bytes(weights: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in weights.values())


def _weight_changes(old: dict[str, Tensor], new: dict[str, Tensor]) -> list[Change]:
    """Return the weights that were added, removed or changed, the largest first; a new name alone is no change."""
    gone = Counter(tensor.digest for name, tensor in old.items() if name not in new)
    come = Counter(tensor.digest for name, tensor in new.items() if name not in old)
    renamed = gone & come
    sized = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        known = before or after
        if known is None or (before is not None and after is not None and before.digest == after.digest):
            continue
        if (before is None or after is None) and known.digest in renamed:
            continue
        texts = _tensor_text(before), _tensor_text(after)
        note = " (other numbers)" if texts[0] == texts[1] else ""
        sized.append((known.nbytes, Change(name, texts[0], texts[1] + note)))
    return [change for _, change in sorted(sized, key=lambda item: -item[0])]


def _tensor_text(tensor: Tensor | None) -> str:
    if tensor is None:
        return ""
    dims = ",".join(map(str, tensor.shape))
    return f"{tensor.dtype.text}[{dims}], {format_bytes(tensor.nbytes)}"
