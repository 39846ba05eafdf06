"""Which variable of a CF netCDF file is the precipitation, and what its numbers are.

Unit and standard name decide; other words decide only where there is no standard name of precipitation.
Source: CF Conventions 1.11, sections 3.1 (units), 3.3 (standard names), 3.4 (ancillary data).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nowcast.errors import RefusedProduct
from nowcast.frame.declared import Declared
from nowcast.frame.frame import Quantity
from nowcast.frame.rain_units import rain_unit
from nowcast.readers.netcdf import NetCDF, Variable
from nowcast.readers.netcdf_forecasts import is_named_forecast, refuse_forecast
from nowcast.readers.placement import RADOLAN_PLANE, Placement, place
from nowcast.readers.source import Limits

#: Standard names of the three quantities, as CF's table has them.
STANDARD_NAMES = frozenset(
    (
        "equivalent_reflectivity_factor",
        "rainfall_rate",
        "rainfall_flux",
        "rainfall_amount",
        "precipitation_flux",
        "precipitation_amount",
        "lwe_precipitation_rate",
        "lwe_thickness_of_precipitation_amount",
        "thickness_of_rainfall_amount",
    )
)

#: Parts of names one of which a field of rain must have, where it has no such standard name.
WANTED_WORDS = ("rain", "precip", "reflectivity", "dbz", "qpe")

#: Words that make something else of it: a field about the rain, or of something measured with it.
OTHER_WORDS = re.compile(
    r"\b(?:terrain|orograph\w*|errors?|uncertaint\w+|probabilit\w+|deviation|std|stddev|variance|velocit\w+|masks?"
    r"|flags?|counts?|threshold|detectable|noise|bias|percentiles?|indicator)\b"
    r"|\bquality\b(?![ -](?:controlled|checked|assured))|\bnumber of\b"
)

#: Words that do so in a length: what is high is measured in metres, but so is "precipitation height".
HEIGHT_WORDS = re.compile(r"\b(?:heights?|altitude|elevation|depth of (?!rain|precip)|top|base)\b")
RAIN_HEIGHT = re.compile(r"\b(?:rain\w*|precip\w*) (?:height|depth)")

#: Which quantity is read where a file offers several: reflectivity needs no Z-R relation.
PREFERENCE = (Quantity.DBZH, Quantity.RATE, Quantity.ACRR)

#: RADOLAN products that are written to netCDF without their units: quantity and interval in minutes (DWD,
#: RADOLAN/RADVOR-OP Beschreibung des Kompositformats, version 2.5). Believed only on the RADOLAN grid.
RADOLAN_PRODUCTS = {"RY": (Quantity.ACRR, 5.0)}


@dataclass(frozen=True)
class Field:
    """The precipitation of a file.

    Attributes:
        file: The file, seen from the group that holds it.
        variable: The variable.
        quantity: What its numbers are.
        factor: From its unit to the quantity's.
        placement: Where its cells lie.
    """

    file: NetCDF
    variable: Variable
    quantity: Quantity
    factor: float
    placement: Placement

    @property
    def is_radolan(self) -> bool:
        """Whether it is a RADOLAN product on its own grid."""
        return self.placement.note.startswith(RADOLAN_PLANE) and self.variable.name in RADOLAN_PRODUCTS


def find_field(file: NetCDF, limits: Limits, declared: Declared) -> Field:
    """Return the precipitation of a file.

    Of groups the outermost that holds any counts.

    Raises:
        RefusedProduct: If no variable is precipitation, several are, or a declaration contradicts the file.
    """
    if declared.variable:
        return _declared_field(file, limits, declared)
    views = sorted((file, *file.groups), key=lambda view: view.path.count("/"))
    for depth in sorted({view.path.count("/") for view in views}):
        level = [view for view in views if view.path.count("/") == depth]
        found = [candidate for view in level for candidate in _candidates(view)]
        if any(not is_named_forecast(candidate[1]) for candidate in found):
            found = [candidate for candidate in found if not is_named_forecast(candidate[1])]
        for quantity in PREFERENCE:
            of_kind = [candidate for candidate in found if candidate[2] is quantity]
            if len(of_kind) > 1:
                names = [f"{view.path}/{variable.name}".removeprefix("/") for view, variable, _, _ in of_kind]
                raise RefusedProduct(f"several variables may be the precipitation: {names}")
            if of_kind:
                view, variable, stated, factor = of_kind[0]
                meaning = declared.meaning_beside((stated, factor), variable.text("units"))
                return Field(view, variable, *(meaning or (stated, factor)), _placed(view, variable, limits))
    return _unlabelled(file, limits, declared)


def _placed(view: NetCDF, variable: Variable, limits: Limits) -> Placement:
    """Return where a field lies, once neither its words nor its axes call it a forecast."""
    refuse_forecast(view, variable, [], None)
    return place(view, variable, limits)


def _candidates(view: NetCDF) -> Iterator[tuple[NetCDF, Variable, Quantity, float]]:
    about_others = {
        name for variable in view.variables.values() for name in variable.text("ancillary_variables").split()
    }
    for name in view.variables:
        variable = view.variables[name]
        known = rain_unit(variable.text("units"))
        if name not in view.own or not variable.is_numeric or len(variable.shape) < 2 or known is None:
            continue
        if name not in about_others and is_precipitation(variable, known[0]):
            yield view, variable, *known


def is_precipitation(variable: Variable, quantity: Quantity) -> bool:
    """Return whether a variable in a unit of ``quantity`` is precipitation, by its names."""
    standard_name, _, modifier = variable.text("standard_name").partition(" ")
    if standard_name in STANDARD_NAMES:
        return not modifier
    names = " ".join((variable.name, variable.text("standard_name"), variable.text("long_name")))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", names).replace("_", " ").lower()
    if OTHER_WORDS.search(plain):
        return False
    if quantity is Quantity.ACRR and HEIGHT_WORDS.search(RAIN_HEIGHT.sub("", plain)):
        return False
    return quantity.is_reflectivity or any(word in plain for word in WANTED_WORDS)


def _unlabelled(file: NetCDF, limits: Limits, declared: Declared) -> Field:
    """Return the field of a file that states no unit, if it is known without or declared."""
    for product, (quantity, _) in RADOLAN_PRODUCTS.items():
        unlabelled = file.variables.get(product)
        if unlabelled is not None and len(unlabelled.shape) >= 2 and not unlabelled.text("units"):
            placement = _placed(file, unlabelled, limits)
            if placement.note.startswith(RADOLAN_PLANE):
                meaning = declared.meaning_beside((quantity, 1.0), f"of RADOLAN {product}")
                return Field(file, unlabelled, *(meaning or (quantity, 1.0)), placement)
    if declared.meaning is not None:
        images = [
            (view, view.variables[name])
            for view in (file, *file.groups)
            for name in view.own
            if _may_be_declared(view.variables[name], declared.meaning[0])
        ]
        if len(images) == 1:
            view, variable = images[0]
            return Field(view, variable, *declared.meaning, _placed(view, variable, limits))
        if images:
            names = sorted(variable.name for _, variable in images)
            raise RefusedProduct(f"several variables may be the declared precipitation: {names}")
    raise RefusedProduct(_why_nothing(file))


def _may_be_declared(variable: Variable, quantity: Quantity) -> bool:
    is_open = variable.is_numeric and len(variable.shape) >= 2 and rain_unit(variable.text("units")) is None
    return is_open and is_precipitation(variable, Quantity.ACRR if quantity.is_reflectivity else quantity)


def _declared_field(file: NetCDF, limits: Limits, declared: Declared) -> Field:
    """Return the field a person names, by its name or with the path of its group before it."""
    path, _, name = f"/{declared.variable.strip('/')}".rpartition("/")
    views = [view for view in (file, *file.groups) if name in view.own and (view.path == path or not path)]
    if len(views) != 1:
        fields = ", ".join(
            f"{view.path}/{name}".removeprefix("/")
            for view in (file, *file.groups)
            for name in sorted(view.own)
            if len(view.variables[name].shape) >= 2
        )
        raise RefusedProduct(
            f"expected one variable {declared.variable!r}, found {len(views)}; its fields are "
            f"{fields[:200] or 'none'}"
        )
    view, variable = views[0], views[0].variables[name]
    if not variable.is_numeric or len(variable.shape) < 2:
        raise RefusedProduct(f"variable {declared.variable!r} is no field of numbers")
    unit = variable.text("units")
    meaning = declared.meaning_beside(rain_unit(unit), unit)
    if meaning is None:
        raise RefusedProduct(
            f"variable {name!r} {_stated(unit)} rate, amount or reflectivity; nothing is guessed"
        )
    return Field(view, variable, *meaning, _placed(view, variable, limits))


def _stated(unit: str) -> str:
    return f"states the unit {unit!r}, which is no known" if unit else "states no unit, so it may be any"


def _why_nothing(file: NetCDF) -> str:
    images = [
        view.variables[name]
        for view in (file, *file.groups)
        for name in view.variables
        if name in view.own and len(view.variables[name].shape) >= 2 and view.variables[name].is_numeric
    ]
    for variable in images:
        if is_precipitation(variable, Quantity.RATE):
            unit = variable.text("units")
            return (
                f"variable {variable.name!r} {_stated(unit)} rate, amount or reflectivity; nothing is guessed"
            )
    fields = ", ".join(image.name for image in images)[:200]
    return f"holds no precipitation; its fields are {fields or 'none'}"
