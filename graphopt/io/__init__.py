"""Files to models and back, and the bridge to onnx-graphsurgeon."""

from .files import from_surgeon, load, save, to_proto, to_surgeon

__all__ = ["from_surgeon", "load", "save", "to_proto", "to_surgeon"]
