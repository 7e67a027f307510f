"""Models as text, in ONNX's own textual syntax (docs/Syntax.md of the ONNX project)."""

from __future__ import annotations

import onnx.parser
import onnx.printer

from graphopt.errors import ModelError

from .model import Model
from .read_proto import read_model
from .write_proto import write_model


def parse(text: str) -> Model:
    """Return the model that a text describes. Raises ModelError with the parser's position if the text is invalid."""
    try:
        proto = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise ModelError(str(error), where="model text") from None
    return read_model(proto, name="model text")


def to_text(model: Model) -> str:
    """Return the text of a model, including all weights, which `parse` can read."""
    return onnx.printer.to_text(write_model(model))
