"""One training loop for all of the networks: epochs in random order, augmented, with a one-cycle rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tools.training.dataset import as_input, load_split
from tools.training.teacher import Teacher

Penalty = Callable[[nn.Module], torch.Tensor]


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image at random; shift the batch by up to two pixels."""
    flip = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(flip, images.flip(3), images)
    dy, dx = (int(v) for v in torch.randint(0, 5, (2,), generator=generator))
    return F.pad(images, (2, 2, 2, 2))[:, :, dy : dy + 28, dx : dx + 28]


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    *,
    epochs: int,
    batch: int,
    peak: float,
    seed: int,
    penalty: Penalty | None = None,
    distill: bool = False,
    checkpoint: Path | None = None,
) -> None:
    """Train for `epochs` with a rate that rises to `peak` and falls to zero; print progress after each epoch.

    `penalty` of the network is added to the loss. `distill`: learn the answers of the demo's network too. The state
    after each epoch is written to `checkpoint`, and training goes on from there if it exists.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = (torch.from_numpy(a.copy()) for a in load_split(folder, "train"))
    labels = labels.long()
    teacher = Teacher(images.numpy(), threads=torch.get_num_threads()) if distill else None
    net.to(memory_format=torch.channels_last)
    steps = len(images) // batch
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * steps, pct_start=0.25)
    parts = {"net": net, "optimizer": optimizer, "rate": rate}
    for epoch in range(_resume(checkpoint, parts, generator), epochs):
        net.train()
        start = time.perf_counter()
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            x = augmented(images[chosen].unsqueeze(1).float() / 255, generator)
            logits, wanted = net(x.to(memory_format=torch.channels_last)), labels[chosen]
            loss = F.cross_entropy(logits, wanted) if teacher is None else teacher.loss(logits, wanted, chosen)
            if penalty is not None:
                loss = loss + penalty(net)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)
        if checkpoint is not None:
            state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "epoch": epoch + 1, "generator": generator.get_state()}, checkpoint)


def _resume(checkpoint: Path | None, parts: dict[str, Any], generator: torch.Generator) -> int:
    """Load the state of an interrupted training, and return how many epochs it had."""
    if checkpoint is None or not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    generator.set_state(state["generator"])
    return int(state["epoch"])


def test_accuracy(net: nn.Module, folder: Path) -> float:
    """The share of the 10,000 test images that the network puts in the right class."""
    images, labels = load_split(folder, "t10k")
    net.eval()
    with torch.no_grad():
        parts = torch.from_numpy(as_input(images)).split(500)
        guesses = torch.cat([net(part).argmax(1) for part in parts])
    return float((guesses == torch.from_numpy(labels.copy())).float().mean())
