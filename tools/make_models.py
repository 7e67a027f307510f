"""Make models with random weights: classical architectures, a naively exported BERT, graphs of any size.

    python tools/make_models.py resnet50 squeezenet -o FOLDER
    python tools/make_models.py bert --layers 2 --hidden 64 --heads 4 --vocabulary 1000 -o FOLDER
    python tools/make_models.py chain wide --nodes 10000 -o FOLDER

The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.bert import make_bert
from tools.large import make_large
from tools.light import LIGHT, make_light

NAMES = (*LIGHT, "bert", "chain", "wide")

__all__ = ["LIGHT", "NAMES", "main", "make_bert", "make_large", "make_light"]


def _make(name: str, options: argparse.Namespace) -> tuple[str, onnx.ModelProto]:
    """The file's stem and the model."""
    if name in LIGHT:
        return name, make_light(name, options.seed)
    if name == "bert":
        sizes = (options.layers, options.hidden, options.heads, options.vocabulary, options.positions)
        return name, make_bert(*sizes, options.sequence or "sequence", options.seed)
    return f"{name}-{options.nodes}", make_large(options.nodes, name, options.seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    bert = parser.add_argument_group("bert")
    bert.add_argument("--layers", type=int, default=12)
    bert.add_argument("--hidden", type=int, default=768)
    bert.add_argument("--heads", type=int, default=12)
    bert.add_argument("--vocabulary", type=int, default=30522)
    bert.add_argument("--positions", type=int, default=512, help="the longest sequence")
    bert.add_argument("--sequence", type=int, help="fix the sequence's length (default: dynamic)")
    parser.add_argument_group("chain, wide").add_argument("--nodes", type=int, default=10_000)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.names:
            stem, model = _make(name, options)
            path = options.out / f"{stem}.onnx"
            path.write_bytes(model.SerializeToString(deterministic=True))
            print(f"{path}: {len(model.graph.node):,} nodes, {path.stat().st_size:,} bytes")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
