"""Words by which a file says that it holds a forecast, which is never taken for an observation."""

from __future__ import annotations

import re

from nowcast.errors import RefusedProduct

#: What forecasts are called in file names, headers and tags. "nowcasting" is left out: observations are made
#: for it.
WORDS = re.compile(
    r"(?<![a-z])(forecast(?:s|ed)?|fcst|nowcast(?:s|ed)?|predict(?:ed|ions?)|prognos(?:is|tic|e)|"
    r"vorhersage|prevision|extrapolat(?:ed|ions?)|lead[ _-]?time)(?![a-z])",
    re.IGNORECASE,
)

#: A statement that something is no forecast: a word of denial, or a lead time of zero.
_DENIAL = re.compile(r"(no|none|false|n/?a|[-+]?0+(\.0*)?\s*[a-z]*|)", re.IGNORECASE)


def denies(text: str) -> bool:
    """Return whether the text of an item about forecasts says that there is none.

    Example:
        >>> denies("0 sec"), denies("no"), denies("600")
        (True, True, False)
    """
    return _DENIAL.fullmatch(text.strip()) is not None


def refuse_forecast(name: str, *texts: str) -> None:
    """Refuse a file whose name or descriptions call it a forecast.

    Raises:
        RefusedProduct: If one of them does.
    """
    for text in (name, *texts):
        word = WORDS.search(text)
        if word:
            raise RefusedProduct(
                f"{name}: expected an observation, but {text.strip()[:80]!r} says {word[0]!r}: "
                "a forecast is not taken for one"
            )
