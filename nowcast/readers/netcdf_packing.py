"""From a netCDF variable's stored numbers to a frame's values: packing, sign, missing and valid numbers.

Sources: CF Conventions 1.11, sections 2.5.1 and 8.1; NetCDF User's Guide, appendix A (Attribute Conventions).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers.netcdf import Variable
from nowcast.readers.packing import unpack


def unpacked(
    stored: NDArray[Any], variable: Variable, quantity: Quantity, *, factor: float = 1.0
) -> NDArray[np.float32]:
    """Return the values in the quantity's unit, NaN where missing or outside the valid range.

    Bounds are in stored numbers, after ``_Unsigned``; those stored as fractions beside whole numbers are in
    the unit of the scaled values.

    Args:
        stored: The variable's numbers, or a part of them.
        variable: What they are of.
        quantity: What they are after scaling.
        factor: From the variable's unit to the quantity's.

    Raises:
        UnreadableFile: If an attribute that must be a number is text, or a valid range is none.
    """
    least, most = _bounds(variable)
    sign = _sign(variable, most)
    codes = variable.missing_codes
    wrap = 2.0 ** (8 * stored.dtype.itemsize)
    if sign == "u" and stored.dtype.kind == "i":
        stored = stored.view(stored.dtype.str.replace("i", "u"))
        codes = tuple(code % wrap for code in codes)
    elif sign == "i" and stored.dtype.kind == "u":
        stored = stored.view(stored.dtype.str.replace("u", "i"))
        codes = tuple(_signed(code, wrap) for code in codes)
    if least is not None and most is not None and not _is_scaled(variable, "least"):
        low, high = (_restored(bound, sign, wrap, stored.dtype) for bound in (least, most))
        if low > high:
            raise UnreadableFile(f"the valid numbers of {variable.name!r} run from {least:g} to {most:g}")
    scale, offset = variable.scaling
    values = unpack(
        np.array(stored, order="C"),
        quantity,
        gain=scale * factor,
        offset=offset * factor,
        missing=codes,
    )
    for name, bound, beyond in (("least", least, np.less), ("most", most, np.greater)):
        if bound is None:
            continue
        if _is_scaled(variable, name):
            with np.errstate(invalid="ignore"):
                # Half a step of the packing is no excess: 0.1 * 3 is more than 0.3.
                slack = abs(scale) / 2 if name == "most" else -abs(scale) / 2
                values[beyond(values, np.float32((bound + slack) * factor)) & np.isfinite(values)] = np.nan
        else:
            values[beyond(stored, _restored(bound, sign, wrap, stored.dtype))] = np.nan
    return values


def _bounds(variable: Variable) -> tuple[float | None, float | None]:
    both = variable.numbers("valid_range")
    if len(both) not in (0, 2):
        raise UnreadableFile(
            f"attribute 'valid_range' of {variable.name!r} must be two numbers, is {list(both)[:5]}"
        )
    ends = []
    for index, name in enumerate(("valid_min", "valid_max")):
        one = variable.numbers(name)
        if len(one) > 1:
            raise UnreadableFile(
                f"attribute {name!r} of {variable.name!r} must be one number, is {list(one)[:5]}"
            )
        bound = both[index] if both else one[0] if one else None
        ends.append(None if bound is None or np.isnan(bound) else bound)
    return ends[0], ends[1]


def _sign(variable: Variable, most: float | None) -> str:
    """Return ``u`` or ``i`` where whole numbers are meant without or with a sign, else their own kind."""
    kind = variable.dtype.kind
    if kind in "iu" and (said := variable.text("_Unsigned").lower()) in ("true", "false"):
        return "u" if said == "true" else "i"
    if kind == "i" and variable.dtype.itemsize == 1 and most is not None and 127 < most <= 255:
        return "u"  # of bytes, the range tells (NetCDF User's Guide)
    return kind


def _is_scaled(variable: Variable, end: str) -> bool:
    """Return whether a bound is in the unit of the scaled values: a fraction's type beside whole numbers."""
    name = (
        "valid_range" if variable.numbers("valid_range") else {"least": "valid_min", "most": "valid_max"}[end]
    )
    kind = variable.type_of(name)
    return variable.dtype.kind in "iu" and kind is not None and kind.kind == "f"


def _signed(code: float, wrap: float) -> float:
    return code - wrap if code >= wrap / 2 else code


def _restored(bound: float, sign: str, wrap: float, kind: np.dtype[Any]) -> float:
    """Return a bound as the stored numbers are compared: with their sign, and in their precision."""
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return float(kind.type(bound))
    if sign == "u" and bound < 0:
        return bound % wrap
    return _signed(bound, wrap) if sign == "i" and bound >= wrap / 2 and kind.kind == "i" else bound
