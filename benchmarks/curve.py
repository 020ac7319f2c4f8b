"""The picture of docs/explanation/dedup.md: how likely MinHash finds a pair, by its similarity.

python benchmarks/curve.py docs/curve.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

from corpus.dedup.minhash import MinHash

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 56, 24, 616, 310
CURVES = [
    (MinHash(), "#2f6fb3", "", "14 × 8, FineWeb"),
    (MinHash(bands=20, rows=5), "#b3552f", "7 4", "20 × 5"),
    (MinHash(bands=9, rows=13), "#4c8c5a", "2 4", "9 × 13, RedPajama-v2 at 0.8"),
]


def x(similarity: float) -> float:
    """Where a similarity stands, in pixels."""
    return LEFT + similarity * (RIGHT - LEFT)


def y(share: float) -> float:
    """Where a probability stands, in pixels."""
    return BOTTOM - share * (BOTTOM - TOP)


def svg() -> str:
    """The picture, as SVG that is readable on light and dark pages."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        "<title>Probability that two documents share a band, by their Jaccard similarity</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_axes(),
        *_middle(CURVES[0][0]),
        *(_curve(*curve, place) for place, curve in enumerate(CURVES)),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _axes() -> list[str]:
    lines = []
    for tenth in range(0, 11, 2):
        value = tenth / 10
        lines += [
            f'<path d="M{LEFT} {y(value):.1f}H{RIGHT}" stroke="#dddddd"/>',
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0%}</text>',
            f'<text x="{x(value):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{value:.1f}</text>',
        ]
    middle = (LEFT + RIGHT) / 2
    label = "Jaccard similarity of the shingle sets"
    lines.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{label}</text>')
    return lines


def _middle(minhash: MinHash) -> list[str]:
    """A thin line where the default curve is steepest."""
    at = minhash.threshold_estimate
    return [
        f'<path d="M{x(at):.1f} {TOP}V{BOTTOM}" stroke="#999999" stroke-dasharray="3 3"/>',
        f'<text x="{x(at) + 6:.1f}" y="{BOTTOM - 6}" fill="#555555">',
        f"(1/14)^(1/8) = {at:.2f}</text>",
    ]


def _curve(minhash: MinHash, colour: str, dashes: str, name: str, place: int) -> str:
    """A curve, and its line in the legend."""
    points = " ".join(
        f"{x(i / 200):.1f},{y(minhash.match_probability(i / 200)):.1f}" for i in range(201)
    )
    style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
    left, at = x(0.03), y(0.93 - 0.08 * place)
    return (
        f'<polyline points="{points}" {style}/>'
        f'<path d="M{left:.1f} {at - 4:.1f}h30" {style}/>'
        f'<text x="{left + 38:.1f}" y="{at:.1f}">{name}</text>'
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")
