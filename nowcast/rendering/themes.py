"""The colours around the rain, for a light and a dark page."""

from __future__ import annotations

from dataclasses import dataclass

from nowcast.errors import BadRequest
from nowcast.rendering.palette import Colour


@dataclass(frozen=True)
class Theme:
    """Every colour of a picture that is not the palette's.

    Attributes:
        paper: The page.
        ink: Titles and numbers.
        soft_ink: Subtitle, units, credit.
        frame: Lines around maps and legend.
        land: Land where the radar sees no echo.
        water: Water where the radar sees no echo.
        coast: Coast lines.
        line_on_echo: Coasts and borders where they cross echo, whose colours are bright in both themes.
        border: Country borders.
        graticule: Meridians and parallels.
        veil: Laid over everything the radar does not see.
        veil_strength: Share of the veil in the mixture, 0 to 1.
        hatch: Diagonal lines on the veil.
    """

    paper: Colour
    ink: Colour
    soft_ink: Colour
    frame: Colour
    land: Colour
    water: Colour
    coast: Colour
    line_on_echo: Colour
    border: Colour
    graticule: Colour
    veil: Colour
    veil_strength: float
    hatch: Colour


THEMES = {
    "light": Theme(
        paper=(255, 255, 255),
        ink=(24, 30, 38),
        soft_ink=(96, 105, 116),
        frame=(150, 158, 168),
        land=(248, 247, 242),
        water=(223, 233, 242),
        coast=(70, 80, 92),
        line_on_echo=(48, 54, 62),
        border=(120, 128, 138),
        graticule=(205, 211, 218),
        veil=(196, 200, 205),
        veil_strength=0.7,
        hatch=(182, 187, 193),
    ),
    "dark": Theme(
        paper=(17, 20, 25),
        ink=(236, 240, 245),
        soft_ink=(152, 162, 174),
        frame=(74, 83, 94),
        land=(39, 44, 52),
        water=(24, 29, 37),
        coast=(168, 178, 190),
        line_on_echo=(28, 32, 38),
        border=(124, 134, 146),
        graticule=(58, 66, 76),
        veil=(88, 94, 103),
        veil_strength=0.6,
        hatch=(92, 99, 109),
    ),
}


def theme_of(name: str) -> Theme:
    """Return a theme by name.

    Raises:
        BadRequest: If there is none of that name.
    """
    if name not in THEMES:
        raise BadRequest(f"theme must be one of {', '.join(THEMES)}, not {name!r}")
    return THEMES[name]
