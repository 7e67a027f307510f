"""Files to models and back, and the bridge to onnx-graphsurgeon."""

from .files import from_surgeon, load, save, to_proto, to_surgeon
from .weightless import save_graph

__all__ = ["from_surgeon", "load", "save", "save_graph", "to_proto", "to_surgeon"]
