"""The HTTP face of the service: parse, call :mod:`nowcast`, answer."""
