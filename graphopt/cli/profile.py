"""The output of `graphopt bench --profile`: a table of kernels and their picture."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import InputError
from graphopt.profiling.code import shortened
from graphopt.profiling.profile import Call, Profile
from graphopt.util.files import replacing
from graphopt.util.tables import Table, format_bytes, format_count, format_seconds

_NUMBERS = ("time", "share", "FLOPs", "FLOP/s", "of peak", "bytes", "of memory")


def table(profile: Profile, top: int) -> Table:
    """Return the `top` kernels that take longest, and one row for all others together."""
    ordered = sorted(profile.calls, key=lambda call: -call.seconds)
    title = f"kernels: {format_seconds(profile.seconds)} of {format_seconds(profile.latency)} a run"
    if profile.peak:
        floats, products = format_count(profile.peak.flops), format_count(profile.peak.products)
        memory = format_bytes(round(profile.peak.bytes))
        title += f"; peak {floats}FLOP/s, {products}OP/s on bytes, memory {memory}/s"
    made = Table(title, ("layers", "kernel", *_NUMBERS, "schedule"), right=frozenset(_NUMBERS))
    for call in ordered[:top]:
        made.add(*_row(profile, call))
    if rest := ordered[top:]:
        seconds = sum(call.seconds for call in rest)
        share = sum(profile.share(call) for call in rest)
        made.add(
            f"{len(rest)} other{'s' if len(rest) > 1 else ''}", "", format_seconds(seconds), f"{share:.1%}", *[""] * 6
        )
    return made


def _row(profile: Profile, call: Call) -> tuple[str, ...]:
    kernel = call.kernel
    speed = kernel.flops / call.seconds if kernel.flops and call.seconds else None
    return (
        shortened(kernel.layers) or "-",
        kernel.function,
        format_seconds(call.seconds),
        f"{profile.share(call):.1%}",
        "-" if kernel.flops is None else format_count(kernel.flops),
        "-" if speed is None else format_count(speed),
        _percent(profile.of_peak(call)),
        "-" if kernel.bytes is None else format_bytes(kernel.bytes),
        _percent(profile.of_memory(call)),
        kernel.schedule or "-",
    )


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"


def write_picture(profile: Profile, title: str, path: Path) -> None:
    """Draw the profile into an SVG file. Raises InputError if it cannot be written."""
    from graphopt.profiling.picture import draw

    try:
        with replacing(path) as file:
            file.write(draw(profile, title).encode())
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
