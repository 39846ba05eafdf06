"""Where maps, words and the legend lie on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nowcast.frame.grid import Grid

#: Tallest map as a multiple of its width; a taller grid gets a narrower map.
TALLEST = 1.2

#: Space around the page and between two maps [pixels].
MARGIN, GAP = 20, 14

#: Height [pixels] of title and subtitle, of a caption, and of legend and credit.
HEADER, CAPTION, FOOTER = 72, 24, 104


@dataclass(frozen=True)
class Layout:
    """A page with maps of one size in rows and columns; all in pixels."""

    margin: int
    inner_width: int
    caption: int
    columns: int
    rows: int
    map_width: int
    map_height: int

    @classmethod
    def of(cls, grid: Grid, maps: int, columns: int, width_px: int, *, captions: bool) -> Layout:
        """Return the page for a number of maps of a grid, as wide as the page and the grid's shape allow."""
        columns = max(1, min(columns, maps))
        inner = width_px - 2 * MARGIN
        cell_height, cell_width = grid.cell_km
        shape = grid.ny * cell_height / (grid.nx * cell_width)
        width = (inner - (columns - 1) * GAP) // columns
        if shape > TALLEST:
            width = max(1, int(width * TALLEST / shape))
        height = max(1, round(width * shape))
        return cls(
            MARGIN, inner, CAPTION if captions else 0, columns, math.ceil(maps / columns), width, height
        )

    @property
    def maps_bottom(self) -> int:
        """Lower edge of the last row of maps."""
        return HEADER + self.rows * (self.caption + self.map_height) + (self.rows - 1) * GAP

    @property
    def height(self) -> int:
        """Height of the page."""
        return self.maps_bottom + FOOTER

    def place(self, number: int) -> tuple[int, int]:
        """Return the upper left corner of a map, counted along the rows; x, y."""
        row, column = divmod(number, self.columns)
        slot = (self.inner_width + GAP) / self.columns
        left = self.margin + round(column * slot + (slot - GAP - self.map_width) / 2)
        return left, HEADER + row * (self.caption + self.map_height + GAP) + self.caption
