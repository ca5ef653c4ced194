"""Loss curve: the loss of a training as a picture beside its adapter, ``loss.svg``."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from cotdistill.reporting.chart import Line, line

WIDTH, LEFT, TOP = 600, 40, 40


def loss_svg(losses: Sequence[tuple[int, float]], title: str) -> str:
    """The losses, (optimizer step, nats per answer token), as an SVG document; a training of one step has no curve
    and gets the title alone."""
    curve = line(losses)
    height = curve.height if curve else 0
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {TOP + height + 30}" '
        'font-family="sans-serif" font-size="12" fill="#444">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n<text x="{LEFT}" y="20">{escape(title)}</text>\n'
        f"{_drawn(curve) if curve else ''}</svg>\n"
    )


def _drawn(curve: Line) -> str:
    end, bottom = LEFT + WIDTH, TOP + curve.height
    parts = [f'<path d="M{LEFT} {bottom}H{end}" stroke="#888"/>']
    for tick in curve.up:
        parts.append(f'<path d="M{LEFT} {TOP + tick.at:g}H{end}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{TOP + tick.at + 4:g}" text-anchor="end">{tick.text}</text>')
    for tick, anchor in zip(curve.across, ("start", "middle", "end"), strict=True):
        place = LEFT + tick.at / 100 * WIDTH
        parts.append(f'<text x="{place:g}" y="{bottom + 18}" text-anchor="{anchor}">{tick.text}</text>')
    parts.append(
        f'<svg x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{curve.height}" viewBox="0 0 100 {curve.height}" '
        f'preserveAspectRatio="none"><polyline points="{curve.points}" fill="none" stroke="#2563eb" '
        'stroke-width="1.5" vector-effect="non-scaling-stroke"/></svg>'
    )
    return "\n".join(parts) + "\n"
