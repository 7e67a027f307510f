"""The search for mixed precision: which layers stay floats, so that the loss is within the budget at the least cost.

The sensitivity of each layer is measured once; a knapsack on sums of these errors proposes layers, the whole model is
measured, and the limit of the knapsack is corrected by the result, until it cannot be improved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from graphopt import io
from graphopt.compression.costs import CostTable
from graphopt.compression.judge import Judge, Measurement
from graphopt.compression.knapsack import choose
from graphopt.compression.layers import Layer
from graphopt.compression.sensitivity import LayerError, Sensitivity
from graphopt.ir import Model
from graphopt.util.files import replacing

from .backend import Progress
from .quantization_plan import exactly

_CASES, _LABELLED = 16, 256
"""How many cases the sensitivity is measured on; with labels, of which a few say nothing, more."""
_SECONDS = 180.0
"""How long measuring the sensitivity should take at most: with many layers, fewer cases are used, at least 2."""
_ROUNDS = 10
_NEAR = 1.05


@dataclass
class Folder:
    """The state of a search, kept in a folder: what was measured, and the best model so far as `best.onnx`.

    `path` None: nothing is kept.
    """

    path: Path | None
    digest: str
    noise: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    cases: int = 0
    tried: dict[str, Measurement] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path | None, key: str) -> Folder:
        """Return the state in a folder, or an empty one if that is of another search (another model, data, options)."""
        made = cls(path, hashlib.sha256(key.encode()).hexdigest())
        if path is None or not (path / "state.json").is_file():
            return made
        try:
            facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if facts["digest"] == made.digest:
                made.noise, made.losses = (
                    {str(name): float(number) for name, number in facts[key].items()} for key in ("noise", "losses")
                )
                made.cases = int(facts["cases"])
                made.tried = {str(name): Measurement(**one) for name, one in facts["tried"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(path, made.digest)  # a damaged state is worth nothing: the search starts again
        return made

    def save(self, best: Model | None = None) -> None:
        """Write the state, and a model that is better than those before."""
        if self.path is None:
            return
        self.path.mkdir(exist_ok=True)
        if best is not None:
            io.save(best, self.path / "best.onnx")
        tried = {name: asdict(one) for name, one in self.tried.items()}
        measured = {"noise": self.noise, "losses": self.losses, "cases": self.cases}
        facts = {"digest": self.digest, **measured, "tried": tried}
        with replacing(self.path / "state.json") as file:
            file.write(json.dumps(facts).encode())

    def remove(self) -> None:
        """Remove the files and their folder: the search is over."""
        if self.path is None or not (self.path / "state.json").is_file():
            return
        for name in ("state.json", "best.onnx", "best.onnx.data"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else keeps files there
            self.path.rmdir()


@dataclass(frozen=True)
class Best:
    """The result of a search: patterns of the layers that stay floats, what was measured, and how many models."""

    ignored: tuple[str, ...]
    measured: Measurement
    tried: int


@dataclass
class Search:
    """Looks for the layers to quantize.

    `quantized` returns the model with some patterns ignored, `alone` the same without the passes that mend it.
    """

    layers: Sequence[Layer]
    alone: Callable[[Sequence[str]], Model]
    quantized: Callable[[Sequence[str]], Model]
    judge: Judge
    costs: CostTable
    folder: Folder
    progress: Progress

    def sensitivity(self, whole: Model) -> Sensitivity:
        """Return the error of the outputs with each layer quantized alone; `whole` is the model with all of them."""
        names = list(dict.fromkeys(layer.name for layer in self.layers))
        cases = self.folder.cases or self._cases(whole, len(names))
        self.folder.cases = cases
        for number, name in enumerate(names):
            if name in self.folder.noise:
                continue
            self.progress(f"sensitivity: layer {number + 1} of {len(names)}, {name}", 0.5 * number / len(names))
            others = tuple(exactly(other) for other in names if other != name)
            self.folder.noise[name], self.folder.losses[name] = self.judge.noise(self.alone(others), cases)
            self.folder.save()
        found = Sensitivity(cases=cases, metric=self.judge.metric.name)
        for layer in self.layers:
            cost = self.costs.cost(layer, "float32")
            saved = cost - self.costs.cost(layer, "int8")
            noise, loss = self.folder.noise[layer.name], self.folder.losses[layer.name]
            found.layers.append(LayerError(layer.name, layer.op, noise, cost, saved, loss))
        return found

    def _cases(self, whole: Model, count: int) -> int:
        looked_at = min(_CASES, self.judge.count)
        start = time.perf_counter()
        self.judge.noise(whole, looked_at)
        each = (time.perf_counter() - start) / looked_at * count
        most = min(_CASES if self.judge.evaluation.validation is None else _LABELLED, self.judge.count)
        return max(min(2, most), min(most, math.floor(_SECONDS / max(each, 1e-9))))

    def find(self, limit: float, measured: Measurement, errors: Sensitivity) -> Best:
        """Return the cheapest layers to leave as floats for a loss of at most `limit`.

        `measured` is the model with all layers quantized, whose loss is larger. If no choice has so little loss, the
        one with the least loss is returned.
        """
        noise = [one.noise for one in errors.layers]
        savings = [one.saved for one in errors.layers]
        best, saving = Best((), measured, 0), -1.0
        low, high = 0.0, sum(error for error in noise if math.isfinite(error))
        guess = high * min(0.5, limit / measured.loss if math.isfinite(measured.loss) else 0.5)
        tried: dict[tuple[int, ...], Measurement] = {}
        for round_ in range(_ROUNDS):
            chosen = tuple(choose(noise, savings, guess))
            if not chosen or len(chosen) == len(noise):
                low, high = (guess, high) if not chosen else (low, guess)
            else:
                if chosen not in tried:
                    self.progress(
                        f"searching: {len(chosen)} of {len(noise)} layers quantized", 0.5 + 0.5 * round_ / _ROUNDS
                    )
                    tried[chosen], better = self._try(chosen, best, limit, saving, savings)
                    if better:
                        best = Best(self._ignored(chosen), tried[chosen], 0)
                        saving = sum(savings[i] for i in chosen) if tried[chosen].loss <= limit else -1.0
                low, high = (guess, high) if tried[chosen].loss <= limit else (low, guess)
            if low and high / low < _NEAR:
                break
            least = min((error for error in noise if error > 0), default=high)
            guess = math.sqrt(max(low, min(least, high) / 4) * high)
        return Best(best.ignored, best.measured, len(tried))

    def _ignored(self, chosen: Sequence[int]) -> tuple[str, ...]:
        kept = {self.layers[i].name for i in chosen}
        return tuple(exactly(name) for name in dict.fromkeys(layer.name for layer in self.layers) if name not in kept)

    def _try(
        self, chosen: Sequence[int], best: Best, limit: float, saving: float, savings: Sequence[float]
    ) -> tuple[Measurement, bool]:
        """Measure a choice, and return whether it is better than the best one; a better one is kept on disk."""
        ignored = self._ignored(chosen)
        key = " ".join(ignored)
        model = self.quantized(ignored)
        found = self.folder.tried.get(key)
        if found is None:
            found = self.folder.tried[key] = self.judge.measure(model)
        if found.loss <= limit:
            better = best.measured.loss > limit or sum(savings[i] for i in chosen) > saving
        else:
            better = best.measured.loss > limit and found.loss < best.measured.loss
        self.folder.save(model if better else None)
        return found, better
