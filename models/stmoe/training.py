"""The four stages in which an STMoE learns: what is trained, on what, against which loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.forecaster import Forecaster, pad_to_multiple
from models.stmoe.network import ADDLExpert, STMoE, mix, new_expert
from models.stmoe.physics import KINDS

#: Learning rate of Adam for every stage, 1 / step. The paper gives none.
LEARNING_RATES = {"A1": 1e-3, "A2": 1e-3, "B1": 1e-3, "B2": 1e-4}
#: Sequences in a batch. The paper gives none.
BATCH_SIZE = 16
#: Largest share of the global stages' steps that the first of them, the gates', should take.
GATES_SHARE = 0.2


class Stage(NamedTuple):
    """One stage, ready to train: minimise ``forecaster.training_loss(...)["loss"]`` over ``parameters``.

    Attributes:
        name: A1 decoder, A2 an expert (both local), B1 gates, B2 the whole (both global).
        data: Kind of synthetic sequences (:class:`models.stmoe.physics.PhysicsSequences`), or ``"rain"``.
        forecaster: What forecasts and knows its loss; it shares the network's weights.
        parameters: What is trained; all else is frozen.
        learning_rate: Of Adam.
    """

    name: str
    data: str
    forecaster: Forecaster
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float


def stages(network: STMoE) -> Iterator[Stage]:
    """Yield all stages in order; each freezes and unfreezes parts when it is reached.

    An identity has nothing to learn, so a network without a decoder has no A1; one without gates has no B1.
    """
    if any(True for _ in network.decoder.parameters()):
        yield decoder_stage(network)
    for kind in KINDS:
        yield expert_stage(network, kind)
    if network.gating is not None:
        yield gates_stage(network)
    yield whole_stage(network)


def decoder_stage(network: STMoE) -> Stage:
    """Return stage A1: the decoder learns, together with an encoder that is thrown away, from all kinds.

    Raises:
        ValueError: If the decoder is an identity.
    """
    _freeze(network)
    encoder = new_expert(network.config).to(next(network.experts.parameters()))
    _thaw(network.decoder, "a decoder")
    return _stage("A1", "all", network.alone(encoder))


def expert_stage(network: STMoE, kind: str) -> Stage:
    """Return stage A2 of the expert for ``kind``: it learns from its kind, the decoder frozen.

    Experts know nothing of each other, so copies of the network may train them at the same time. A MIM's loss
    is the mean squared error of its free-running forecast, an ADDL's is its own.
    """
    _freeze(network)
    expert = network.experts[KINDS.index(kind)]
    _thaw(expert, "an expert")
    return _stage("A2", kind, expert.addl if isinstance(expert, ADDLExpert) else network.alone(expert))


def gates_stage(network: STMoE) -> Stage:
    """Return stage B1: only the gates learn, from rain.

    Raises:
        ValueError: If the network has no gates.
    """
    _freeze(network)
    _thaw(network.gating, "gates")
    return _stage("B1", "rain", network)


def whole_stage(network: STMoE) -> Stage:
    """Return stage B2: everything learns, from rain."""
    _thaw(network, "a network")
    return _stage("B2", "rain", network)


@torch.no_grad()
def window_features(network: STMoE, x: Tensor, target: Tensor) -> Tensor:
    """Return what the experts say of the true windows ``(b, lead, m, c, y, x)``, on the padded grid.

    While experts are frozen this never changes: it can be kept from one pass over the data to the next, and
    stage B1 costs no more than its gates.

    Args:
        network: The network, its experts in evaluation mode, as :func:`gates_stage` leaves them.
        x: Observed frames ``(b, t, 1, y, x)``.
        target: Frames that followed ``(b, lead, 1, y, x)``.
    """
    windows = _true_windows(network, x, target)
    features, _ = network.encode(windows.flatten(0, 1), [None] * len(network.experts))
    stacked = torch.stack(features, dim=1)
    return stacked.view(*windows.shape[:2], *stacked.shape[1:])


def gates_loss(
    network: STMoE, features: Tensor, x: Tensor, target: Tensor, *, valid: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the loss of stage B1 with true frames fed back, from features of :func:`window_features`.

    It is that of the whole network with all true frames as its teacher.
    """
    windows = _true_windows(network, x, target)
    weights = network.weigh(windows.flatten(0, 1))
    forecast = network.decoder(mix(features.flatten(0, 1).unbind(1), weights))
    height, width = target.shape[-2:]
    forecast, weights = (
        tensor.reshape(*windows.shape[:2], *tensor.shape[1:])[..., :height, :width]
        for tensor in (forecast, weights)
    )
    return network.loss_of(forecast, weights, target, valid)


def _true_windows(network: STMoE, x: Tensor, target: Tensor) -> Tensor:
    """Return the frames each lead is made from ``(b, lead, t, 1, y, x)`` if all are true."""
    count = network.frames
    frames = pad_to_multiple(torch.cat([x[:, -count:], target[:, :-1]], dim=1), network.stride)
    return frames.unfold(1, count, 1).movedim(-1, 2)


def _freeze(network: STMoE) -> None:
    network.requires_grad_(False)


def _thaw(part: nn.Module | None, name: str) -> None:
    if part is None or not any(True for _ in part.parameters()):
        raise ValueError(f"expected {name} with parameters to train, got none")
    part.requires_grad_(True)


def _stage(name: str, data: str, forecaster: Forecaster) -> Stage:
    """Return a stage that trains whatever is not frozen, in training mode."""
    forecaster.train()
    trained = tuple(parameter for parameter in forecaster.parameters() if parameter.requires_grad)
    return Stage(name, data, forecaster, trained, LEARNING_RATES[name])
