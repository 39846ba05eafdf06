"""SCS keeps space and time apart: equations, gradient switches, sub-goals, published sizes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.parts.sampling import draw_mask
from models.scs.gradient_switch import OPEN, Edges, Shares, draw_edges
from models.scs.network import SCS, SCSConfig
from models.scs.semi_coupled import Coder, SCSCell

PAPER = SCSConfig(layers=15, channels=128, stem="strided")

#: Small enough to be exact and quick.
TINY = SCSConfig(layers=4, channels=8, groups=4, switch="none")


def tiny(**changes) -> SCS:
    torch.manual_seed(0)
    return SCS(dataclasses.replace(TINY, **changes)).double()


def rain(batch: int = 2, steps: int = 5, size: tuple[int, int] = (16, 20), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, steps, 1, *size, generator=generator, dtype=torch.float64)


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def gradients(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of every parameter by name, 0 where there is none."""
    names, weights = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return {
        name: torch.zeros_like(w) if g is None else g
        for name, w, g in zip(names, weights, found, strict=True)
    }


def reached(net: nn.Module, loss: Tensor) -> set[str]:
    """Names of the modules of which a parameter has a gradient that is not 0."""
    found = gradients(net, loss)
    return {name.rpartition(".")[0] for name, gradient in found.items() if gradient.abs().max() > 0}


# Sizes


@pytest.mark.parametrize(
    ("widths", "published"),
    [
        ((64, 8), 197_712),
        ((128, 128, 64, 32, 8), 1_127_952),
        ((128,) * 5 + (64,) * 3 + (32, 8), 2_677_264),
        ((256, 256) + (128,) * 4 + (64,) * 6 + (32, 32, 8), 5_846_480),
    ],
)
def test_stacked_layers_have_the_published_numbers_of_parameters(widths, published):
    """Stacks of two, five, ten and fifteen layers on 131 channels: 0.20, 1.13, 2.68 and 5.85 million."""
    assert parameters(*(SCSCell(c, d) for c, d in itertools.pairwise((131, *widths)))) == published


def test_the_presets_have_their_numbers_of_parameters():
    small, paper = SCS(SCSConfig()), SCS(PAPER)
    assert parameters(small) == 200_403
    assert parameters(small.temporal_head) == 2_771
    assert parameters(SCSCell(128, 128)) == 442_624
    assert parameters(paper.encoder.layers, paper.decoder.layers) == 13_278_720
    assert parameters(paper) == 13_524_692


# The layer


def test_a_layer_computes_its_equations():
    cell = SCSCell(3, 4, norm=group_norm).double()
    u, gate = rain(2, 3)[:, :, 0], rain(2, 4, seed=1)[:, :, 0]
    weight, bias = cell.temporal.weight, cell.temporal.bias
    space = functional.conv2d(u, cell.spatial.weight, cell.spatial.bias, padding=1)
    time = functional.conv2d(u, weight[:, :3], bias, padding=1) + functional.conv2d(
        gate, weight[:, 3:], padding=1
    )
    space, time = functional.group_norm(space, 2), functional.group_norm(time, 2)
    after, gate_after = cell(u, gate)
    torch.testing.assert_close(gate_after, time.sigmoid())
    torch.testing.assert_close(after, space.relu() * time.sigmoid())
    torch.testing.assert_close(cell.next_gate(u, gate), gate_after)
    torch.testing.assert_close(cell.spatial_goal(u), space.relu())
    by_time, own_gate = cell.temporal_goal(u, gate)
    torch.testing.assert_close(by_time, time.relu())
    torch.testing.assert_close(own_gate, time.sigmoid())


