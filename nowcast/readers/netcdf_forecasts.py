"""Whether a file's own words say that its field is a forecast, which is never taken for an observation.

The rule. Only words that describe the data count: a field's name, title, product and kind, and what a
comment or history calls the data; never an institution, a reference, a keyword or a licence. *Forecast*,
*nowcast*, *prediction* and the like condemn a field unless the words beside them turn them into something
else: a purpose ("input for nowcasting", "used in forecasts"), a denial ("not a forecast"), or a noun that is
observed or no field at all ("quantitative prediction estimate", "forecast centre"). *Simulated* and
*predicted* count in names only, for prose tells of much that was simulated.
"""

from __future__ import annotations

import re
from datetime import datetime

import numpy as np

from nowcast.errors import RefusedProduct
from nowcast.readers.netcdf import NetCDF, Variable
from nowcast.readers.netcdf_times import decode_times

#: Words that call a field a forecast wherever they stand, and those that do so in a name only.
_FORECAST = (
    r"forecasts?|forecasted|nowcasts?|nowcasted|forecasting|nowcasting|hindcasts?|reforecasts?|vorhersagen?"
)
_IN_NAMES = (
    r"predictions?|predicted|simulations?|simulated|extrapolated|prognosis|prognostic|prognose|lead ?times?"
)

_WORDS = re.compile(rf"\b(?:{_FORECAST})\b", re.IGNORECASE)
_NAME_WORDS = re.compile(rf"\b(?:{_FORECAST}|{_IN_NAMES})\b", re.IGNORECASE)

#: What may stand before such a word and make it a purpose, a denial or a place.
_BEFORE = re.compile(
    r"(?:\b(?:no|not|non|never|without|than|nor)\b(?:[ -](?!\d)[\w-]+){0,3}"
    r"|\b(?:inputs?|used|usable|useful|suitable|intended|designed|prepared|made|needed|provided|support|supports"
    r"|supporting|basis|observations?|data|domain|validat\w+|verif\w+|evaluat\w+|compar\w+)"
    r"(?: by| of| in| to| for| from| as| with)+(?:[ -](?!\d)[\w-]+){0,3}"
    r"|\b(?:for|domain))[ -]$",
    re.IGNORECASE,
)

#: What may follow it and be the thing that is meant.
_AFTER = re.compile(
    r"[ -](?:[\w-]+[ -]){0,2}?(?:estimates?|estimation|observations?|observed|verification|validation|input"
    r"|cent(?:er|re)s?|services?|office|department|institute|division|section|agency|group|team|purposes?"
    r"|applications?|users?|community|challenge|competition|benchmark|service-\w+)\b"
    r"|-(?:service|grade|quality)\b| (?:archive|ingest|up|worker)\b",
    re.IGNORECASE,
)

#: Distance [characters] within which words belong together.
_NEAR = 60


def forecast_word(text: str, *, is_prose: bool = False) -> str:
    """Return the word by which a text calls its field a forecast, empty if it does not.

    Args:
        text: A name, title or product; ``_`` counts as a space.
        is_prose: Whether it is a comment or a history, of which less is believed.

    Example:
        >>> forecast_word("pysteps-generated nowcast"), forecast_word("Radar composite for nowcasting")
        ('nowcast', '')
    """
    plain = re.sub(r"[\s_]+", " ", text)
    for match in (_WORDS if is_prose else _NAME_WORDS).finditer(plain):
        before = re.split(r"[.,;:()]", plain[max(match.start() - _NEAR, 0) : match.start()])[-1]
        after = re.split(r"[.,;:()]", plain[match.end() : match.end() + _NEAR])[0]
        if not _BEFORE.search(before) and not _AFTER.match(after):
            return match[0]
    return ""


#: Names of an axis along which a forecast reaches ahead, without ``_``, ``-`` and case.
_LEAD = re.compile(
    r"(?:forecast|fcst|nowcast|prediction|lead)(?:lead)?(?:times?|hours?|periods?|minutes?|steps?|s|length)?"
    r"|leads?|fhours?|fhr|fxx|steps?|tau"
)

#: Names of the time a forecast starts from, likewise.
_REFERENCE = re.compile(
    r"(?:forecast)?reference(?:time|date)|reftime|analysis(?:time|date)|issued?(?:time|date)|init(?:ial)?(?:time|date)"
    r"|(?:model)?run(?:time|date)|cycle(?:time)?"
)

#: Names of an axis along which an ensemble's members lie, likewise.
_MEMBER = re.compile(
    r"(?:ensemble)?members?|realizations?|realisations?|ens(?:number|emble|members?)?|numberofmembers"
)


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def is_lead(name: str) -> bool:
    """Return whether a dimension or coordinate of this name counts how far ahead a forecast reaches."""
    return _LEAD.fullmatch(_squeezed(name)) is not None


def is_bare(name: str) -> bool:
    """Return whether a name of a lead may as well be that of something else: a step between frames, say."""
    return not re.search("forecast|fcst|nowcast|prediction|leadt|leadh|leadp|leadm", _squeezed(name))


