"""What a person says of files that cannot say it themselves: quantity, unit, variable, interval and time.

A declaration fills a gap and never wins over the file: where both speak and differ, the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from nowcast.errors import RefusedProduct, SettingsError, UnreadableFile
from nowcast.frame.domain import Domain
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.rain_units import rain_unit

#: Unit that goes without saying with a quantity.
UNITS = {Quantity.DBZH: "dBZ", Quantity.TH: "dBZ", Quantity.RATE: "mm/h", Quantity.ACRR: "mm"}

#: What each directive of a time format stands for in a file's name.
_DIRECTIVES = {
    **dict.fromkeys("mdHMSy", r"\d{2}"),
    "Y": r"\d{4}",
    "j": r"\d{3}",
    "b": r"[A-Za-z]{3}",
    "%": "%",
}


@dataclass(frozen=True)
class Declared:
    """What a person declares; empty or ``None`` where nothing is.

    Attributes:
        quantity: What the numbers are: ``DBZH``, ``TH``, ``RATE`` or ``ACRR``.
        unit: Their unit in any spelling; left out, dBZ, mm/h or mm after the quantity.
        variable: Name of the field, in a format whose files hold several.
        step_minutes: Interval a sum covers, or nominal step of the frames.
        time_format: How the time (UTC) is written in a file's name, as for :meth:`datetime.strptime`.

    Raises:
        SettingsError: If the declarations contradict each other or mean nothing.
    """

    quantity: str = ""
    unit: str = ""
    variable: str = ""
    step_minutes: float | None = None
    time_format: str = ""

    def __post_init__(self) -> None:
        """Refuse what can never be obeyed."""
        if self.quantity and self.quantity not in list(Quantity):
            raise SettingsError(f"expected a quantity of {', '.join(Quantity)}, got {self.quantity!r}")
        if self.unit:
            known = rain_unit(self.unit)
            if known is None:
                raise SettingsError(f"expected a unit of dBZ, rain rate or amount, got {self.unit!r}")
            if self.quantity and _is_other(Quantity(self.quantity), known[0]):
                raise SettingsError(f"{self.quantity} is not counted in {self.unit!r}")
        if self.step_minutes is not None and not 0 < self.step_minutes <= 1440:
            raise SettingsError(f"expected a step from 0 to 1440 minutes, got {self.step_minutes:g}")
        if self.time_format:
            _pattern(self.time_format)

    def __bool__(self) -> bool:
        """Return whether anything is declared."""
        return self != Declared()

    def __str__(self) -> str:
        """Return what is declared as ``key=value`` pairs, for the record."""
        return " ".join(f"{key}={value}" for key, value in self.said().items())

    def said(self) -> dict[str, Any]:
        """Return what is declared by name, without the rest; ``Declared(**said)`` is the same again."""
        return {part.name: value for part in fields(self) if (value := getattr(self, part.name))}

    @property
    def meaning(self) -> tuple[Quantity, float] | None:
        """The quantity and the factor to its unit, ``None`` where neither quantity nor unit are declared."""
        if not self.quantity and not self.unit:
            return None
        quantity, factor = rain_unit(self.unit or UNITS[Quantity(self.quantity)]) or (Quantity.DBZH, 1.0)
        return (Quantity(self.quantity), factor) if self.quantity else (quantity, factor)

    def meaning_beside(
        self, stated: tuple[Quantity, float] | None, unit: str
    ) -> tuple[Quantity, float] | None:
        """Return what the numbers are: as the file states, else as declared, ``None`` if both are silent.

        Args:
            stated: Quantity and factor the file states, if it does.
            unit: How it states them.

        Raises:
            RefusedProduct: If the declaration is another.
        """
        declared = self.meaning
        if stated is None or declared is None:
            return stated or declared
        if _is_other(*(meaning[0] for meaning in (declared, stated))) or (
            self.unit and abs(declared[1] - stated[1]) > 1e-6 * stated[1]
        ):
            raise RefusedProduct(f"is declared as {self._what()}, but states the unit {unit!r}")
        return declared[0], stated[1]

    def interval(self, stated: float | None) -> float | None:
        """Return the interval [minutes] of a frame: what the file states, else what is declared.

        Raises:
            RefusedProduct: If both are there and differ.
        """
        if stated is not None and self.step_minutes is not None and abs(stated - self.step_minutes) > 0.01:
            raise RefusedProduct(f"is declared to step {self.step_minutes:g} minutes, but says {stated:g}")
        return self.step_minutes if stated is None else stated

    def time_in(self, name: str) -> datetime | None:
        """Return the time (UTC) in a file's name by the declared format, ``None`` if no format is declared.

        Raises:
            UnreadableFile: If the name holds no such time, or two different ones.
        """
        if not self.time_format:
            return None
        found = set()
        for text in _pattern(self.time_format).findall(name):
            try:
                found.add(datetime.strptime(text, self.time_format).replace(tzinfo=UTC))
            except ValueError:  # digits, but no date
                continue
        if len(found) != 1:
            raise UnreadableFile(
                f"expected one time as {self.time_format} in the name {name!r}, found "
                f"{', '.join(sorted(f'{moment:%Y-%m-%dT%H:%M}' for moment in found)) or 'none'}"
            )
        return found.pop()

    def _what(self) -> str:
        return " in ".join(part for part in (self.quantity, self.unit) if part)


def _is_other(one: Quantity, other: Quantity) -> bool:
    return one is not other and not (one.is_reflectivity and other.is_reflectivity)


def _pattern(time_format: str) -> re.Pattern[str]:
    """Return the expression for a time in a name: no digits around it, so it is none of a longer number."""
    parts = re.findall(r"%(.)|([^%]+)", time_format, re.DOTALL)
    unknown = [f"%{letter}" for letter, _ in parts if letter and letter not in _DIRECTIVES]
    day = {letter for letter, _ in parts}
    has_day = "Y" in day | {"Y" if "y" in day else ""} and (
        {"m", "d"} <= day or {"b", "d"} <= day or "j" in day
    )
    if unknown or not has_day or not {"H", "M"} <= day:
        raise SettingsError(
            f"expected a time format with year, day, hour and minute, such as %Y%m%d%H%M, got {time_format!r}"
        )
    body = "".join(_DIRECTIVES[letter] if letter else re.escape(text) for letter, text in parts)
    return re.compile(rf"(?<!\d){body}(?!\d)")


def declared_in(domain: Domain | None) -> Declared:
    """Return what a domain declares of its files.

    Its step is also the interval of sums whose files do not tell it, where the domain says that they are
    sums.
    """
    if domain is None:
        return Declared()
    said = Declared(domain.quantity, domain.unit, domain.variable, None, domain.time_format)
    is_sum = said.meaning is not None and said.meaning[0] is Quantity.ACRR
    return replace(said, step_minutes=float(domain.step_minutes)) if is_sum else said


def obeyed(frames: Iterator[RawFrame], declared: Declared, name: str) -> Iterator[RawFrame]:
    """Yield frames with what was declared of them, recorded in ``declared``.

    The gaps that only a reader can fill it has filled; here every format's frames are compared with the rest.

    Raises:
        RefusedProduct: If a frame says otherwise, or its format has no variables to choose from.
        UnreadableFile: If the name holds no time of the declared format.
    """
    moment = declared.time_in(name)
    previous: RawFrame | None = None
    for raw in frames:
        if declared.quantity and _is_other(Quantity(declared.quantity), raw.quantity):
            raise RefusedProduct(f"{name}: is declared as {declared.quantity}, but holds {raw.quantity}")
        if (
            declared.unit
            and (known := rain_unit(declared.unit))
            and _is_other(known[0], raw.quantity)
            and not declared.quantity
        ):
            raise RefusedProduct(f"{name}: is declared in {declared.unit!r}, but holds {raw.quantity}")
        if declared.variable and raw.attributes.get("variable") != declared.variable:
            raise RefusedProduct(f"{name}: variable {declared.variable!r} cannot be chosen in this format")
        try:
            interval = declared.interval(raw.interval_minutes)
        except RefusedProduct as error:
            raise RefusedProduct(f"{name}: {error}") from error
        quantity = Quantity(declared.quantity) if declared.quantity else raw.quantity
        notes: Mapping[str, str | float | int] = {**raw.attributes, "declared": str(declared)}
        if previous is not None:
            yield previous
            moment = None  # of several times none is the name's
        previous = replace(raw, quantity=quantity, interval_minutes=interval, attributes=dict(notes))
        if moment is None:
            yield previous
            previous = None
    if previous is not None:
        if moment is not None and previous.time != moment:
            raise RefusedProduct(
                f"{name}: its name is declared to say {moment:%Y-%m-%dT%H:%M:%SZ}, but it holds "
                f"{previous.time:%Y-%m-%dT%H:%M:%SZ}"
            )
        yield previous
