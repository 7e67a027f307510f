"""Train the networks that the tests quantize and compress, and write them as ONNX.

    python tools/train_networks.py mobilenet vit [--data FOLDER] [--out tests/networks]

A MobileNetV3-like convolutional network and a small vision transformer are trained on the 60,000 training images
of Fashion-MNIST, judged on the 10,000 test images, and exported by torch.onnx with an open batch. Nothing in the
training prepares for quantization. The transformer learns the answers of the demo's network beside the labels: without
convolutions, the images alone teach it less. With `--checkpoints`, an interrupted training goes on from its last epoch.
Needs torch (any CPU build), numpy, onnx, onnxruntime and onnxscript.

Data: Zalando Research's Fashion-MNIST (MIT licence), as Debian's package `dataset-fashion-mnist` installs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnxscript import optimizer
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.training.dataset import DATA
from tools.training.loop import Penalty, test_accuracy, train
from tools.training.mobilenet import MobileNet
from tools.training.vit import VisionTransformer

OUT = Path(__file__).resolve().parent.parent / "tests" / "networks"
MAX_BYTES = 1_500_000
BATCH = 250


@dataclass(frozen=True)
class Recipe:
    """How a network is made: its class, its optimizer, the highest rate, the epochs, and the accuracy it must reach.

    `penalty` is added to the loss; `distill`: learn the answers of the demo's network too.
    """

    network: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    peak: float
    epochs: int
    needed: float
    penalty: Penalty | None = None
    distill: bool = False


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)


def slimming(net: nn.Module) -> torch.Tensor:
    """Push the scales of expanded channels towards zero, as channels are chosen that can be pruned."""
    assert isinstance(net, MobileNet)
    return 2.5e-3 * net.slimming()


RECIPES = {
    "mobilenet": Recipe(MobileNet, sgd, peak=0.3, epochs=6, needed=0.89, penalty=slimming),
    "vit": Recipe(VisionTransformer, adam, peak=3e-3, epochs=10, needed=0.87, distill=True),
}


def trained(recipe: Recipe, data: Path, seed: int, checkpoint: Path | None) -> nn.Module:
    """Train the network of a recipe; the same seed, threads and torch give the same weights."""
    torch.manual_seed(seed)
    net = recipe.network()
    train(
        net,
        recipe.optimizer(net),
        data,
        epochs=recipe.epochs,
        batch=BATCH,
        peak=recipe.peak,
        seed=seed,
        penalty=recipe.penalty,
        distill=recipe.distill,
        checkpoint=checkpoint,
    )
    return net.eval()


def export(net: nn.Module, name: str, path: Path) -> None:
    """Write the network as torch.onnx does: `image` N x 1 x 28 x 28 to `logits` N x 10, weights inside.

    Only constants are folded: the exporter's other optimizations would leave no batch-norm to fuse.
    """
    batch = torch.export.Dim("N")
    image = torch.zeros(2, 1, 28, 28)
    program = torch.onnx.export(
        net.to(memory_format=torch.contiguous_format),
        (image,),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        verbose=False,
        optimize=False,
    )
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    model.graph.name = name
    model.doc_string = "Trained on Fashion-MNIST by tools/train_networks.py"
    forget_source(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def forget_source(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes, a fifth of the file: stack traces with the folders of whoever trained it."""
    graph = model.graph
    for part in (model, graph, *graph.input, *graph.output, *graph.initializer, *graph.node, *graph.value_info):
        part.ClearField("metadata_props")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the IDX files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    parser.add_argument("--checkpoints", type=Path, help="folder for the state after each epoch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in filter(None, (options.out, options.checkpoints)):
        folder.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        recipe, path = RECIPES[name], options.out / f"{name}.onnx"
        checkpoint = options.checkpoints / f"{name}.pt" if options.checkpoints else None
        net = trained(recipe, options.data, options.seed, checkpoint)
        reached = test_accuracy(net, options.data)
        if reached < recipe.needed:
            sys.exit(f"not written: {name} is right on {reached:.2%} and needs {recipe.needed:.0%}")
        export(net, name, path)
        print(f"{path}: accuracy on the test images {reached:.4f}, {path.stat().st_size:,} bytes")
        if path.stat().st_size >= MAX_BYTES:
            sys.exit(f"{path} has more than {MAX_BYTES:,} bytes")


if __name__ == "__main__":
    main()
