"""A DequantizeLinear, or a Cast from bfloat16, for each node that reads its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.match import NOTHING
from graphopt.passes.quantization._pairs import DEQUANTIZE
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class RepeatDequantize(RewritePass):
    """Repeat a DequantizeLinear of activations for each node that reads its result.

    Compilers fuse each with its reader, which then reads integers: a quarter of the bytes. For a target that multiplies
    bfloat16, a Cast from it to float32 is repeated in the same way.
    """

    name: ClassVar[str] = "repeat-dequantize"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = (DEQUANTIZE, "Cast")

    def match(self, node: Node, context: PassContext) -> list[Node] | Miss:
        source: Value | None = node.inputs[0]
        if source is None or source.constant is not None:
            return NOTHING
        if node.op == "Cast" and not (_widens(node) and context.target and context.target.multiplies_bfloat16):
            return NOTHING
        readers = [reader for reader in node.output.users if reader.graph is node.graph]
        keeps_one = len(readers) < len(node.output.users) or node.output.is_graph_output
        others = readers if keeps_one else readers[1:]
        return [node, *others] if others else NOTHING

    def rewrite(self, match: list[Node], rewriter: Rewriter) -> None:
        node, *readers = match
        value = node.output
        for reader in readers:
            made = rewriter.op(node.op_type, node.inputs, node.attributes, types=[value.type])
            for index, read in enumerate(reader.inputs):
                if read is value:
                    rewriter.set_input(reader, index, made.output)


def _widens(cast: Node) -> bool:
    data = cast.inputs[0]
    return data is not None and data.dtype is DType.BFLOAT16 and cast.output.dtype is DType.FLOAT
