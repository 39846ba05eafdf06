"""The colours of reflectivity: one palette for maps, tiles and legends, readable by the colour-blind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ReflectivityClass:
    """One colour of the legend.

    Attributes:
        lower_dbz: Lowest reflectivity [dBZ] of the class; the next class's is the first above it.
        colour: Red, green and blue, 0 to 255.
    """

    lower_dbz: float
    colour: Colour

    @property
    def hex(self) -> str:
        """The colour as CSS writes it.

        Example:
            >>> CLASSES[0].hex
            '#006cc6'
        """
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


#: HomeyerRainbow, made for radar and for colour-blind readers by C. Homeyer and R. Jackson (ARM-DOE/pyart
#: issue 713; cmweather), read at 0, 7, 14, 22, 28, 34, 50, 59, 67, 74, 82 and 96 percent of its length.
#: Those places keep any two classes 7.3 CIEDE2000 apart in the least favourable of normal sight,
#: protanopia, deuteranopia and tritanopia (Machado et al. 2009), against 2.7 for even spacing.
CLASSES: tuple[ReflectivityClass, ...] = (
    ReflectivityClass(5.0, (0x00, 0x6C, 0xC6)),
    ReflectivityClass(10.0, (0x07, 0x87, 0xBB)),
    ReflectivityClass(15.0, (0x32, 0xA3, 0xAB)),
    ReflectivityClass(20.0, (0x68, 0xC3, 0x96)),
    ReflectivityClass(25.0, (0x90, 0xD9, 0x87)),
    ReflectivityClass(30.0, (0xBC, 0xEF, 0x7A)),
    ReflectivityClass(35.0, (0xE6, 0xDA, 0x20)),
    ReflectivityClass(40.0, (0xDF, 0xAB, 0x00)),
    ReflectivityClass(45.0, (0xD9, 0x81, 0x00)),
    ReflectivityClass(50.0, (0xD1, 0x5A, 0x00)),
    ReflectivityClass(55.0, (0xC8, 0x2D, 0x00)),
    ReflectivityClass(60.0, (0xAF, 0x00, 0x00)),
)

#: Codes of :func:`classify`, in order of importance: where cells share a pixel the largest code is shown,
#: so a small shower never vanishes, and a gap in the radars' view never passes for dry weather.
NO_ECHO, NOT_OBSERVED_CODE, FIRST_CLASS = 0, 1, 2

#: Rows classified at once: class numbers are eight bytes each before they are one.
BLOCK_ROWS = 256

_LOWER_DBZ = np.array([echo.lower_dbz for echo in CLASSES], dtype=np.float32)


def classify(dbz: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the code of every cell ``(y, x)``: no echo, not observed, or :data:`FIRST_CLASS` + class number.

    Echo below the first class counts as no echo.
    """
    codes = np.empty(dbz.shape, dtype=np.uint8)
    for start in range(0, len(dbz), BLOCK_ROWS):
        block = dbz[start : start + BLOCK_ROWS]
        number = np.searchsorted(_LOWER_DBZ, block, side="right").astype(np.uint8)
        number[number > 0] += FIRST_CLASS - 1
        number[np.isnan(block)] = NOT_OBSERVED_CODE
        codes[start : start + BLOCK_ROWS] = number
    return codes


def colour_table(*, not_observed: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return red, green, blue and alpha ``(codes, 4)`` of every code; no echo is clear, echo opaque."""
    table = np.zeros((FIRST_CLASS + len(CLASSES), 4), dtype=np.uint8)
    table[NOT_OBSERVED_CODE] = not_observed
    table[FIRST_CLASS:, :3] = [echo.colour for echo in CLASSES]
    table[FIRST_CLASS:, 3] = 255
    return table
