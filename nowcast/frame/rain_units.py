"""Units of precipitation in the spellings that files use: the quantity they belong to, the factor to it.

UDUNITS reads them, the library behind CF's own units, after two customs it does not know are put into its
language: an interval written as ``5min`` in a denominator, and the names of reflectivity.
"""

from __future__ import annotations

import re
from functools import lru_cache

import cf_units

from nowcast.frame.frame import Quantity

#: Longest text that may be a unit.
MAX_LENGTH = 64

#: Largest factor to mm/h and mm that rain is counted in: that of m/s and of m. A kilometre measures no rain.
MOST = {Quantity.RATE: 3.6e6, Quantity.ACRR: 1000.0}

#: Units UDUNITS may bring a text to, with the quantity; a litre of water on a square metre is a millimetre.
_TARGETS = (
    ("mm h-1", Quantity.RATE),
    ("kg m-2 h-1", Quantity.RATE),
    ("mm", Quantity.ACRR),
    ("kg m-2", Quantity.ACRR),
)

#: Names of reflectivity's unit without spaces and brackets, in lower case.
_REFLECTIVITY = ("dbz", "dbze", "dbzh", "dbzs", "decibelz", "decibelsz")

#: A number of seconds, minutes, hours or days: an interval.
_INTERVAL = r"(\d+(?:\.\d+)?) ?((?:s|sec|seconds?|mins?|minutes?|h|hr|hrs|hours?|d|days?))"

#: Signs of typesetting, and what UDUNITS calls the same.
_SIGNS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−·⋅×{}", "0123456789--...()")  # noqa: RUF001


@lru_cache(maxsize=256)
def rain_unit(text: str) -> tuple[Quantity, float] | None:
    """Return the quantity of a unit and the factor to dBZ, mm/h or mm; ``None`` if it is no such unit.

    An interval in the unit makes it a rate: ``mm/5min`` is twelve times as much in mm/h.

    Example:
        >>> rain_unit("kg m-2 h-1"), rain_unit("mm/5min"), rain_unit("K")
        ((<Quantity.RATE: 'RATE'>, 1.0), (<Quantity.RATE: 'RATE'>, 12.0), None)
    """
    if not text.strip() or len(text) > MAX_LENGTH:
        return None
    if re.sub(r"[\s()_-]", "", text).lower() in _REFLECTIVITY:
        return Quantity.DBZH, 1.0
    plain = _in_udunits(text)
    for spelling in (plain, plain.lower()):
        if known := _converted(spelling):
            return known
    return None


def _in_udunits(text: str) -> str:
    plain = " ".join(text.translate(_SIGNS).split()).rstrip(".")
    plain = re.sub(r"\(([-+]?\d+)\)", r"\1", plain)  # h^{-1}
    plain = re.sub(r"\b(kg|mm)(m|hr?|s)(?=[-^*\d])", r"\1 \2", plain)  # kgm-2s-1
    plain = re.sub(r"(?:/ ?|\bper )" + _INTERVAL + r"\b", r"/(\1 \2)", plain, flags=re.IGNORECASE)
    return re.sub(r" " + _INTERVAL + r" ?(?:\^|\*\*)? ?-1\b", r" (\1 \2)-1", plain, flags=re.IGNORECASE)


def _converted(spelling: str) -> tuple[Quantity, float] | None:
    try:
        with cf_units.suppress_errors():
            unit = cf_units.Unit(spelling)
        for target, quantity in _TARGETS:
            if unit.is_convertible(target):
                nothing, one, two = (float(unit.convert(number, target)) for number in (0.0, 1.0, 2.0))
                factor = float(f"{one:.12g}")
                is_factor = nothing == 0.0 and abs(two - 2 * one) <= 1e-9 * abs(one)
                return (quantity, factor) if is_factor and 0 < factor <= MOST[quantity] else None
    except (ValueError, OverflowError):
        pass
    return None
