"""Measurement of whole layers in floats and in integers, with the kernels that will run them.

Unlike a workload's kernel alone, a layer includes what follows its sums: in integers, scaling and rounding to bytes.
Both forms of a layer are timed in turns, so that a disturbance affects both. The results are tuning records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvm import tirx

from graphopt.compression.latency import PRECISIONS, LayerSizes, choose
from graphopt.driver.backend import Progress
from graphopt.driver.tuning import Tuning
from graphopt.errors import GraphOptError
from graphopt.hardware.target import Target
from graphopt.ir import Model
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.converters.widened import WIDEN
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.device import fuse_and_schedule
from graphopt.targets.tvm.kernels.plans import Plans
from graphopt.targets.tvm.latency import OTHER, RecordedLatencies, key_of
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.lowering.provenance import kernels
from graphopt.targets.tvm.machine import machine_for
from graphopt.targets.tvm.tuning.measure import Bench, TvmBench
from graphopt.targets.tvm.tuning.records import Record, Records, Trial
from graphopt.targets.tvm.tuning.remote import THREADS
from graphopt.targets.tvm.tuning.searched import Searched
from graphopt.targets.tvm.tuning.spending import Built, Spending, checked, remove

_LOG = logging.getLogger(__name__)

Make = Callable[[LayerSizes, str], Model]
"""Returns the model of one layer in a precision, lowered for the target."""

TOGETHER = 8
"""The number of layers that are built together, because starting the workers takes seconds."""
ROUNDS = 3


@dataclass
class _Form:
    """A layer in one precision: its functions, and the best time of each so far."""

    key: str
    family: str
    version: int
    plan: tuple[int, ...]
    functions: list[tirx.PrimFunc]
    built: list[Built] = field(default_factory=list)
    times: dict[int, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """The time of the layer; None if one of its functions could not be run."""
        return sum(self.times.values()) if len(self.times) == len(self.functions) else None


class LayerMeasuring:
    """Measures layers on one target, within a budget."""

    def __init__(
        self, target: Target, records: Records, searched: Searched | None, bench: Bench, spending: Spending
    ) -> None:
        self.target, self.records, self.bench, self.spending = target, records, bench, spending
        self.device = Cpu(machine_for(target), searched)

    def run(self, layers: Sequence[LayerSizes], make: Make, progress: Progress) -> int:
        """Measure layers, in their order, until the budget is spent; return how many were measured."""
        done, waiting = 0, list(layers)
        while waiting and self.spending.left():
            number = max(1, self.spending.allowed(len(PRECISIONS) * TOGETHER) // len(PRECISIONS))
            now, waiting = waiting[:number], waiting[number:]
            begin = self.spending.clock()
            progress(f"building {len(now)} layers in floats and integers", done / len(layers))
            forms = [[self._form(sizes, precision, make) for precision in PRECISIONS] for sizes in now]
            whole = [[form for form in pair if form is not None] for pair in forms]
            self._build([form for pair in whole for form in pair])
            for pair in whole:
                if len(pair) == len(PRECISIONS):
                    progress(f"timing {pair[0].key.rpartition(' ')[0]}", done / len(layers))
                    self._race(pair)
                done += 1
            for pair in whole:
                for form in pair:
                    remove(form.built)
            self.spending.each = (self.spending.clock() - begin) / (len(PRECISIONS) * len(now))
        return done

    def _form(self, sizes: LayerSizes, precision: str, make: Make) -> _Form | None:
        plans = Plans(self.device.machine, self.records)
        key = key_of(sizes, precision)
        try:
            lowered = lower(make(sizes, precision), self.device.machine, plans)
            mod = fuse_and_schedule(lowered.mod, tvm_target(self.target), self.device)
        except GraphOptError as error:
            _LOG.info("%s cannot be measured: %s", key, error)
            return None
        # In a network, what makes the data stores it in the form that products read.
        called = [call.function for call in kernels(mod, lowered.layers) if not call.function.startswith(WIDEN)]
        functions = [mod[name] for name in called]
        named = [f.with_attrs({"global_symbol": "main", "tirx.noalias": True}) for f in functions]
        for workload in plans.workloads:
            chosen = plans.choose(workload)
            if chosen is not None:
                family, plan = chosen
                return _Form(key, family.name, family.version, family.numbers(plan), named)
        return _Form(key, OTHER, 1, (), named)

    def _build(self, forms: Sequence[_Form]) -> None:
        libraries = iter(self.bench.build([function for form in forms for function in form.functions]))
        for form in forms:
            form.built = [(function, next(libraries)) for function in form.functions]

    def _race(self, forms: Sequence[_Form]) -> None:
        """Time the forms of a layer in turns, and record the best times if all of them run."""
        for _ in range(ROUNDS):
            for form in forms:
                for place, (function, library) in enumerate(form.built):
                    seconds = None if library is None else self.bench.time(function, library)
                    if seconds is None:
                        _LOG.info("%s cannot be measured", form.key)
                        return
                    form.times[place] = min(seconds, form.times.get(place, seconds))
        for form in forms:
            self.spending.spent += 1
            self._record(form)

    def _record(self, form: _Form) -> None:
        self.records.add(
            Record(
                target=self.records.target,
                toolchain=self.records.toolchain,
                workload=form.key,
                trials=(Trial(form.family, form.version, form.plan, form.seconds),),
                best=0,
                threads=THREADS,
                complete=True,
                time=time.time(),
            )
        )


def measure_layers(layers: Sequence[LayerSizes], make: Make, target: Target, tuning: Tuning, progress: Progress) -> int:
    """Measure what `tuning.budget` allows of the layers that have no records yet; return how many were measured.

    Raises TargetError, InputError and CompileError as `tune` does.
    """
    spending = checked(target, tuning)
    folder = None if tuning.records is None else Path(tuning.records)
    known = RecordedLatencies(target, folder)
    new = [sizes for sizes in layers if not choose(known, sizes).measured]
    if not new:
        return 0
    progress("starting the workers", 0.0)
    with TvmBench(target, tuning.remote) as bench:
        spending.restart()
        measuring = LayerMeasuring(target, Records(target, folder), Searched(target, folder), bench, spending)
        return measuring.run(new, make, progress)