def test_a_stride_is_taken_by_space_while_time_stays_fine_and_is_pooled():
    cell = SCSCell(3, 4, stride=2).double()
    u, gate = rain(1, 3)[:, :, 0], rain(1, 4, seed=1)[:, :, 0]
    after, gate_after = cell(u, gate)
    assert gate_after.shape == gate.shape
    space = functional.conv2d(u, cell.spatial.weight, cell.spatial.bias, stride=2, padding=1)
    torch.testing.assert_close(after, space.relu() * functional.max_pool2d(gate_after, 3, 2, 1))
    assert cell.spatial_goal(u).shape == cell.temporal_goal(u, gate)[0].shape == after.shape


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("stream", ["forward", "spatial_goal", "temporal_goal"])
def test_the_gradients_of_a_layer_are_right(stride, stream):
    torch.manual_seed(1)
    cell = SCSCell(2, 2, stride=stride, norm=lambda channels: nn.GroupNorm(1, channels)).double()
    u, gate = (rain(1, 2, (4, 5), seed)[:, :, 0].requires_grad_() for seed in (0, 1))
    inputs = (u,) if stream == "spatial_goal" else (u, gate)
    torch.autograd.gradcheck(getattr(cell, stream), inputs)
    # The weights themselves are what gradcheck moves, so the stream sees them without being given them.
    torch.autograd.gradcheck(lambda *weights: getattr(cell, stream)(*inputs), tuple(cell.parameters()))


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd kernel size, got 4"):
        SCSCell(1, 8, 4)


def test_gates_stay_between_closed_and_open():
    state = tiny().encode(100 * rain(steps=1)[:, 0], tiny().start(rain()[:, 0]))
    assert all(((gate > 0) & (gate < 1)).all() for gate in state.gates)


# The network


@pytest.mark.parametrize("residual", [False, True])
def test_every_second_layer_adds_the_output_two_below(residual):
    net = tiny(residual=residual)
    u = features = net.encoder.stem(rain()[:, 0])
    gates = net.start(rain()[:, 0]).gates
    outputs = [features]
    for number, (cell, gate) in enumerate(zip(net.encoder.cells(), gates, strict=True), 1):
        u = cell(u, gate)[0] + (outputs[number - 2] if residual and number in (2, 4) else 0)
        outputs.append(u)
    torch.testing.assert_close(net.encoder(features, gates)[0], u)


@pytest.mark.parametrize("goal", ["spatial_goal", "temporal_goal"])
def test_the_sub_goals_have_the_same_shortcuts(goal):
    """With weights of 0 a layer gives nothing, so only what shortcuts carry arrives at the top."""
    net = tiny()
    for cell in net.encoder.cells():
        for parameter in cell.parameters():
            nn.init.zeros_(parameter)
    features = net.encoder.stem(rain()[:, 0])
    state = () if goal == "spatial_goal" else (net.start(rain()[:, 0]).gates,)
    top = getattr(net.encoder, goal)(features, *state)
    torch.testing.assert_close(top[0] if state else top, features)


@pytest.mark.parametrize("initial_gate", [0.5, 0.0])
def test_the_first_frame_meets_gates_of_which_nothing_is_known(initial_gate):
    gates = tiny(initial_gate=initial_gate).start(rain()[:, 0]).gates
    assert len(gates) == 4
    assert all(gate.shape == (2, 8, 4, 5) and (gate == initial_gate).all() for gate in gates)


def test_the_encoders_gates_are_handed_over_layer_by_layer():
    net, x = tiny(), rain()
    state = net.start(x[:, 0])
    for frame in x.unbind(1):
        state = net.encode(frame, state)
    u, gates = net.decoder(net.decoder.stem(x[:, -1]), state.gates)
    first = net.head(u)
    u, _ = net.decoder(net.decoder.stem(first), gates)
    torch.testing.assert_close(net.train()(x, 2)["pred"], torch.stack([first, net.head(u)], dim=1))


def test_training_forecasts_as_the_network_does():
    net, x, target = tiny().train(), rain(size=(14, 19)), rain(steps=3, size=(14, 19), seed=1)
    mask = torch.tensor([[True, False], [False, True]])
    expected = ((net(x, 3, target, mask)["pred"] - target) ** 2).mean()
    torch.testing.assert_close(net.objective(x, target, mask=mask)["mse"], expected)


def test_how_strong_echoes_are_is_not_normalised_away():
    net, x = tiny(), rain()
    assert (net(0.5 * x, 1)["pred"] - net(x, 1)["pred"]).abs().max() > 0.01