def is_reference(name: str) -> bool:
    """Return whether a coordinate of this name holds the time a forecast starts from."""
    return _REFERENCE.fullmatch(_squeezed(name)) is not None


def is_member(name: str) -> bool:
    """Return whether a dimension or coordinate of this name counts the members of an ensemble."""
    return _MEMBER.fullmatch(_squeezed(name)) is not None


#: Global attributes that name the data, and those that write about it.
NAMES = (
    "title",
    "product",
    "product_name",
    "product_type",
    "product_id",
    "type",
    "data_type",
    "dataset",
    "id",
)
PROSE = ("source", "comment", "comments", "summary", "description", "abstract", "history")

#: Attributes of a field that do the same.
FIELD_NAMES = ("standard_name", "long_name", "short_name", "product", "type")
FIELD_PROSE = ("comment", "description")

#: Farthest [days] that a forecast starts before it is valid; a time further back is an epoch, not its start.
FARTHEST_DAYS = 60.0


def refuse_forecast(file: NetCDF, field: Variable, times: list[datetime], time: Variable | None) -> None:
    """Refuse a field that its axes, its coordinates or its words call a forecast or a member of an ensemble.

    Args:
        file: The file.
        field: Its precipitation.
        times: When the field is valid.
        time: The coordinate these come from, ``None`` where they come from elsewhere.

    Raises:
        RefusedProduct: Saying what calls it a forecast.
    """
    name = field.name
    attached = {*field.dimensions, *field.text("coordinates").split()}
    for coordinate in file.variables.values():
        is_its_own = coordinate.name in attached or set(coordinate.dimensions) <= set(field.dimensions)
        if not is_its_own or not coordinate.is_numeric or len(coordinate.shape) > 1 or coordinate is field:
            continue
        kind = coordinate.text("standard_name")
        says_since = " since " in coordinate.text("units")
        if kind == "realization" or (is_member(coordinate.name) and coordinate.name in attached):
            raise RefusedProduct(f"{name!r} is of an ensemble, by its coordinate {coordinate.name!r}")
        is_ahead = is_lead(coordinate.name) and (coordinate.name in attached or not is_bare(coordinate.name))
        if kind == "forecast_period" or (is_ahead and not says_since):
            if np.any(coordinate.coordinate() > 0):
                raise RefusedProduct(f"{name!r} holds forecasts, by its coordinate {coordinate.name!r}")
        elif says_since and (kind == "forecast_reference_time" or is_reference(coordinate.name)):
            _refuse_later_than(coordinate, name, times)
        elif (
            says_since and time is not None and coordinate is not time and coordinate.name in field.dimensions
        ):
            raise RefusedProduct(
                f"{name!r} has the times {time.name!r} and {coordinate.name!r}: one a forecast's start, "
                "the other when it is valid"
            )
    for dimension, length in zip(field.dimensions, field.shape, strict=True):
        if is_member(dimension):
            raise RefusedProduct(f"{name!r} has {length} members of an ensemble along {dimension!r}")
        if is_lead(dimension) and (length > 1 or dimension not in file.variables):
            raise RefusedProduct(f"{name!r} holds forecasts, by its dimension {dimension!r}")
    for holder in (field.attributes, file.attributes):
        for key, value in holder.items():
            if is_lead(key) and not is_bare(key) and re.match(r"\W*0*[1-9]|\W*0+\.0*[1-9]", str(value)):
                raise RefusedProduct(f"{name!r} is a forecast, by its attribute {key} = {str(value)[:40]}")
    if said := _said(file, field, time):
        raise RefusedProduct(f"{name!r} is a forecast: {said}; a forecast is not taken for an observation")


def _refuse_later_than(reference: Variable, name: str, times: list[datetime]) -> None:
    starts = decode_times(reference)
    for start, valid in zip(
        starts if len(starts) == len(times) else starts[:1] * len(times), times, strict=True
    ):
        if 0 < (valid - start).total_seconds() < FARTHEST_DAYS * 86_400:
            raise RefusedProduct(
                f"{name!r} is a forecast, by its coordinate {reference.name!r}: made for "
                f"{valid:%Y-%m-%dT%H:%MZ}, from {start:%Y-%m-%dT%H:%MZ}"
            )


def _said(file: NetCDF, field: Variable, time: Variable | None) -> str:
    """Return which words call the field a forecast, empty if none do."""
    texts = [("name", field.name, False)]
    texts += [(key, field.text(key), False) for key in FIELD_NAMES]
    texts += [(key, field.text(key), True) for key in FIELD_PROSE]
    if time is not None:
        texts += [("time", time.name, False), ("time's long_name", time.text("long_name"), False)]
    texts += [(key, file.text(key), False) for key in NAMES]
    texts += [(key, file.text(key), True) for key in PROSE]
    for what, text, is_prose in texts:
        if word := forecast_word(text, is_prose=is_prose):
            return f"its {what} {text[:100]!r} says {word.lower()!r}"
    return ""


def is_named_forecast(field: Variable) -> bool:
    """Return whether a variable's own names call it a forecast, whatever the file around it is."""
    return any(forecast_word(text) for text in (field.name, *map(field.text, FIELD_NAMES)))
