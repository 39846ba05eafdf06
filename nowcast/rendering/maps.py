"""The pictures themselves: fields laid on their base map, with titles and a legend around them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from nowcast.errors import BadRequest
from nowcast.frame.grid import Grid
from nowcast.frame.units import ZR
from nowcast.rendering.basemap import Basemap, basemap
from nowcast.rendering.layout import Layout
from nowcast.rendering.legend import draw_legend
from nowcast.rendering.lettering import draw_text, text_width
from nowcast.rendering.palette import NOT_OBSERVED_CODE, classify, colour_table
from nowcast.rendering.themes import Theme, theme_of

#: Narrowest and widest picture [pixels]: below, the legend does not fit; above, one picture fills the
#: memory.
WIDTH_LIMITS = (400, 2000)

#: What an overlay shows where nothing is observed: red, green, blue, alpha.
OVERLAY_NOT_OBSERVED = (120, 126, 134, 96)


@dataclass(frozen=True)
class Panel:
    """One field ``(y, x)`` [dBZ] of :func:`render_panels` and the words above it."""

    dbz: NDArray[np.float32]
    caption: str = ""


def render_map(
    dbz: NDArray[np.float32],
    grid: Grid,
    *,
    title: str,
    subtitle: str = "",
    credit: str = "",
    theme: str = "light",
    width_px: int = 1000,
    zr: ZR | None = None,
) -> bytes:
    """Return a PNG of one field ``(y, x)`` [dBZ] as a map with title, legend, scale bar and credit.

    Where several cells share a pixel the strongest echo is shown, else "not observed", else "no echo". The
    same arguments give the same bytes.

    Args:
        dbz: Reflectivity; NaN = not observed, drawn hatched; echo below the legend counts as no echo.
        grid: Cells of the field.
        title: What is shown: domain and product.
        subtitle: Valid time, lead time, issue time.
        credit: Whose data this is.
        theme: ``"light"`` or ``"dark"``.
        width_px: Width of the picture; its height follows from the grid.
        zr: Relation behind the legend's mm/h; Marshall and Palmer's if left out.

    Raises:
        BadRequest: If the theme is unknown, the width out of bounds or the field not on the grid.
    """
    return render_panels(
        [Panel(dbz)],
        grid,
        title=title,
        subtitle=subtitle,
        credit=credit,
        theme=theme,
        width_px=width_px,
        zr=zr,
    )


def render_panels(
    panels: Sequence[Panel],
    grid: Grid,
    *,
    title: str,
    subtitle: str = "",
    credit: str = "",
    theme: str = "light",
    columns: int | None = None,
    width_px: int = 1000,
    zr: ZR | None = None,
) -> bytes:
    """Return a PNG of several fields of one grid, ``columns`` in a row, under one title and over one legend.

    Fields, arguments and errors are those of :func:`render_map`.
    """
    if not panels:
        raise BadRequest("a picture needs at least one field, got none")
    if not WIDTH_LIMITS[0] <= width_px <= WIDTH_LIMITS[1]:
        raise BadRequest(f"a picture is {WIDTH_LIMITS[0]} to {WIDTH_LIMITS[1]} pixels wide, not {width_px}")
    for panel in panels:
        _check_fits(panel.dbz, grid)
    colours = theme_of(theme)
    layout = Layout.of(
        grid, len(panels), columns or len(panels), width_px, captions=any(panel.caption for panel in panels)
    )
    ground = basemap(grid, layout.map_width, layout.map_height, theme)

    page = Image.new("RGB", (width_px, layout.height), colours.paper)
    left, width = layout.margin, layout.inner_width
    draw_text(page, (left, 13), title, 21, colours.ink, bold=True, max_width=width)
    draw_text(page, (left, 43), subtitle, 14, colours.soft_ink, max_width=width)
    for number, panel in enumerate(panels):
        x, y = layout.place(number)
        draw_text(page, (x, y - 21), panel.caption, 13, colours.ink, bold=True, max_width=layout.map_width)
        page.paste(_picture(panel.dbz, ground, colours), (x, y))
        if number == 0:
            _draw_scale_bar(page, (x, y + layout.map_height), ground, colours)
        if len(panels) == 1:
            for label in ground.labels:
                draw_text(
                    page,
                    (x + label.x, y + label.y),
                    label.text,
                    11,
                    colours.soft_ink,
                    align=label.align,
                    halo=colours.paper,
                )
        frame = (x - 1, y - 1, x + layout.map_width, y + layout.map_height)
        ImageDraw.Draw(page).rectangle(frame, outline=colours.frame)
    draw_legend(page, (left, layout.maps_bottom + 14), width, colours, zr or ZR())
    draw_text(page, (left, layout.height - 24), credit, 11, colours.soft_ink, max_width=width)
    return _png(page)


def render_field(dbz: NDArray[np.float32], grid: Grid) -> bytes:
    """Return an RGBA PNG with one pixel per cell ``(y, x)`` [dBZ] and nothing else, to lie over another map.

    No echo is transparent, "not observed" a translucent grey, echo opaque in its class's colour.

    Raises:
        BadRequest: If the field is not on the grid.
    """
    _check_fits(dbz, grid)
    return _png(Image.fromarray(colour_table(not_observed=OVERLAY_NOT_OBSERVED)[classify(dbz)]))


def _check_fits(dbz: NDArray[np.float32], grid: Grid) -> None:
    if dbz.shape != grid.shape:
        raise BadRequest(f"the field has {dbz.shape} cells, its grid {grid.shape}")


def _picture(dbz: NDArray[np.float32], ground: Basemap, colours: Theme) -> Image.Image:
    """Return the ground with the field on it and the coasts over both."""
    width, height = ground.ground.size
    codes = pooled_codes(dbz, height, width)
    rain = Image.fromarray(colour_table(not_observed=(0, 0, 0, 0))[codes])
    unseen = Image.fromarray(np.where(codes == NOT_OBSERVED_CODE, np.uint8(255), np.uint8(0)))
    rain, unseen = _enlarged(rain, (width, height)), _enlarged(unseen, (width, height))

    picture = ground.ground.copy()
    picture.paste(ground.veiled, (0, 0), unseen)
    picture.paste(colours.border, (0, 0), ground.borders)
    picture.paste(colours.coast, (0, 0), ground.coasts)
    wet = rain.getchannel("A")
    picture.paste(rain, (0, 0), wet)
    picture.paste(colours.line_on_echo, (0, 0), ImageChops.multiply(wet, ground.lines))
    return picture


def pooled_codes(dbz: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """Return the largest code of :func:`nowcast.rendering.palette.classify` in each pixel of a map.

    An axis with fewer cells than pixels keeps its cells.
    """
    ny, nx = dbz.shape
    rows, columns = (
        np.arange(min(height, ny)) * ny // min(height, ny),
        np.arange(min(width, nx)) * nx // min(width, nx),
    )
    codes = np.maximum.reduceat(classify(dbz), rows, axis=0)
    return np.maximum.reduceat(codes, columns, axis=1)


def _enlarged(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return cells as squares of the map's size, mixed only in the pixels that two of them share."""
    if image.size == size:
        return image
    whole = tuple(-(-to // cells) * cells for cells, to in zip(image.size, size, strict=True))
    enlarged = image.resize((whole[0], whole[1]), Image.Resampling.NEAREST)
    return enlarged if whole == size else enlarged.resize(size, Image.Resampling.BOX)


def _draw_scale_bar(page: Image.Image, corner: tuple[int, int], ground: Basemap, colours: Theme) -> None:
    """Draw the scale bar on a plate in the map's lower left corner."""
    words = f"{ground.bar_km:g} km"
    plate_width = round(ground.bar_px + text_width(words, 11) + 26)
    left, top = corner[0] + 8, corner[1] - 30
    draw = ImageDraw.Draw(page)
    draw.rectangle((left, top, left + plate_width, top + 21), fill=colours.paper, outline=colours.frame)
    x, y = left + 9, top + 13
    draw.line((x, y - 5, x, y, x + ground.bar_px, y, x + ground.bar_px, y - 5), fill=colours.ink, width=1)
    draw_text(page, (x + ground.bar_px + 8, top + 3), words, 11, colours.ink)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()
