"""Provenance of kernels: which layers of the model each call of a kernel computes.

Relax fuses the kernels of several nodes into one function with a new name, and shares one function among equal groups:
neither names nor spans lead back to the nodes. So `fuse_operators` compares `main` before and after fusion, and finds
each call by what it computes: the same function of the same values. The result is stored in two attributes of `main`
that contain JSON: SOURCES from lowering to fusion, CALLS from there on.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import ir, relax

from graphopt.profiling.kernels import Kernel
from graphopt.targets.tvm.tir_passes.work import BYTES, arithmetic

SOURCES = "graphopt.sources"  # variable -> index of its node in `Lowered.layers`
CALLS = "graphopt.calls"  # variable -> [index of a node, operations of this call for it], ...
SCHEDULE = "graphopt.schedule"
"""The attribute of a scheduled PrimFunc that names its kernel family and plan."""


@dataclass(frozen=True)
class Layer:
    """A node in a profile: the user's names for it, its operator, its FLOPs (None: unknown)."""

    names: tuple[str, ...]
    operator: str
    flops: int | None


def with_sources(mod: tvm.IRModule, sources: dict[str, int]) -> tvm.IRModule:
    """Record the layer of each variable of `main`."""
    mod["main"] = mod["main"].with_attr(SOURCES, json.dumps(sources))
    return mod


