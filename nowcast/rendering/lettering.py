"""Text on pictures: even at small sizes, and the same on every machine."""

from __future__ import annotations

import io
from functools import lru_cache
from importlib.resources import files

from PIL import Image, ImageDraw, ImageFont

from nowcast.rendering.palette import Colour

#: Text is drawn this many times larger and reduced: small letters then keep their spacing, which
#: whole-pixel advances would not, and no hinting engine decides what they look like.
OVERSAMPLING = 4


@lru_cache(maxsize=32)
def _font(size_px: float, bold: bool) -> ImageFont.FreeTypeFont:
    name = "Inter-SemiBold.ttf" if bold else "Inter-Regular.ttf"
    data = files("nowcast").joinpath("data", name).read_bytes()
    return ImageFont.truetype(io.BytesIO(data), size_px, layout_engine=ImageFont.Layout.BASIC)


def text_width(text: str, size_px: float, *, bold: bool = False) -> float:
    """Return the width [pixels] of a line of text."""
    return _font(size_px * OVERSAMPLING, bold).getlength(text) / OVERSAMPLING


@lru_cache(maxsize=256)
def _mask(text: str, size_px: float, bold: bool, stroke_px: float) -> tuple[Image.Image, int]:
    """Return the coverage of a line of text, its ascender line at row ``pad``, and the padding around it."""
    font = _font(size_px * OVERSAMPLING, bold)
    pad = int(stroke_px) + 2
    width = int(font.getlength(text) / OVERSAMPLING) + 2 * pad + 2
    height = int(size_px * 1.5) + 2 * pad
    large = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING), 0)
    ImageDraw.Draw(large).text(
        (pad * OVERSAMPLING, pad * OVERSAMPLING),
        text,
        fill=255,
        font=font,
        stroke_width=round(stroke_px * OVERSAMPLING),
    )
    return large.reduce(OVERSAMPLING), pad


def draw_text(
    page: Image.Image,
    at: tuple[float, float],
    text: str,
    size_px: float,
    colour: Colour,
    *,
    bold: bool = False,
    align: str = "left",
    halo: Colour | None = None,
    max_width: float | None = None,
) -> None:
    """Write one line with its top at ``at`` and its left edge, middle or right edge (``align``) there.

    Characters that end a line or a page become spaces; text wider than ``max_width`` [pixels] ends in an
    ellipsis; a halo keeps it legible over a picture.
    """
    text = _fitted(" ".join(text.split()), size_px, bold, max_width)
    if not text:
        return
    shift = {"left": 0.0, "middle": 0.5, "right": 1.0}[align] * text_width(text, size_px, bold=bold)
    for fill, stroke in ((halo, 2.0), (colour, 0.0)):
        if fill is not None:
            mask, pad = _mask(text, size_px, bold, stroke)
            page.paste(fill, (round(at[0] - shift) - pad, round(at[1]) - pad), mask)


def _fitted(text: str, size_px: float, bold: bool, max_width: float | None) -> str:
    if max_width is None or text_width(text, size_px, bold=bold) <= max_width:
        return text
    short, long = 0, len(text)
    while short < long:  # the longest beginning that fits
        middle = (short + long + 1) // 2
        if text_width(text[:middle].rstrip() + "…", size_px, bold=bold) <= max_width:
            short = middle
        else:
            long = middle - 1
    return text[:short].rstrip() + "…" if short else ""
