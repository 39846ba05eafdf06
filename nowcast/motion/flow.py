"""Motion of the echo between frames, by optical flow on several scales."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from nowcast.errors import NotEnoughFrames
from nowcast.motion.trajectory import VectorField

Array = NDArray[np.float32]

# The constants were set on showers in Finland, mixed rain in Switzerland and severe convection at Brisbane
# together (CSI at 20, 30 and 35 dBZ, 5 to 60 minutes ahead), and checked on extreme rain in the Netherlands.
# Moderate changes of any one of them move mean CSI by less than 0.01.

#: Frames that motion is estimated from, newest included.
FRAMES = 4

#: Reflectivities [dBZ] spread over the 8 bits the optical flow looks at. Weaker echo hardly moves as a body;
#: cores above 40 dBZ grow and die faster than they move.
FLOW_RANGE_DBZ = (0.0, 40.0)

#: Echo [dBZ] must reach this in the newest frame to have a say about motion.
WITNESS_DBZ = 5.0

#: Most cells the optical flow is computed on. A grid is halved: that tracks fast echo better (0.01 of CSI at
#: Brisbane), slow echo worse (0.01 in Switzerland after 5 minutes, nothing later), and takes half the time.
#: Beyond four times this it is halved again; Europe does not need that, where it would lose 0.01.
FLOW_CELLS = 8_000_000

#: Grids with a side shorter than this [cells] keep their resolution.
SMALL_GRID = 256

#: Least side [flow cells] of an image, by padding: the flow's 8-cell patches need room.
LEAST_SIDE = 32

#: Flow cells beside unobserved ones whose vector counts nothing: half a patch of the flow.
EDGE_FLOW_CELLS = 4

#: Flow cells between two nodes of the smoothed motion.
NODE_FLOW_CELLS = 2

#: Weight of a pair of frames against the pair one step closer. Distant pairs measure slow motion better,
#: close ones keep track of fast or changing echo.
PAIR_DECAY = 0.5

#: Variational refinements of the flow; OpenCV's 5 take longer and gain nothing.
REFINEMENTS = 2

#: Standard deviation [nodes] of the Gaussian that smooths motion on each level of the pyramid.
SMOOTHING_NODES = 1.0

#: Weight of the next coarser level of the pyramid against a node of average confidence on this level.
COARSER_WEIGHT = 0.02

#: A vector further from its surroundings than this many median deviations is an outlier ...
OUTLIER_DEVIATIONS = 4.0

#: ... unless it is closer than this [cells per step].
TOLERATED_DEVIATION = 1.0


def _block_mean(image: Array, block: int) -> Array:
    size = (image.shape[1] // block, image.shape[0] // block)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _padded(image: Array, multiple: int, least: int = 0) -> Array:
    """Return the image with zeros below and to the right, up to a multiple, and to at least ``least``."""
    below, right = (max(-(-side // multiple) * multiple, least) - side for side in image.shape)
    return np.pad(image, ((0, below), (0, right))) if below or right else image


def motion_field(frames: Array | Sequence[Array]) -> VectorField:
    """Return the motion [cells per step] at the newest of frames ``(t, y, x)`` [dBZ], one step apart.

    Optical flow by dense inverse search leads from the newest frame back to each of up to three before it; a
    flow over k steps is divided by k. A vector counts by the reflectivity gradient it rests on. Vectors far
    from their surroundings are dropped (by median absolute deviation); the rest is averaged, smoothed, and
    spread to where there is no echo by normalised convolution on ever coarser scales, the coarsest being the
    mean of the grid. Without echo the motion is zero. Vectors where or beside where nothing was observed
    count nothing.

    Raises:
        NotEnoughFrames: If there is only one frame.

    References:
        Kroeger et al. (2016), Fast Optical Flow using Dense Inverse Search, doi:10.1007/978-3-319-46493-0_29.
        Knutsson and Westin (1993), Normalized and differential convolution, doi:10.1109/CVPR.1993.341081.
    """
    return motions(frames, (1,))[0]


def motions(frames: Array | Sequence[Array], strides: Sequence[int]) -> list[VectorField]:
    """Return the motion [cells per step] as :func:`motion_field` does, from every ``stride``-th frame each.

    Flows that several of them rest on are computed once.

    Raises:
        NotEnoughFrames: If there are not two frames a stride apart.
    """
    if len(frames) <= max(strides):
        raise NotEnoughFrames(f"motion needs at least two frames, got {len(frames)}")
    shape = (frames[-1].shape[0], frames[-1].shape[1])
    shrink = _shrink(shape)
    newest = _flow_image(frames[-1], shrink)
    confidence = _gradient_of_echo(newest) * _is_clear_of_edge(frames[-1], shrink)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setVariationalRefinementIterations(REFINEMENTS)

    @cache
    def pair(back: int) -> tuple[Array, Array]:
        """Return the way [flow cells] to where echo was some frames back, and what it rests on, by node."""
        frame = frames[-1 - back]
        flow = search.calc(newest, _flow_image(frame, shrink), None)  # type: ignore[call-overload]
        trust = confidence * _is_clear_of_edge(frame, shrink)
        weight = _block_mean(trust, NODE_FLOW_CELLS)
        pull = [_block_mean(flow[..., axis] * trust, NODE_FLOW_CELLS) for axis in (1, 0)]  # rows first
        way = np.stack(pull) / np.maximum(weight, np.float32(1e-9))
        return np.asarray(way, np.float32), weight

    fields = []
    for stride in strides:
        vectors, weights = [], []
        for steps in range(1, min(FRAMES, (len(frames) - 1) // stride + 1)):
            way, weight = pair(stride * steps)
            vectors.append(way * np.float32(-shrink / steps))
            weights.append(weight * np.float32(PAIR_DECAY ** (steps - 1)))
        nodes = _consensus(np.stack(vectors), np.stack(weights)) / np.float32(stride)
        fields.append(VectorField(nodes, shrink * NODE_FLOW_CELLS, shape))
    return fields


def _shrink(shape: tuple[int, int]) -> int:
    """Return the side [cells] of the blocks that become a flow cell."""
    if min(shape) < SMALL_GRID:
        return 1
    shrink = 2
    while shape[0] * shape[1] > FLOW_CELLS * shrink**2:
        shrink *= 2
    return shrink


def _flow_image(frame: Array, shrink: int) -> NDArray[np.uint8]:
    """Return the frame as an 8-bit image of block means, padded to whole nodes.

    What was not observed is painted with what lies around it: else the edge of coverage would be a line that
    stands still.
    """
    low, high = FLOW_RANGE_DBZ
    bounded = np.fmin(np.fmax(frame, np.float32(low)), np.float32(high))  # NaN becomes the lower bound
    bounded -= np.float32(low)
    bounded *= np.float32(255.0 / (high - low))
    weight = _blocks((~np.isnan(frame)).astype(np.float32), shrink)
    return np.rint(_painted(_blocks(bounded, shrink), weight)).astype(np.uint8)


def _blocks(cells: Array, shrink: int) -> Array:
    return _block_mean(_padded(cells, shrink * NODE_FLOW_CELLS, shrink * LEAST_SIDE), shrink)


def _painted(values: Array, weight: Array) -> Array:
    """Return weighted means ``values / weight``, from ever coarser blocks where there is no weight."""
    empty = weight < 1e-6
    painted = np.asarray(values / np.maximum(weight, np.float32(1e-6)), dtype=np.float32)
    if empty.any() and max(weight.shape) > 1:
        halved = [_block_mean(_padded(layer, 2), 2) for layer in (values, weight)]
        (coarser,) = _doubled(_painted(halved[0], halved[1])[None], weight.shape)
        painted[empty] = coarser[empty]
    return painted


def _gradient_of_echo(image: NDArray[np.uint8]) -> Array:
    """Return the gradient of a flow image where it shows echo, 0 elsewhere."""
    low, high = FLOW_RANGE_DBZ
    eastward, southward = (cv2.Sobel(image, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    echo = image > (WITNESS_DBZ - low) * 255.0 / (high - low)
    # not cv2.magnitude: its last bit depends on where in memory the arrays lie
    return np.asarray(np.sqrt(eastward * eastward + southward * southward) * echo, dtype=np.float32)


def _is_clear_of_edge(frame: Array, shrink: int) -> NDArray[np.bool_]:
    """Return for each flow cell whether its surroundings are observed."""
    unobserved = _blocks(np.isnan(frame).astype(np.float32), shrink)
    patch = np.ones((2 * EDGE_FLOW_CELLS + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(unobserved, patch) == 0)


def _consensus(vectors: Array, weights: Array) -> Array:
    """Return one smooth field ``(2, ...)`` from vectors ``(pair, 2, ...)`` and weights ``(pair, ...)``."""
    has_say = weights > 0
    if not has_say.any():
        return np.zeros(vectors.shape[1:], np.float32)
    weights = weights / weights[has_say].mean()
    field = _spread((vectors * weights[:, None]).sum(0), weights.sum(0))
    deviation = np.sqrt(((vectors - field) ** 2).sum(1))
    limit = max(OUTLIER_DEVIATIONS * float(np.median(deviation[has_say])), TOLERATED_DEVIATION)
    weights = weights * (deviation <= limit)
    return _spread((vectors * weights[:, None]).sum(0), weights.sum(0))


def _spread(pull: Array, weight: Array) -> Array:
    """Return the smooth mean of vectors of weighted sum ``pull``, or of coarser scales where weight lacks."""
    if max(weight.shape) <= 2:
        mean = pull.sum((1, 2)) / max(float(weight.sum()), 1e-9)
        return np.broadcast_to(mean[:, None, None], pull.shape).astype(np.float32)
    halved = np.stack([_block_mean(_padded(layer, 2), 2) for layer in (*pull, weight)])
    coarser = _doubled(_spread(halved[:2], halved[2]), weight.shape)
    smooth = np.stack([_blurred(layer) for layer in (*pull, weight)])
    share = np.float32(COARSER_WEIGHT)
    return np.asarray((smooth[:2] + share * coarser) / (smooth[2] + share), dtype=np.float32)


def _doubled(layers: Array, shape: tuple[int, ...]) -> Array:
    """Return layers of half the resolution on all cells of a grid, bilinear."""
    size = (2 * layers.shape[2], 2 * layers.shape[1])
    doubled = [cv2.resize(layer, size, interpolation=cv2.INTER_LINEAR) for layer in layers]
    return np.asarray(doubled, dtype=np.float32)[:, : shape[0], : shape[1]]


def _blurred(layer: Array) -> Array:
    blurred = cv2.GaussianBlur(layer, (0, 0), SMOOTHING_NODES, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, dtype=np.float32)
