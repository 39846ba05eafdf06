"""The legend: every class in dBZ and mm/h, and the two states that are no value."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from nowcast.frame.units import ZR
from nowcast.rendering.basemap import veil
from nowcast.rendering.lettering import draw_text, text_width
from nowcast.rendering.palette import CLASSES
from nowcast.rendering.themes import Theme

#: Size of the legend's numbers and words [pixels].
NUMBER_SIZE = 11


def draw_legend(page: Image.Image, at: tuple[int, int], width: int, colours: Theme, zr: ZR) -> None:
    """Draw the legend with its upper left corner at ``at``, ``width`` pixels wide."""
    left, top = at
    draw = ImageDraw.Draw(page)
    units = round(max(text_width("mm/h", NUMBER_SIZE), text_width("dBZ", NUMBER_SIZE)) + 22)
    swatches = 92 if width > 560 else 74
    block = (width - units - 2 * swatches - 16) // len(CLASSES)
    bar_top, bar_bottom = top + 17, top + 35

    draw_text(page, (left, top), "mm/h", NUMBER_SIZE, colours.soft_ink)
    draw_text(page, (left, bar_bottom + 4), "dBZ", NUMBER_SIZE, colours.soft_ink)
    for number, echo in enumerate(CLASSES):
        x = left + units + number * block
        draw.rectangle((x, bar_top, x + block - 1, bar_bottom), fill=echo.colour)
        rate = float(zr.to_rain_rate(np.array(echo.lower_dbz, dtype=np.float32)))
        draw_text(page, (x, top), _short(rate), NUMBER_SIZE, colours.ink, align="middle")
        draw_text(page, (x, bar_bottom + 4), f"{echo.lower_dbz:g}", NUMBER_SIZE, colours.ink, align="middle")
        draw.line((x, bar_top - 2, x, bar_bottom + 2), fill=colours.frame)
    end = left + units + len(CLASSES) * block
    draw.rectangle((left + units, bar_top - 1, end, bar_bottom + 1), outline=colours.frame)

    for number, words in enumerate(("no echo", "not observed")):
        x = left + width - (2 - number) * swatches + 8
        box = (x, bar_top - 1, x + swatches - 8, bar_bottom + 1)
        draw.rectangle(box, fill=colours.land, outline=colours.frame)
        if number:
            size = (swatches - 10, bar_bottom - bar_top + 1)
            page.paste(veil(Image.new("RGB", size, colours.land), colours), (x + 1, bar_top))
        draw_text(
            page, (x + (swatches - 8) / 2, bar_bottom + 4), words, NUMBER_SIZE, colours.ink, align="middle"
        )


def _short(rate: float) -> str:
    """Return a rain rate to two significant digits, as few characters as that takes.

    Example:
        >>> _short(0.0748), _short(5.62), _short(86.6), _short(205.0)
        ('0.07', '5.6', '87', '205')
    """
    if rate >= 10:
        return f"{rate:.0f}"
    return f"{rate:.{max(0, 1 - math.floor(math.log10(rate)))}f}" if rate >= 0.1 else f"{rate:.2f}"
