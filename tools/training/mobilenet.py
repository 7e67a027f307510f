"""A MobileNetV3-like network for images of 28 x 28 pixels (Howard et al., 2019)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Weigh the channels by a function of their averages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width // 4, 1)
        self.expand = nn.Conv2d(width // 4, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.expand(weight))


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel, weigh the channels, project without a function."""

    def __init__(
        self, width_in: int, expanded: int, width: int, kernel: int, stride: int, squeeze: bool, hard_swish: bool
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if hard_swish else nn.ReLU
        expand = [nn.Conv2d(width_in, expanded, 1, bias=False), nn.BatchNorm2d(expanded), activation()]
        layers = [
            *(expand if expanded != width_in else []),
            nn.Conv2d(expanded, expanded, kernel, stride, kernel // 2, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            activation(),
            *([SqueezeExcite(expanded)] if squeeze else []),
            nn.Conv2d(expanded, width, 1, bias=False),
            nn.BatchNorm2d(width),
        ]
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and width_in == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class MobileNet(nn.Module):
    """Stem, inverted residuals at 14 x 14 and 7 x 7, a wide 1x1 convolution, average, classifier of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.blocks = nn.Sequential(
            InvertedResidual(16, 16, 24, 3, 2, squeeze=False, hard_swish=False),
            InvertedResidual(24, 72, 24, 3, 1, squeeze=False, hard_swish=False),
            InvertedResidual(24, 96, 112, 5, 2, squeeze=True, hard_swish=False),
            InvertedResidual(112, 240, 112, 3, 1, squeeze=False, hard_swish=True),
            InvertedResidual(112, 240, 112, 3, 1, squeeze=True, hard_swish=True),
        )
        self.head = nn.Sequential(nn.Conv2d(112, 320, 1, bias=False), nn.BatchNorm2d(320), nn.Hardswish())
        self.classifier = nn.Sequential(nn.Linear(320, 320), nn.Hardswish(), nn.Linear(320, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def slimming(self) -> torch.Tensor:
        """The sum of the scales of the expanded channels, which is to be small (Liu et al., 2017)."""
        norms = [block.layers[1] for block in self.blocks[1:]]
        return torch.stack([norm.weight.abs().sum() for norm in norms]).sum()
