"""Gradient switches of SCS: which edges carry no gradient in an iteration, and how often."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

#: How the draws for the two edges of a layer depend on one another; see :func:`draw_cuts`.
Coupling = Literal["independent", "never_both", "complementary"]

#: Weight of the past in the running means of losses, per iteration.
LOSS_MEMORY = 0.98

#: Iterations over which the loss at the start is averaged.
FIRST_ITERATIONS = 50

#: Threshold of the spatial loss as a share of the loss at the start: 1 of ln 400 = 5.99, as the authors'
#: code has it for 400 classes.
THRESHOLD_SHARE = 1 / 5.99

#: Losses are taken as at least this where they divide.
TINY = 1e-8


class Edges(NamedTuple):
    """Gates of the two edges into one layer at one time: what gradients through them are multiplied by.

    Attributes:
        spatial: Of the edge to the spatial convolution.
        temporal: Of the edge to the temporal convolution.
    """

    spatial: float = 1.0
    temporal: float = 1.0


#: Both edges carry their gradients.
OPEN = Edges()


class Shares(NamedTuple):
    """How probably an edge is cut.

    Attributes:
        spatial: p_s.
        temporal: p_t.
    """

    spatial: float
    temporal: float


class _Edge(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, gate: float) -> Tensor:
        ctx.gate = gate
        return u.view_as(u)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.gate * gradients[0], None


def switched(u: Tensor, gate: float) -> Tensor:
    r"""Return ``u``, bit for bit, on an edge that multiplies gradients by ``gate``.

    .. math:: \gamma \frac{\partial E}{\partial u} \text{ in place of } \frac{\partial E}{\partial u}

    A gate of 1 leaves everything as it is; one of 0 ends the graph here, so that what was to be thrown away
    is not computed.

    Example:
        >>> u = torch.ones(2, requires_grad=True)
        >>> switched(u, 0.5).sum().backward()
        >>> u.grad
        tensor([0.5000, 0.5000])
    """
    if gate == 1:
        return u
    if gate == 0:
        return u.detach()
    edge: Tensor = _Edge.apply(u, gate)  # type: ignore[no-untyped-call]
    return edge


def draw_cuts(
    shares: Shares,
    count: int,
    *,
    coupling: Coupling = "independent",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return which of ``count`` pairs of edges are cut: boolean ``(count,)`` spatial, and the same temporal.

    Args:
        shares: How probably each edge of a pair is cut.
        count: Number of pairs.
        coupling: ``"independent"``: two draws a pair (the paper's eq. 19). ``"never_both"``: as before, but
            where both would be cut, the temporal edge is opened again if it is cut less than half the time,
            else the spatial one (the authors' code). ``"complementary"``: one draw, exactly one edge is cut.
        generator: Source of the draws, which are made on the CPU.

    Raises:
        ValueError: If exactly one edge is to be cut, but the shares do not add up to 1.
    """
    _check_shares(shares, coupling)
    cut = torch.rand(2, count, generator=generator) < torch.tensor(shares)[:, None]
    spatial, temporal = cut.unbind(0)
    if coupling == "complementary":
        return ~temporal, temporal
    if coupling == "never_both":
        both = spatial & temporal
        if shares.temporal < 0.5:
            temporal = temporal & ~both
        else:
            spatial = spatial & ~both
    return spatial, temporal


def cut_shares(shares: Shares, coupling: Coupling = "independent") -> Shares:
    """Return how probably each edge is cut once the draws are coupled.

    Example:
        >>> cut_shares(Shares(spatial=0.5, temporal=0.5), "never_both")
        Shares(spatial=0.25, temporal=0.5)
    """
    _check_shares(shares, coupling)
    spatial, temporal = shares
    if coupling == "never_both":
        if temporal < 0.5:
            return Shares(spatial, temporal * (1 - spatial))
        return Shares(spatial * (1 - temporal), temporal)
    return shares


def draw_edges(
    shares: Shares,
    steps: int,
    layers: int,
    *,
    coupling: Coupling = "independent",
    rescale: bool = False,
    generator: torch.Generator | None = None,
) -> list[list[Edges]]:
    r"""Return the gates of every layer at every step, ``[step][layer]``, one for the whole batch.

    The edges into the lowest layer are never cut, or what lies before it would starve.

    Convention: the paper holds the expected gradient for the true one where ``p_s = p_t``. It is not: a
    weight ``k`` layers below the loss is left with :math:`(1 - p)^k` of its gradient. With ``rescale`` an
    open edge multiplies by :math:`1 / (1 - p)`, which makes up for it at every depth, as a path through the
    network crosses each layer at each time but once.

    Args:
        shares: How probably each edge is cut, before coupling.
        steps: Number of time steps.
        layers: Number of layers.
        coupling: See :func:`draw_cuts`.
        rescale: Whether the expected gradient is the true one.
        generator: Source of the draws.

    References:
        The paper's eq. 17 and 18. With rescaling this is what dropout does, for gradients.
    """
    above = layers - 1
    cuts = draw_cuts(shares, steps * above, coupling=coupling, generator=generator)
    gates = []
    for cut, share in zip(cuts, cut_shares(shares, coupling), strict=True):
        opened = 1 / (1 - share) if rescale and share < 1 else 1.0
        gates.append([0.0 if closed else opened for closed in cut.tolist()])
    edges = [Edges(*pair) for pair in zip(*gates, strict=True)]
    return [[OPEN, *edges[step * above : (step + 1) * above]] for step in range(steps)]


