"""The picture of a profile: a bar for each kernel in the order of a run, grouped by layers."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from graphopt.profiling.profile import Call, Profile
from graphopt.util.tables import format_count, format_seconds

WIDTH, LEFT, BARS, ROW, TOP = 1100, 330, 420, 16, 64
_COLOURS = ("#4878a8", "#d9822b", "#5a9e6f", "#b3589a", "#8c6d46", "#5f6b7a", "#c44e52", "#3a9ca6")


def draw(profile: Profile, title: str) -> str:
    """Return the picture as the text of an SVG file. Kernels are grouped by layer; colours show operators."""
    colours = _colours(profile)
    longest = max((call.seconds for call in profile.calls), default=0.0) or 1.0
    height = TOP + ROW * (len(profile.calls) + 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="20" font-size="14">{escape(_heading(profile, title))}</text>',
        *_legend(colours),
    ]
    last: str | None = None
    for place, call in enumerate(profile.calls):
        y = TOP + ROW * place
        name = _group(call, last)
        if name != last:
            lines.append(f'<line x1="12" x2="{WIDTH - 12}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>')
            lines.append(_text(LEFT - 8, y + 12, _shortened(name), anchor="end"))
        last = name
        lines.extend(_bar(profile, call, y, BARS * call.seconds / longest, colours[_operator(call)]))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _heading(profile: Profile, title: str) -> str:
    threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    times = f"{format_seconds(profile.seconds)} in kernels of {format_seconds(profile.latency)} per run"
    peak = f", peak {format_count(profile.peak.flops)}FLOP/s" if profile.peak else ""
    return f"{title}: {times}, {threads}{peak}"


def _operator(call: Call) -> str:
    """Return the operator that determines a kernel's colour: the first in its name."""
    return call.kernel.operators[0] if call.kernel.operators else "other"


def _colours(profile: Profile) -> dict[str, str]:
    """Return a colour for each operator, the most expensive first; when they run out, the rest share the last."""
    total: dict[str, float] = {}
    for call in profile.calls:
        total[_operator(call)] = total.get(_operator(call), 0.0) + call.seconds
    ordered = sorted(total, key=lambda name: -total[name])
    return {name: _COLOURS[min(place, len(_COLOURS) - 1)] for place, name in enumerate(ordered)}


def _legend(colours: dict[str, str]) -> Iterator[str]:
    x = 12
    for name, colour in list(colours.items())[: len(_COLOURS)]:
        label = name if colour != _COLOURS[-1] else "other operators"
        yield f'<rect x="{x}" y="34" width="11" height="11" fill="{colour}"/>'
        yield _text(x + 16, 44, label)
        x += 32 + 7 * len(label)


def _group(call: Call, last: str | None) -> str:
    """Return the layer under which a kernel is shown: that of the previous kernel if it computes a part of it too."""
    layers = call.kernel.layers
    if last is not None and last in layers:
        return last
    return layers[0] if layers else call.kernel.function


def _bar(profile: Profile, call: Call, y: int, width: float, colour: str) -> Iterator[str]:
    kernel = call.kernel
    peak = profile.of_peak(call)
    says = [format_seconds(call.seconds), f"{profile.share(call):.1%}"]
    if peak is not None and kernel.flops:
        says.append(f"{peak:.0%} of peak")
    says.append(kernel.schedule or kernel.function)
    layers = ", ".join(kernel.layers) or "-"
    yield "<g>"
    yield f"<title>{escape(f'{kernel.function}: {layers}')}</title>"
    yield f'<rect x="{LEFT}" y="{y + 2}" width="{max(width, 0.5):.1f}" height="{ROW - 4}" fill="{colour}"/>'
    yield _text(LEFT + max(width, 0.5) + 6, y + 12, " · ".join(says))
    yield "</g>"


def _shortened(name: str, most: int = 48) -> str:
    """Shorten a long name in its middle, because names mostly differ at their ends."""
    half = (most - 3) // 2
    return name if len(name) <= most else f"{name[:half]}...{name[-half:]}"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