def test_the_large_stem_comes_to_a_quarter_and_back():
    net = tiny(stem="strided")
    assert net.encoder.stem(rain()[:, 0]).shape == (2, 8, 4, 5)
    assert net(rain(), 2)["pred"].shape == (2, 2, 1, 16, 20)


# Gradient switches


def cut(layers: int = 4, steps: int = 8) -> list[list[Edges]]:
    return draw_edges(Shares(1.0, 1.0), steps, layers)


MAIN_ONLY = {"spatial_weight": 0.0, "temporal_weight": 0.0}


def test_with_all_edges_cut_only_top_layers_learn():
    net, x, target = tiny(residual=False, **MAIN_ONLY), rain(), rain(steps=3, seed=1)
    loss, switched = net.objective(x, target)["mse"], net.objective(x, target, edges=cut())["mse"]
    assert torch.equal(loss, switched)
    layers = {"encoder.layers.3.temporal", "decoder.layers.3.spatial", "decoder.layers.3.temporal"}
    assert reached(net, switched) == {*layers, "head.0"}
    true, left = gradients(net, loss), gradients(net, net.objective(x, target, edges=cut())["mse"])
    for name in true:
        if name.startswith("decoder.layers.3"):
            assert torch.equal(left[name], true[name])


def test_shortcuts_are_not_cut():
    net, x, target = tiny(**MAIN_ONLY), rain(), rain(steps=3, seed=1)
    layers = {f"{coder}.layers.{layer}.temporal" for coder in ("encoder", "decoder") for layer in (1, 3)}
    layers |= {"decoder.layers.1.spatial", "decoder.layers.3.spatial", "decoder.stem.convolutions.0"}
    assert reached(net, net.objective(x, target, edges=cut())["mse"]) == {*layers, "head.0"}


