"""Train the demo's network and write the two files that `graphopt demo` ships.

    python tools/train_demo.py [--data FOLDER] [--epochs 15] [--out graphopt/demo]

A residual network with batch-norm is trained on the 60,000 training images of Fashion-MNIST, judged on the
10,000 test images, and written as ONNX node by node in inference form: the batch-norms stay nodes of their
own, as most exporters leave them, so that the demo has something to fuse. Needs torch (any CPU build), numpy
and onnx.

Data: Zalando Research's Fashion-MNIST (MIT licence), as Debian's package `dataset-fashion-mnist` installs it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.builder import Builder
from tools.training.dataset import DATA, load_split
from tools.training.loop import test_accuracy, train

OUT = Path(__file__).resolve().parent.parent / "graphopt" / "demo"
WIDTHS = (24, 48, 96)
NEEDED = 0.91
MAX_BYTES = 1_000_000


class Block(nn.Module):
    """Two 3x3 convolutions with batch-norm and a shortcut, projected where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.project = stride != 1 or width_in != width
        if self.project:
            self.conv3 = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.bn3 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (self.bn3(self.conv3(x)) if self.project else x))


class Net(nn.Module):
    """Stem, one residual block a width, global average, linear classifier over 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        before = (WIDTHS[0], *WIDTHS)
        self.blocks = nn.Sequential(*(Block(before[i], width, 1 if i == 0 else 2) for i, width in enumerate(WIDTHS)))
        self.fc = nn.Linear(WIDTHS[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.fc(self.blocks(x).mean((2, 3)))


def trained(folder: Path, epochs: int, batch: int, seed: int) -> Net:
    """Train for `epochs` of SGD."""
    torch.manual_seed(seed)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    train(net, optimizer, folder, epochs=epochs, batch=batch, peak=0.3, seed=seed)
    return net


class Exporter(Builder):
    """Writes the network as ONNX nodes, reading the weights by their names in the state dict."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.state = state

    def loaded(self, name: str) -> str:
        return self.weight(name, self.state[name].detach().contiguous().numpy())

    def conv_bn(self, x: str, conv: str, bn: str, stride: int, pad: int) -> str:
        y = self.op("Conv", [x, self.loaded(f"{conv}.weight")], conv, strides=[stride] * 2, pads=[pad] * 4)
        parts = ("weight", "bias", "running_mean", "running_var")
        return self.op("BatchNormalization", [y, *(self.loaded(f"{bn}.{p}") for p in parts)], bn, epsilon=1e-5)

    def block(self, x: str, prefix: str, block: Block) -> str:
        y = self.conv_bn(x, f"{prefix}.conv1", f"{prefix}.bn1", block.stride, 1)
        y = self.op("Relu", [y], f"{prefix}.relu1")
        y = self.conv_bn(y, f"{prefix}.conv2", f"{prefix}.bn2", 1, 1)
        short = self.conv_bn(x, f"{prefix}.conv3", f"{prefix}.bn3", block.stride, 0) if block.project else x
        return self.op("Relu", [self.op("Add", [y, short], f"{prefix}.add")], f"{prefix}.relu2")

    def flatten(self, x: str) -> str:
        """`x.view(x.size(0), -1)` as exporters write it: a reshape to a shape computed from the batch."""
        shape = self.op("Shape", [x], "shape")
        batch = self.op("Gather", [shape, self.weight("zero", np.array(0, np.int64))], "batch", axis=0)
        batch = self.op("Unsqueeze", [batch, self.weight("axes", np.array([0], np.int64))], "batch_1d")
        target = self.op("Concat", [batch, self.weight("rest", np.array([-1], np.int64))], "target", axis=0)
        return self.op("Reshape", [x, target], "flat")

    def network(self, net: Net) -> onnx.ModelProto:
        x = self.op("Relu", [self.conv_bn("image", "conv", "bn", 1, 1)], "relu")
        x = self.op("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
        for i, block in enumerate(net.blocks):
            assert isinstance(block, Block)
            x = self.block(x, f"blocks.{i}", block)
        x = self.flatten(self.op("GlobalAveragePool", [x], "average"))
        self.op("Gemm", [x, self.loaded("fc.weight"), self.loaded("fc.bias")], "logits", transB=1)
        image = {"image": (np.float32, ("N", 1, 28, 28))}
        model = self.model("fashion", image, {"logits": (np.float32, ("N", 10))})
        onnx.checker.check_model(model, full_check=True)
        return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the IDX files")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    images, labels = load_split(options.data, "t10k")
    net = trained(options.data, options.epochs, options.batch, options.seed)
    reached = test_accuracy(net, options.data)
    content = Exporter(net.state_dict()).network(net).SerializeToString()
    print(f"accuracy on {len(labels)} test images: {reached:.4f}; ONNX: {len(content):,} bytes")
    if reached < NEEDED or len(content) >= MAX_BYTES:
        sys.exit(f"not written: the demo needs at least {NEEDED:.0%} and less than {MAX_BYTES:,} bytes")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "fashion.onnx").write_bytes(content)
    # The first thousand in the order of the test set, so that the choice cannot be biased.
    np.savez_compressed(options.out / "test_images.npz", images=images[:1000], labels=labels[:1000])


if __name__ == "__main__":
    main()