def falling_share(progress: float, *, start: float = 0.5, until: float = 0.6) -> float:
    """Return the probability p of cutting either edge in STSGD: ``start``, falling linearly to 0.

    Convention: the paper gives where p starts (0, 0.3 or 0.5) and that it falls to 0, not how.

    Example:
        >>> falling_share(0.0), falling_share(0.3), falling_share(0.6), falling_share(1.0)
        (0.5, 0.25, 0.0, 0.0)
    """
    return start * max(0.0, 1 - progress / until)


def temporal_share(
    spatial_loss: float,
    main_loss: float,
    initial_loss: float,
    *,
    threshold: float,
    alpha: float = 1.0,
    lowest: float = 0.5,
    clamp: bool = True,
) -> float:
    r"""Return the probability q of cutting the temporal edge in ASTSGD; the spatial one is cut with 1 - q.

    With the losses of the spatial sub-goal :math:`L_s` and of the main goal :math:`L_g`,

    .. math::
        q = q_0 + (1 - q_0) \frac{\max(0, L_s - \theta)}{L_g^{init} - \theta}
            \left[\alpha \left(\frac{L_g}{L_s} - 1\right) + 1\right]

    so that space is learnt first, and time once space is known.

    Convention: the paper calls q a probability, but the formula leaves [0, 1]; here it is clamped.

    Args:
        spatial_loss: L_s.
        main_loss: L_g.
        initial_loss: L_g at the start of the training.
        threshold: theta, the spatial loss at which q reaches its lowest.
        alpha: How strongly the quotient of the losses counts; smaller for tasks that live on space.
        lowest: q_0.
        clamp: Whether q is kept in [0, 1].

    References:
        The paper's eq. 19 and 20.

    Example:
        >>> temporal_share(2.0, 3.0, 3.5, threshold=0.5, alpha=0.5)
        0.8125
    """
    ahead = max(0.0, spatial_loss - threshold) / max(initial_loss - threshold, TINY)
    balance = alpha * (main_loss / max(spatial_loss, TINY) - 1) + 1
    share = lowest + (1 - lowest) * ahead * balance
    return min(1.0, max(0.0, share)) if clamp else share


class LossMonitor(nn.Module):
    """What ASTSGD knows of the training: running means of two losses, kept as buffers for a resumed training.

    It says which edges are cut in the next iteration and has no part in any forecast.

    Convention: the authors' code takes the losses of the last iteration; here running means, which a single
    batch does not throw about. Their initial loss and threshold are those of a 400-class cross-entropy; here
    the initial loss is the mean over the first iterations, so far, and the threshold the same share of it.
    """

    spatial: Tensor
    main: Tensor
    initial: Tensor
    iterations: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("spatial", "main", "initial"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float32))
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def record(self, spatial_loss: Tensor, main_loss: Tensor) -> None:
        """Take in the losses of one iteration."""
        weight = torch.where(self.iterations == 0, 1.0, 1 - LOSS_MEMORY)
        self.spatial.lerp_(spatial_loss.to(self.spatial), weight)
        self.main.lerp_(main_loss.to(self.main), weight)
        self.iterations += 1
        early = torch.where(self.iterations <= FIRST_ITERATIONS, 1 / self.iterations, 0.0)
        self.initial.lerp_(main_loss.to(self.initial), early)

    def shares(self) -> Shares:
        """Return how probably each edge is cut in the next iteration: before the first, only the temporal."""
        if not self.iterations:
            return Shares(spatial=0.0, temporal=1.0)
        spatial, main, initial = torch.stack([self.spatial, self.main, self.initial]).tolist()
        share = temporal_share(spatial, main, initial, threshold=THRESHOLD_SHARE * initial)
        return Shares(spatial=1 - share, temporal=share)


def _check_shares(shares: Shares, coupling: Coupling) -> None:
    if coupling == "complementary" and abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"expected shares that add up to 1 where exactly one edge is cut, got {shares}")
