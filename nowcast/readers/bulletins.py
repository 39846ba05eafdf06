"""WMO bulletins: what telecommunication puts around a message, such as GRIB or BUFR, in a file.

Source: WMO Manual on the Global Telecommunication System (WMO-No. 386), part II, attachments II-4 and II-15.
"""

from __future__ import annotations

import re

#: One heading: the lengths some switches write (``****0000012345****``, or 8 digits and a format of 2), start
#: of heading, channel number, ``TTAAii CCCC YYGGgg`` with its amendment. Only the letters must be there.
_HEADING = re.compile(
    rb"(?:\*{4}\d{10}\*{4}\n)?(?:\d{10})?(?:\x01\r*\n)?(?:\d{3,5} ?\r*\n)?"
    rb"[A-Z]{4}\d{0,2} [A-Z]{4} \d{6}(?: [A-Z]{3})?[\r\n]+"
)


def after_heading(content: bytes) -> int:
    r"""Return at which byte a bulletin's message begins, 0 if there is no heading.

    Example:
        >>> after_heading(b"\x01\r\r\n123\r\r\nHZXX01 KWBC 010000\r\r\nGRIB")
        31
        >>> after_heading(b"GRIB")
        0
    """
    heading = _HEADING.match(content)
    return heading.end() if heading else 0