@pytest.mark.parametrize("cut_coder", ["encoder", "decoder"])
def test_every_time_has_its_own_switches(cut_coder):
    net, x, target = tiny(residual=False, **MAIN_ONLY), rain(), rain(steps=3, seed=1)
    opened = draw_edges(Shares(0.0, 0.0), 8, 4)
    edges = [*cut()[:5], *opened[5:]] if cut_coder == "encoder" else [*opened[:5], *cut()[5:]]
    learning = reached(net, net.objective(x, target, edges=edges)["mse"])
    for coder, lowest in (("encoder", "encoder.layers.0.spatial"), ("decoder", "decoder.layers.0.spatial")):
        assert (lowest in learning) == (coder != cut_coder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("rescale", [False, True])
def test_the_switch_changes_no_bit_of_a_forecast(share, rescale):
    net, x, target = tiny(), rain(), rain(steps=3, seed=1)
    edges = draw_edges(Shares(share, share), 8, 4, rescale=rescale)
    switched, plain = net.objective(x, target, edges=edges), net.objective(x, target)
    assert all(torch.equal(switched[name], part) for name, part in plain.items())


class Detached(nn.Conv2d):
    """A convolution that sends no gradient down; of a gate among its input it still does."""

    kept = 0

    def forward(self, x: Tensor) -> Tensor:
        below = x.shape[1] - self.kept
        return super().forward(torch.cat([x[:, :below].detach(), x[:, below:]], dim=1))


@pytest.mark.parametrize("path", ["spatial", "temporal"])
def test_cutting_one_path_is_detaching_what_its_convolutions_see(path):
    net, x, target = tiny(), rain(), rain(steps=3, seed=1)
    shares = Shares(spatial=float(path == "spatial"), temporal=float(path == "temporal"))
    switched = gradients(net, net.objective(x, target, edges=draw_edges(shares, 8, 4))["mse"])
    for coder in (net.encoder, net.decoder):
        for cell in coder.cells()[1:]:
            convolution = getattr(cell, path)
            convolution.__class__ = Detached
            convolution.kept = 8 if path == "temporal" else 0
    by_hand = gradients(net, net.objective(x, target)["mse"])
    assert by_hand.keys() == switched.keys()
    for name, gradient in by_hand.items():
        torch.testing.assert_close(switched[name], gradient, msg=name)


class Ladder:
    """Three layers over two steps, their top outputs weighted by chance: gradients for given edges."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.net = Coder(nn.Identity(), 3, 4, residual=False, norm=group_norm).double()
        self.frames = torch.rand(2, 1, 4, 3, 3, dtype=torch.float64)
        self.weights = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
        self.known: dict[tuple[Edges, ...], Tensor] = {}

    def gradients(self, edges: list[list[Edges]]) -> Tensor:
        """Gradient of the weights of each layer ``(layer, n)``."""
        key = (*edges[0], *edges[1])
        if key not in self.known:
            gates = (torch.full((1, 4, 3, 3), 0.5, dtype=torch.float64),) * 3
            loss = torch.zeros((), dtype=torch.float64)
            for frame, weight, step in zip(self.frames, self.weights, edges, strict=True):
                u, gates = self.net(frame, gates, step)
                loss = loss + (u * weight).sum()
            flat = [gradient.flatten() for gradient in gradients(self.net, loss).values()]
            each = len(flat) // 3
            self.known[key] = torch.stack([torch.cat(flat[k * each : (k + 1) * each]) for k in range(3)])
        return self.known[key]

    def expected(self, shares: Shares, gate: float) -> Tensor:
        """The mean over all outcomes of independent draws, each weighted by how probable it is."""
        total = torch.zeros(())
        for outcome in itertools.product((False, True), repeat=8):
            probability, gates = 1.0, []
            for number, closed in enumerate(outcome):
                share = shares[number % 2]
                probability *= share if closed else 1 - share
                gates.append(0.0 if closed else gate)
            pairs = [Edges(*pair) for pair in zip(gates[::2], gates[1::2], strict=True)]
            total = total + probability * self.gradients([[OPEN, *pairs[:2]], [OPEN, *pairs[2:]]])
        return total


def projections(gradient: Tensor, true: Tensor) -> list[float]:
    """Share of the true gradient, from the lowest layer up."""
    return ((gradient * true).sum(1) / (true * true).sum(1)).tolist()


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    return Ladder()


def test_a_switched_gradient_shrinks_with_every_layer_unless_rescaled(ladder):
    true = ladder.gradients([[OPEN] * 3] * 2)
    half = Shares(0.5, 0.5)
    torch.testing.assert_close(ladder.expected(half, 2.0), true)
    assert projections(ladder.expected(half, 1.0), true) == pytest.approx([0.25, 0.5, 1.0])


def test_drawn_switches_have_that_expected_gradient(ladder):
    true = ladder.gradients([[OPEN] * 3] * 2)
    generator = torch.Generator().manual_seed(0)
    for rescale, expected, tolerance in ((True, [1.0, 1.0, 1.0], 0.05), (False, [0.25, 0.5, 1.0], 0.03)):
        total = torch.zeros(())
        for _ in range(2000):
            edges = draw_edges(Shares(0.5, 0.5), 2, 3, rescale=rescale, generator=generator)
            total = total + ladder.gradients(edges)
        assert projections(total / 2000, true) == pytest.approx(expected, abs=tolerance)


def test_the_switch_is_off_once_its_share_of_the_training_is_over():
    net, x, target = tiny(switch="stsgd", switch_start=1.0, **MAIN_ONLY), rain(), rain(steps=3, seed=1)

    def lowest(progress: float) -> float:
        loss = net.training_loss(x, target, progress=progress, generator=torch.Generator())["loss"]
        return gradients(net, loss)["decoder.layers.0.spatial.weight"].abs().max().item()

    assert lowest(0.0) == 0
    assert lowest(0.59) > 0
    assert lowest(1.0) > 0


@pytest.mark.parametrize(("coupling", "rescale"), [("independent", True), ("never_both", False)])
def test_training_draws_the_mask_then_the_switches_as_configured(coupling, rescale):
    net = tiny(switch="stsgd", switch_coupling=coupling, switch_rescale=rescale)
    x, target = rain(), rain(steps=4, seed=1)
    loss = net.training_loss(x, target, progress=0.15, generator=torch.Generator().manual_seed(4))["loss"]
    generator = torch.Generator().manual_seed(4)
    mask = draw_mask(0.7, 2, 3, generator=generator, device=x.device)
    share = 0.5 * (1 - 0.15 / 0.6)
    edges = draw_edges(Shares(share, share), 9, 4, coupling=coupling, rescale=rescale, generator=generator)
    expected = gradients(net, sum(net.objective(x, target, mask=mask, edges=edges).values()))
    for name, gradient in gradients(net, loss).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_astsgd_follows_the_losses_and_leaves_forecasts_alone():
    net, x, target = tiny(switch="astsgd"), rain(), rain(steps=3, seed=1)
    before = net(x, 3)["pred"]
    generator = torch.Generator().manual_seed(0)
    assert net.monitor.shares() == Shares(spatial=0.0, temporal=1.0)
    parts = net.training_loss(x, target, generator=generator)
    assert net.monitor.spatial.item() == pytest.approx(parts["spatial"].item(), rel=1e-5)
    assert net.monitor.main.item() == pytest.approx(parts["mse"].item(), rel=1e-5)
    assert net.monitor.iterations == 1
    assert torch.equal(net(x, 3)["pred"], before)
    net.eval().training_loss(x, target, generator=generator)
    assert net.monitor.iterations == 1


@pytest.mark.parametrize(("progress", "temporal"), [(0.0, 1.0), (0.7, 0.0)])
def test_astsgd_cuts_time_first_and_nothing_in_the_end(progress, temporal):
    net, x, target = tiny(switch="astsgd"), rain(), rain(steps=2, seed=1)
    loss = net.training_loss(x, target, progress=progress, generator=torch.Generator())["loss"]
    forced = torch.full((2, 1), progress == 0)
    edges = draw_edges(Shares(spatial=0.0, temporal=temporal), 7, 4)
    drawn, expected = gradients(net, loss), net.objective(x, target, mask=forced, edges=edges)
    for name, gradient in gradients(net, sum(expected.values())).items():
        torch.testing.assert_close(drawn[name], gradient, msg=name)


# Sub-goals


def test_each_sub_goal_trains_its_own_weights_only():
    net, x, target = tiny(), rain(), rain(steps=3, seed=1)
    parts = net.objective(x, target)
    stems = {"encoder.stem.convolutions.0", "decoder.stem.convolutions.0"}
    layers = [f"{coder}.layers.{layer}" for coder in ("encoder", "decoder") for layer in range(4)]
    head = {f"temporal_head.{layer}" for layer in (0, 2, 4)}
    assert reached(net, parts["spatial"]) == {*stems, "head.0", *(f"{layer}.spatial" for layer in layers)}
    for name in ("flow", "change"):
        assert reached(net, net.objective(x, target)[name]) == {
            *stems,
            *head,
            *(f"{layer}.temporal" for layer in layers),
        }


def test_the_spatial_forecast_sees_the_last_frame_only_and_the_temporal_one_all():
    net, x = tiny(), rain()
    noise = torch.cat([rain(steps=4, seed=5), x[:, -1:]], dim=1)
    aux, other = net(x, 3, explain=True)["aux"], net(noise, 3, explain=True)["aux"]
    assert torch.equal(aux["spatial"], other["spatial"])
    assert (aux["temporal"] - other["temporal"]).abs().max() > 1e-4
    last = torch.cat([x[:, :-1], rain(steps=1, seed=6)], dim=1)
    assert (aux["spatial"] - net(last, 3, explain=True)["aux"]["spatial"]).abs().max() > 1e-4


def test_explanations_are_what_the_sub_goals_say_lead_by_lead():
    net, x = tiny(), rain()
    aux = net(x, 2, explain=True)["aux"]
    gates = net.start(x[:, 0]).gates
    for frame in x.unbind(1):
        _, gates = net.encoder.temporal_goal(net.encoder.stem(frame), gates)
    by_space = by_time = x[:, -1]
    for lead in range(2):
        by_space = net.head(net.decoder.spatial_goal(net.decoder.stem(by_space)))
        top, gates = net.decoder.temporal_goal(net.decoder.stem(by_time), gates)
        by_time = by_time + net.temporal_head(top)[:, 2:]
        torch.testing.assert_close(aux["spatial"][:, lead], by_space)
        torch.testing.assert_close(aux["temporal"][:, lead], by_time)
        torch.testing.assert_close(aux["importance_of_time"][:, lead], by_time - by_space)


def test_nothing_is_explained_unasked():
    net = tiny()
    net.temporal_head = net.encoder.temporal_goal = net.decoder.spatial_goal = None
    assert net(rain(), 2)["aux"] == {}


def test_explanations_look_back_a_fixed_number_of_frames_in_a_stream_too():
    net, x = tiny(explained_frames=3), rain(steps=6)
    aux = net(x, 2, explain=True)["aux"]
    torch.testing.assert_close(aux["temporal"], net(x[:, 3:], 2, explain=True)["aux"]["temporal"])
    stream = None
    for frame in x.unbind(1):
        stream = net.observe(frame, stream)
    assert len(stream.state.frames) == 3
    for name, value in net.forecast(stream, 2, explain=True)["aux"].items():
        torch.testing.assert_close(value, aux[name])


def constant_heads(net: SCS, frame: float, flow: tuple[float, float], change: float) -> None:
    """Make the heads say the same whatever they see."""
    nn.init.zeros_(net.head[0].weight)
    nn.init.constant_(net.head[0].bias, frame)
    nn.init.zeros_(net.temporal_head[4].weight)
    with torch.no_grad():
        net.temporal_head[4].bias.copy_(torch.tensor([*flow, change]))


def test_the_spatial_sub_goal_is_the_following_frame_at_every_step_of_both_coders():
    net = tiny()
    constant_heads(net, 0.0, (0, 0), 0.0)
    levels = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64)
    frames = levels.reshape(1, 6, 1, 1, 1).expand(1, 6, 1, 8, 8)
    parts = net.objective(frames[:, :4], frames[:, 4:])
    following = levels[[1, 2, 3, 4, 4, 5]]
    assert parts["spatial"].item() == pytest.approx((following**2).mean().item())
    assert parts["mse"].item() == pytest.approx((levels[4:] ** 2).mean().item())


def test_the_sub_goals_losses_are_those_of_walking_through_the_true_frames():
    net, x, target = tiny(), rain(steps=4), rain(steps=3, seed=1)
    frames = torch.cat([x, target], dim=1).unbind(1)
    places = [(net.encoder, t, t - 1, t) for t in range(4)] + [(net.decoder, t, t, t + 1) for t in (3, 4, 5)]
    gates = net.start(x[:, 0]).gates
    spatial, change = [], []
    for coder, shown, before, after in places:
        features = coder.stem(frames[shown])
        spatial.append((net.head(coder.spatial_goal(features)) - frames[shown + 1]) ** 2)
        top, gates = coder.temporal_goal(features, gates)
        if before >= 0:
            change.append((net.temporal_head(top)[:, 2:] - (frames[after] - frames[before])) ** 2)
    parts = net.objective(x, target)
    torch.testing.assert_close(parts["spatial"], torch.stack(spatial).mean())
    torch.testing.assert_close(parts["change"], torch.stack(change).mean())


def test_the_temporal_sub_goal_is_motion_over_eight_cells_and_change():
    """An echo goes three cells east and two north each step: u = 3/8, v = -2/8; most of the grid is dry."""
    rows, columns = torch.arange(56.0)[:, None], torch.arange(64.0)
    distances = [(columns - 10 - 3 * k) ** 2 + (rows - 28 + 2 * k) ** 2 for k in range(6)]
    frames = (
        torch.stack([torch.exp(-each / 50) - 0.05 for each in distances])[None, :, None].double().clamp(0)
    )
    differences = ((frames[:, 1:] - frames[:, :-1]) ** 2).mean().item()
    net = tiny()
    constant_heads(net, 0.0, (3 / 8, -2 / 8), 0.0)
    parts = net.objective(frames[:, :4], frames[:, 4:])
    assert parts["flow"] < 1e-3
    assert parts["change"].item() == pytest.approx(differences)
    constant_heads(net, 0.0, (3 / 8, 2 / 8), 0.0)
    assert net.objective(frames[:, :4], frames[:, 4:])["flow"].item() == pytest.approx(1 / 8, abs=0.01)


def test_losses_are_weighted_and_those_without_weight_are_not_computed():
    net, x, target = tiny(spatial_weight=0.5, temporal_weight=0.25), rain(), rain(steps=3, seed=1)
    parts = net.training_loss(x, target)
    expected = parts["mse"] + 0.5 * parts["spatial"] + 0.25 * (parts["flow"] + parts["change"])
    torch.testing.assert_close(parts["loss"].detach(), expected)
    assert set(tiny(temporal_weight=0.0).training_loss(x, target)) == {"loss", "mse", "spatial"}
    assert set(tiny(**MAIN_ONLY).training_loss(x, target)) == {"loss", "mse"}


def test_cells_not_observed_count_in_no_part_of_the_loss():
    net, x, target = tiny(), rain(), rain(steps=3, seed=1)
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[:, 1, :, 3:9, 4:12] = False
    gaps = torch.where(valid, target, torch.nan)
    parts = net.objective(x, gaps, valid=valid)
    for name, part in net.objective(x, torch.where(valid, target, 0.7), valid=valid).items():
        torch.testing.assert_close(part, parts[name])
    for name, part in net.objective(x, torch.where(valid, target, 0.0)).items():
        assert part != parts[name]


# Long sequences, memory, batch statistics


def test_exact_clips_leave_the_loss_as_it_is_and_others_do_not():
    x, target = rain(steps=9), rain(steps=3, seed=1)
    plain = tiny().objective(x, target)
    assert "overlap" not in plain
    exact = tiny(clip_length=4, clip_carry="exact").objective(x, target)
    assert exact["overlap"].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(exact["mse"], plain["mse"])
    clipped = tiny(clip_length=4).objective(x, target)
    assert clipped["overlap"] > 1e-4
    assert clipped["mse"] != plain["mse"]


def test_the_overlap_is_part_of_the_loss():
    parts = tiny(clip_length=4, overlap_weight=3.0, **MAIN_ONLY).training_loss(
        rain(steps=9), rain(steps=3, seed=1)
    )
    torch.testing.assert_close(parts["loss"].detach(), parts["mse"] + 3 * parts["overlap"])


def test_recomputing_gives_the_same_gradients():
    x, target, edges = rain(), rain(steps=3, seed=1), draw_edges(Shares(0.5, 0.5), 8, 4)
    kept, again = (tiny(recompute=recompute) for recompute in (False, True))
    expected, found = (
        gradients(net, sum(net.objective(x, target, edges=edges).values())) for net in (kept, again)
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def statistics(net: SCS) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.named_buffers()}


def test_running_statistics_are_those_of_the_main_stream():
    x, target = rain(), rain(steps=3, seed=1)
    both, main = tiny(norm="batch"), tiny(norm="batch", **MAIN_ONLY)
    both.objective(x, target)
    main.objective(x, target)
    assert statistics(both).keys() == statistics(main).keys()
    for name, value in statistics(main).items():
        torch.testing.assert_close(statistics(both)[name], value, msg=name)
    assert statistics(main)["decoder.layers.3.spatial_norm.num_batches_tracked"] == 3


def test_explanations_under_batch_normalisation_stay_in_scale_and_touch_no_statistics():
    net = tiny(norm="batch", layers=12, residual=False)
    for _ in range(20):
        net.objective(rain(), rain(steps=3, seed=1))
    in_training = net(rain(), 1, explain=True)["aux"]
    before = statistics(net)
    in_evaluation = net.eval()(rain(), 1, explain=True)["aux"]
    for name in ("spatial", "temporal"):
        torch.testing.assert_close(in_evaluation[name], in_training[name])
    assert all(torch.equal(value, before[name]) for name, value in statistics(net).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"switch": "astsgd", "spatial_weight": 0.0}, "spatial sub-goal"),
        ({"switch": "stsgd", "switch_coupling": "complementary"}, "another coupling"),
        ({"norm": "batch", "recompute": True}, "group normalisation"),
        ({"explained_frames": 0}, "at least one frame"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SCSConfig(**changes)
