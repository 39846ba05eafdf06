"""The methods there are, by name; what one of them needs is loaded when it is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from nowcast.compute import Compute
from nowcast.errors import MissingExtra, UnknownModel
from nowcast.names import AUTO, BLEND, EXTRAPOLATION, NETWORKS, PERSISTENCE, SPROG

if TYPE_CHECKING:  # what a method is made of takes a second to load
    from nowcast.methods.method import Method, Methods


def _class(module: str, name: str) -> Callable[[Compute], Method]:
    """Return what makes a method from a class of :mod:`nowcast.methods` that needs no means."""

    def make(compute: Compute) -> Method:
        method: Method = getattr(import_module(f"nowcast.methods.{module}"), name)()
        return method

    return make


def _auto(compute: Compute) -> Method:
    from nowcast.methods.auto import Auto
    from nowcast.methods.shipped_scores import shipped_prior

    return Auto(METHODS, compute, shipped_prior())


def _network(name: str, compute: Compute) -> Method:
    """Return a network; PyTorch, which takes seconds and may be absent, is loaded only now."""
    try:
        from nowcast.methods.networks.loading import network
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise MissingExtra(
            f"{name} needs {error.name}, which is not installed: pip install 'nowcast-service[network]'"
        ) from error
    return network(name, compute)


#: Every forecasting method by name, made with the means there are. Called for each forecast, so one that
#: loads weights keeps them.
METHODS: dict[str, Callable[[Compute], Method]] = {
    AUTO: _auto,
    PERSISTENCE: _class("extrapolation", "Persistence"),
    EXTRAPOLATION: _class("extrapolation", "Extrapolation"),
    SPROG: _class("sprog", "SPROG"),
    BLEND: _class("blend", "Blend"),
    **{name: partial(_network, name) for name in NETWORKS},
}


def made(name: str, compute: Compute, methods: Methods = METHODS) -> Method:
    """Return a method.

    Raises:
        UnknownModel: If there is none of that name.
        NowcastError: What keeps it from being made: no weights, no device, no PyTorch.
    """
    if name not in methods:
        raise UnknownModel(f"expected a model among {', '.join(sorted(methods))}, got {name!r}")
    return methods[name](compute)