@tvm.transform.module_pass(opt_level=0)
def fuse_operators(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Apply `relax.transform.FuseOps`, and record the layers of each call."""
    fused = relax.transform.FuseOps()(mod)
    attributes = mod["main"].attrs
    if attributes and SOURCES in attributes:
        sources = _filled(mod["main"], json.loads(attributes[SOURCES]))
        work = _work(mod)
        calls = {
            call: [(sources[part], work[part]) for part in parts if part in sources and part in work]
            for call, parts in _groups(mod, fused).items()
        }
        fused["main"] = fused["main"].without_attr(SOURCES).with_attr(CALLS, json.dumps(calls))
    return fused


def kernels(mod: tvm.IRModule, layers: Sequence[Layer]) -> list[Kernel]:
    """Return the kernel calls of `main` in a scheduled module, in order, including both branches of an `If`."""
    main = mod["main"]
    known = json.loads(main.attrs[CALLS]) if main.attrs and CALLS in main.attrs else {}
    total: dict[int, list[float]] = defaultdict(lambda: [0, 0.0])
    made = [(b.var.name, name) for b in bindings(main) if (name := _function(b.value)) is not None]
    for variable, _ in made:
        for layer, work in known.get(variable, ()):
            total[layer][0] += 1
            total[layer][1] += work
    result = []
    for variable, name in made:
        parts = known.get(variable, [])
        attributes = mod[name].attrs or {}
        found = [layers[place] for place in dict.fromkeys(place for place, _ in parts)]
        result.append(
            Kernel(
                function=name.name_hint,
                layers=tuple(dict.fromkeys(name for layer in found for name in layer.names)),
                operators=tuple(dict.fromkeys(layer.operator for layer in found)),
                flops=_flops(parts, layers, total),
                bytes=int(attributes[BYTES]) if BYTES in attributes else None,
                schedule=str(attributes.get(SCHEDULE, "")),
            )
        )
    return result


def layers_by_function(calls: Iterable[Kernel]) -> dict[str, tuple[str, ...]]:
    """Return the user's nodes that each function computes, over all its calls."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for call in calls:
        found[call.function].update(dict.fromkeys(call.layers))
    return {function: tuple(names) for function, names in found.items()}


def _flops(parts: Any, layers: Sequence[Layer], total: dict[int, list[float]]) -> int | None:
    """Return the share of its layers' FLOPs that belongs to one call; None if one of them is not known."""
    flops = 0.0
    for place, work in parts:
        whole = layers[place].flops
        if whole is None:
            return None
        number, all_work = total[place]
        flops += whole * (work / all_work if all_work else 1 / number)
    return round(flops)


def bindings(func: relax.Function) -> Iterator[relax.Binding]:
    """Yield the bindings of a function in order, those inside of branches before the `If` that contains them."""

    def of(body: relax.Expr) -> Iterator[relax.Binding]:
        for block in body.blocks if isinstance(body, relax.SeqExpr) else ():
            for binding in block.bindings:
                if isinstance(value := getattr(binding, "value", None), relax.If):
                    yield from of(value.true_branch)
                    yield from of(value.false_branch)
                yield binding

    return of(func.body)


def _function(value: relax.Expr) -> ir.GlobalVar | None:
    """Return the function that a `call_tir` calls."""
    is_call = isinstance(value, relax.Call) and getattr(value.op, "name", "").startswith("relax.call_tir")
    return value.args[0] if is_call else None


def _work(mod: tvm.IRModule) -> dict[str, float]:
    """Return the arithmetic of each kernel call in `main`, by the variable that it binds."""
    of_function: dict[str, float] = {}
    result = {}
    for binding in bindings(mod["main"]):
        callee = _function(binding.value)
        if callee is not None:
            if callee.name_hint not in of_function:
                of_function[callee.name_hint] = arithmetic(mod[callee])
            result[binding.var.name] = of_function[callee.name_hint]
    return result


def _filled(main: relax.Function, sources: dict[str, int]) -> dict[str, int]:
    """Assign what legalization inserted before a layer's own variable to that layer."""
    result, waiting = dict(sources), []
    for binding in bindings(main):
        name = binding.var.name
        if name not in sources:
            waiting.append(name)
            continue
        result.update(dict.fromkeys(waiting, sources[name]))
        waiting.clear()
    return result


def _groups(before: tvm.IRModule, after: tvm.IRModule) -> dict[str, list[str]]:
    """Map variables of `after` to the variables of `before` that their calls compute."""
    places: dict[Any, deque[str]] = defaultdict(deque)
    for binding in bindings(before["main"]):
        places[_key(binding, {})].append(binding.var.name)
    env: dict[str, Any] = {}  # the names of `after` in terms of those of `before`
    groups: dict[str, list[str]] = {}
    for binding in bindings(after["main"]):
        body = _fused(binding, after)
        if body is None:
            groups[binding.var.name] = _follow([binding], env, places)
        else:
            given = [_value(argument, env) for argument in binding.value.args]
            inner = dict(zip((param.name for param in body.params), given, strict=True))
            groups[binding.var.name] = _follow(bindings(body), inner, places)
            env[binding.var.name] = _value(body.body.body, inner)
    return groups


def _fused(binding: relax.Binding, mod: tvm.IRModule) -> relax.Function | None:
    """Return the function that fusion created, if the binding calls one."""
    callee = binding.value.op if isinstance(binding.value, relax.Call) else None
    body = mod[callee] if isinstance(callee, ir.GlobalVar) else None
    return body if isinstance(body, relax.Function) else None


def _follow(found: Iterable[relax.Binding], env: dict[str, Any], places: dict[Any, deque[str]]) -> list[str]:
    """Return the old names of bindings, and add them to `env`; those without a match are omitted."""
    names = []
    for binding in found:
        key = _key(binding, env)
        if isinstance(key, tuple) and key[0] == "item" and isinstance(key[2], tuple):
            env[binding.var.name] = key[2][key[1]]
        elif places.get(key):
            env[binding.var.name] = places[key].popleft()
            names.append(env[binding.var.name])
    return names


def _key(binding: relax.Binding, env: dict[str, Any]) -> Any:
    """Return what a binding computes, by the old names of its operands: equal for the same work on the same values."""
    value = binding.value
    if isinstance(value, relax.Call):
        return ("call", _value(value.op, env), *(_value(argument, env) for argument in value.args))
    if isinstance(value, relax.TupleGetItem):
        return ("item", value.index, _value(value.tuple_value, env))
    return ("other", _value(value, env))


def _value(expr: relax.Expr, env: dict[str, Any]) -> Any:
    if isinstance(expr, relax.Var):
        return env.get(expr.name, expr.name)
    if isinstance(expr, relax.Tuple):
        return tuple(_value(part, env) for part in expr.fields)
    if isinstance(expr, ir.GlobalVar):
        return ("function", expr.name_hint)
    if isinstance(expr, ir.GenericConst):
        return ("constant", hash(expr))  # TVM's objects are hashed by their addresses, and fusion keeps constants
    # Sizes and the like: fusion renames their variables, but calls that read the same values agree in them anyway.
    return type(expr).__name__
