"""FANet with temporal context: the class of every cell's echo, frame by frame as they come in."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.fanet.segmentation import IGNORED, Mining, segmentation_loss
from models.forecaster import pad_to_multiple

#: Slope of every leaky rectifier below 0. Dimensionless; authors' code ``feinanshan/FANet``.
SLOPE = 0.01

#: Factor by which the stem, a convolution and a pooling of stride 2 each, coarsens a frame.
STEM_STRIDE = 4

#: Longest history whose window is summed frame by frame; beyond, prefix sums in float64 cost less.
LONGEST_SHIFTED = 8

#: Frames after which a stream's running sum is added up afresh, so that rounding cannot pile up.
REFRESH_FRAMES = 1000

#: Longest time between two frames of one stream, in scan intervals: half an interval of delay is forgiven.
LONGEST_GAP_SCANS = 1.5


@dataclass(frozen=True)
class FANetConfig:
    """Sizes of a FANet.

    Attributes:
        classes: Number of classes.
        channels: Channels of a frame.
        widths: Channels of the backbone's four stages, finest first.
        blocks: Residual blocks of each stage.
        strides: By how much each stage coarsens; 2 in the first halves the resolution of the logits too.
        key_channels: Channels of queries and keys.
        smooth: Channels each stage that is looked at gives to the head.
        history: N, earlier frames whose keys and values a frame sees.
        reduce: Whether the products of keys and values are averaged over the frames or, as in the paper,
            summed.
        auxiliary: Whether two more heads on coarser stages take part in the training.
    """

    classes: int = 6
    channels: int = 1
    widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    blocks: tuple[int, int, int, int] = (1, 1, 1, 1)
    strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    key_channels: int = 16
    smooth: int = 32
    history: int = 0
    reduce: Literal["mean", "sum"] = "mean"
    auxiliary: bool = True


class FANetLogits(NamedTuple):
    """Logits on the network's own coarse grid, that of the frames padded and divided by ``stride_out``.

    Attributes:
        main: ``(b, t, k, y', x')``.
        auxiliary: Those of the auxiliary heads, coarsest first, each on a grid of its own.
    """

    main: Tensor
    auxiliary: tuple[Tensor, ...]


class View(NamedTuple):
    """What a stage sees of ``m`` frames.

    Attributes:
        features: The backbone's ``(m, c, y, x)``.
        query: ``(m, d, y, x)``, of unit length.
        product: Of keys and values ``(m, d, c)``.
    """

    features: Tensor
    query: Tensor
    product: Tensor


class FANetState(NamedTuple):
    """What a stream remembers; the caller keeps it between frames, one for each radar.

    Attributes:
        past: For each of the last N frames, oldest first, one product ``(b, d, c)`` a stage, float32.
        totals: Sum of ``past`` for each stage.
        frames: Number of frames since the stream began.
        shape: Shape of the frames.
    """

    past: tuple[tuple[Tensor, ...], ...]
    totals: tuple[Tensor, ...]
    frames: int
    shape: tuple[int, ...]


class ConvNorm(nn.Module):
    """A convolution without bias, a batch normalisation and, unless told otherwise, a leaky rectifier.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd width of the convolution, in cells.
        stride: Of the convolution.
        activation: Whether the rectifier follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        activation: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(m, out, y / stride, x / stride)`` from ``(m, in, y, x)``."""
        return self.finish(self.conv(x))

    def finish(self, convolved: Tensor) -> Tensor:
        """Return what follows the convolution; overwrites its result."""
        normalised = self.norm(convolved)
        return functional.leaky_relu(normalised, SLOPE, inplace=True) if self.activation else normalised

    def fold(self) -> None:
        """Move the normalisation, as evaluation has it, into the convolution, channels together in memory."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            # Not by .contiguous(), which leaves a 1x1 weight as it is, and oneDNN its input.
            self.conv.weight.data = self.conv.weight.to(memory_format=torch.channels_last)
            self.norm = nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them, the block of ResNet-18.

    Convention: leaky between the convolutions, an ordinary rectifier after the sum, as in FANet's code. Where
    the width stays and only the stride is not 1 the shortcut takes every ``stride``-th cell and has no
    weights (option A of He et al.); FANet's code projects there too, 4224 weights with 64 channels.

    References:
        He et al. (2015), Deep Residual Learning for Image Recognition, section 3.3,
        https://arxiv.org/abs/1512.03385.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = ConvNorm(in_channels, out_channels, 3, stride)
        self.second = ConvNorm(out_channels, out_channels, 3, activation=False)
        self.shortcut = (
            ConvNorm(in_channels, out_channels, 1, stride, activation=False)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(m, out, y / stride, x / stride)`` from ``(m, in, y, x)``."""
        around = x[..., :: self.stride, :: self.stride] if self.shortcut is None else self.shortcut(x)
        return functional.relu(self.second(self.first(x)) + around, inplace=True)


class FastAttention(nn.Module):
    r"""Attention of every position to all positions at a cost linear in their number.

    With n positions, ``*`` a 1x1 convolution followed by a batch normalisation, and :math:`\phi` the leaky
    rectifier,

    .. math::
        q_i &= \mathrm{unit}(W_q * x)_i, \quad k_i = \mathrm{unit}(W_k * x)_i, \quad v = \phi(W_v * x) \\
        f &= \tfrac1n \sum_i k_i v_i^\top                                   &\text{(product, d by c)} \\
        z &= x + \phi(W_o * (f^\top q)) + \mathrm{up}(z_\text{coarser})

    Convention: the factor 1/n, which the authors' code leaves to the normalisation that follows, keeps f
    apart from the size of the grid. Queries, keys and values are one convolution, and W_o acts on f, C by d,
    instead of on every position: the same by associativity, n C^2 multiplications fewer. Lengths and
    sums of products are float32 at least.

    Shapes: ``m`` frames, ``c`` channels, ``d`` key channels.

    References:
        Hu et al. (2021), Real-Time Semantic Segmentation With Fast Attention, IEEE Robotics and Automation
        Letters 6(1), https://arxiv.org/abs/2007.03815.
    """

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.widths = [key_channels, key_channels, channels]
        self.project = ConvNorm(channels, sum(self.widths), activation=False)
        self.mix = ConvNorm(channels, channels)

    def context(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries ``(m, d, y, x)`` and the product ``(m, d, c)`` of features ``(m, c, y, x)``."""
        query, key, value = self.project(features).split(self.widths, dim=1)
        value = functional.leaky_relu(value, SLOPE).flatten(2)
        key = _unit(key).flatten(2)
        product = torch.bmm(key, value.transpose(1, 2)) / key.shape[2]
        return _unit(query), product.to(torch.promote_types(product.dtype, torch.float32))

    def forward(self, features: Tensor, query: Tensor, product: Tensor, coarser: Tensor | None) -> Tensor:
        """Return z ``(m, c, y, x)``; ``coarser`` is ``(m, c, y / s, x / s)`` or ``None``."""
        weight = self.mix.conv.weight.flatten(1)
        mixed = (weight.to(product.dtype) @ product.transpose(1, 2)).to(query.dtype)
        if self.mix.conv.bias is None:
            attended = torch.bmm(mixed, query.flatten(2))
        else:
            attended = torch.baddbmm(self.mix.conv.bias[:, None], mixed, query.flatten(2))
        z = features + self.mix.finish(attended.view_as(features))
        return z if coarser is None else z + _resized(coarser, z)


class FANet(nn.Module):
    r"""A residual backbone, fast attention at its four stages, and a head that joins two of them.

    From the coarsest stage to the finest, each stage's z (:class:`FastAttention`) gains the one before it,
    thinned to its width and enlarged. The head sees the second coarsest and the finest stage, smoothed.
    With N frames of history, the frame at t (counted from 1) sees the products of the frames before it too:

    .. math:: f^N_t = \frac{1}{\min(N + 1, t)} \sum_{i=0}^{\min(N, t - 1)} f_{t-i}

    No frame sees a later one, and no sequence another one: a batch of short sequences from different videos
    is the paper's mixed batch, one long sequence its homogeneous batch. Ship N = 0 unless validation says
    otherwise: in the paper N = 2, 4, 6 lost 2.2, 4.2 and 7.5 points of mean IoU on the test set.

    Convention: the products are summed, not keys and values apart, as the paper's prose may be read; they are
    averaged, so that a stream's first frames and a change of N leave the normalisation at rest
    (``reduce="sum"`` is the paper's). Rows and columns are padded with no echo to a multiple of
    :attr:`stride`. Labels are taken at the centre of the cell that the enlarged logits describe, not at its
    corner. With ``auxiliary=False`` the smoothing of the coarsest stage, kept so that weights correspond,
    gets no gradient.

    Shapes: ``b`` batch, ``t`` frames, ``c`` channels, ``k`` classes.

    Attributes:
        stride: Rows and columns are padded to multiples of this.
        stride_out: Cells of the frame to one cell of the coarse logits.

    References:
        Torgesen, Elatov and Howard, Temporal Context Aggregation with FANet for Real-Time Image Semantic
        Segmentation on Video Streams; Hu et al. (2021), https://arxiv.org/abs/2007.03815.

    Example:
        >>> net = FANet(FANetConfig(classes=6)).eval()
        >>> net(torch.rand(1, 3, 1, 50, 70)).shape
        torch.Size([1, 3, 6, 50, 70])
    """

    def __init__(self, config: FANetConfig) -> None:
        super().__init__()
        if config.history < 0:
            raise ValueError(f"expected a history of 0 or more frames, got {config.history}")
        self.config = config
        self.stride_out = STEM_STRIDE * config.strides[0]
        self.stride = self.stride_out * config.strides[1] * config.strides[2] * config.strides[3]
        widths, smooth = config.widths, config.smooth

        pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stem = nn.Sequential(ConvNorm(config.channels, widths[0], 7, 2), pool)
        below = (widths[0], *widths[:-1])
        self.stages = nn.ModuleList(map(_stage, below, widths, config.blocks, config.strides))
        self.attention = nn.ModuleList(FastAttention(width, config.key_channels) for width in widths)
        self.up = nn.ModuleList(ConvNorm(coarse, fine) for fine, coarse in pairwise(widths))
        self.smooth_fine = ConvNorm(widths[0], smooth, 3)
        self.smooth_middle: nn.Module = ConvNorm(widths[2], smooth, 3)
        self.smooth_coarse: nn.Module | None = ConvNorm(widths[3], smooth, 3)
        self.head = _head(2 * smooth, 2 * smooth, config.classes)
        heads = 2 if config.auxiliary else 0
        self.auxiliary = nn.ModuleList(_head(smooth, smooth // 2, config.classes) for _ in range(heads))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits ``(b, t, k, y, x)`` of frames ``(b, t, c, y, x)``, oldest first, of any size.

        Raises:
            ValueError: If the frames' shape is another or they are not floats.
        """
        self._check(frames)
        logits = self._classify(self._look_at_all(frames))
        return _apart(_enlarged(logits, self.stride_out, frames), frames)

    def coarse(self, frames: Tensor) -> FANetLogits:
        """Return the logits of frames ``(b, t, c, y, x)`` before they are enlarged, for training."""
        self._check(frames)
        levels = self._merge(self._look_at_all(frames))
        middle = self.smooth_middle(levels[2])
        main = self._join(middle, levels[0])
        auxiliary: tuple[Tensor, ...] = ()
        if len(self.auxiliary) and self.smooth_coarse is not None:
            on_coarse, on_middle = self.auxiliary
            auxiliary = (on_coarse(self.smooth_coarse(levels[3])), on_middle(middle))
        return FANetLogits(_apart(main, frames), tuple(_apart(x, frames) for x in auxiliary))

    def training_loss(
        self,
        frames: Tensor,
        labels: Tensor,
        *,
        class_weights: Tensor | None = None,
        mining: Mining | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of one batch; the first N frames of each sequence only lend their context.

        Args:
            frames: ``(b, t, c, y, x)``; with a history, t is at least N + 2.
            labels: Classes ``(b, t, y, x)``, int64; ``IGNORED`` where there is none.
            class_weights: ``(k,)``.
            mining: Which cells count; all if left out.

        Returns:
            ``"loss"``, to be minimised, and its parts by name, detached, for curves.

        Raises:
            ValueError: If a shape is not as above.
        """
        history, (b, t, _, y, x) = self.config.history, frames.shape
        if history and t < history + 2:
            raise ValueError(f"expected at least {history + 2} frames a sequence, got {t}")
        if labels.shape != (b, t, y, x):
            raise ValueError(f"expected labels {(b, t, y, x)}, got {tuple(labels.shape)}")
        logits = self.coarse(frames)
        behind = (0, -x % self.stride, 0, -y % self.stride)
        return segmentation_loss(
            logits.main,
            functional.pad(labels, behind, value=IGNORED),
            auxiliary=logits.auxiliary,
            excluded=history,
            class_weights=class_weights,
            mining=mining,
        )

    def observe(
        self, frame: Tensor, state: FANetState | None = None, *, scans_since: float = 1.0
    ) -> tuple[Tensor, FANetState]:
        """Return the logits ``(b, k, y, x)`` of the next frame ``(b, c, y, x)`` and the stream after it.

        In evaluation, the same as calling the network with all frames of the stream, at the cost of one. No
        gradient goes back to earlier frames.

        Args:
            frame: The newest frame.
            state: What this returned for the frame before; ``None`` begins a stream.
            scans_since: Time since the frame before, in scan intervals. After a gap, more than
                ``LONGEST_GAP_SCANS``, the stream begins anew.

        Raises:
            ValueError: If the frame's shape is wrong or not that of the stream.
        """
        self._check(frame[:, None])
        if state is None or scans_since > LONGEST_GAP_SCANS:
            state = FANetState((), (), 0, tuple(frame.shape))
        if state.shape != tuple(frame.shape):
            raise ValueError(f"expected a frame {state.shape}, as in the stream, got {tuple(frame.shape)}")
        views = self._look(pad_to_multiple(frame, self.stride))
        products = tuple(view.product.detach() for view in views)
        if state.past:
            terms = len(state.past) + 1 if self.config.reduce == "mean" else 1
            views = [
                view._replace(product=(total + view.product) / terms)
                for view, total in zip(views, state.totals, strict=True)
            ]
        logits = _enlarged(self._classify(views), self.stride_out, frame)
        return logits, _after(state, products, self.config.history)

    def fused(self) -> FANet:
        """Return a copy for inference: normalisations folded into convolutions, training's parts gone.

        Channels lie together in memory, which is faster on CPUs and GPUs alike.
        """
        net = copy.deepcopy(self).eval().requires_grad_(False)
        net.smooth_coarse, net.auxiliary = None, nn.ModuleList()
        for module in net.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return net

    def _check(self, frames: Tensor) -> None:
        channels = self.config.channels
        shape = tuple(frames.shape)
        if len(shape) != 5 or shape[2] != channels or 0 in shape or not frames.is_floating_point():
            raise ValueError(
                f"expected frames (b, t, {channels}, y, x) of floats, got {frames.dtype} {shape}"
            )

    def _look_at_all(self, frames: Tensor) -> list[View]:
        """Return what the stages see of frames ``(b, t, c, y, x)``, each with its history's products."""
        views = self._look(pad_to_multiple(frames, self.stride).flatten(0, 1))
        config = self.config
        seen = (over_history(_apart(view.product, frames), config.history, config.reduce) for view in views)
        return [view._replace(product=f.flatten(0, 1)) for view, f in zip(views, seen, strict=True)]

    def _look(self, frames: Tensor) -> list[View]:
        """Return what the stages see of frames ``(m, c, y, x)``, each frame on its own."""
        x, views = self.stem(frames), []
        for stage, attention in zip(self.stages, self.attention, strict=True):
            x = stage(x)
            views.append(View(x, *cast(FastAttention, attention).context(x)))
        return views

    def _merge(self, views: Sequence[View]) -> list[Tensor]:
        """Return z of every stage, finest first."""
        levels: list[Tensor] = []
        coarser = None
        for level in reversed(range(len(views))):
            levels.insert(0, self.attention[level](*views[level], coarser))
            coarser = self.up[level - 1](levels[0]) if level else None
        return levels

    def _join(self, middle: Tensor, finest: Tensor) -> Tensor:
        fine = self.smooth_fine(finest)
        logits: Tensor = self.head(torch.cat([_resized(middle, fine), fine], dim=1))
        return logits

    def _classify(self, views: Sequence[View]) -> Tensor:
        """Return the coarse logits ``(m, k, y', x')``."""
        levels = self._merge(views)
        return self._join(self.smooth_middle(levels[2]), levels[0])


def over_history(products: Tensor, history: int, reduce: Literal["mean", "sum"]) -> Tensor:
    """Return the mean or sum over each frame and up to ``history`` before it of products ``(b, t, d, c)``."""
    frames = products.shape[1]
    if history > LONGEST_SHIFTED:
        sums = products.double().cumsum(1)
        before = functional.pad(sums, (0, 0, 0, 0, history + 1, 0))[:, :frames]
        total = (sums - before).to(products.dtype)
    else:
        total = products
        for lag in range(1, min(history, frames - 1) + 1):
            total = total + functional.pad(products[:, :-lag], (0, 0, 0, 0, lag, 0))
    if reduce == "sum":
        return total
    terms = torch.arange(1, frames + 1, device=products.device).clamp(max=history + 1)
    return total / terms[:, None, None]


def _after(state: FANetState, products: tuple[Tensor, ...], history: int) -> FANetState:
    """Return the stream after a frame with these products."""
    frames = state.frames + 1
    if history == 0:
        return state._replace(frames=frames)
    past = (*state.past, products)[-history:]
    if not state.past or frames % REFRESH_FRAMES == 0:
        totals = tuple(torch.stack(stage).sum(0) for stage in zip(*past, strict=True))
    else:
        totals = tuple(total + new for total, new in zip(state.totals, products, strict=True))
        if len(state.past) == history:
            totals = tuple(total - old for total, old in zip(totals, state.past[0], strict=True))
    return FANetState(past, totals, frames, state.shape)


def _apart(x: Tensor, frames: Tensor) -> Tensor:
    """Return ``(b, t, ...)`` from ``(b * t, ...)``."""
    return x.view(*frames.shape[:2], *x.shape[1:])


def _unit(vectors: Tensor) -> Tensor:
    """Return ``(m, d, y, x)`` with the length 1 over d; less where it was below 1e-12, 0 where it was 0."""
    exact = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return functional.normalize(exact, dim=1).to(vectors.dtype)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _enlarged(logits: Tensor, factor: int, frames: Tensor) -> Tensor:
    """Return coarse logits ``(m, k, y', x')`` on the grid of the frames, without the padding."""
    height, width = frames.shape[-2:]
    full = functional.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
    return full[..., :height, :width]


def _stage(below: int, here: int, depth: int, stride: int) -> nn.Sequential:
    """Return the residual blocks of one stage; the first one coarsens."""
    later = (ResidualBlock(here, here, 1) for _ in range(depth - 1))
    return nn.Sequential(ResidualBlock(below, here, stride), *later)


def _head(channels: int, between: int, classes: int) -> nn.Sequential:
    """Return what makes logits of smoothed features."""
    return nn.Sequential(ConvNorm(channels, between, 3), nn.Conv2d(between, classes, 1, bias=False))
