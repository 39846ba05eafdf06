"""FANet: its parts against naive computations, its memory against whole sequences, its size."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.fanet import network as fanet
from models.fanet.network import FANet, FANetConfig, FANetState, FastAttention, ResidualBlock, over_history
from models.fanet.segmentation import IGNORED, Mining, confusion_matrix, miou, segmentation_loss

TINY = FANetConfig(
    classes=3, widths=(4, 6, 8, 10), key_channels=3, smooth=4, blocks=(1, 1, 1, 1), auxiliary=True
)
PAPER = FANetConfig(
    widths=(64, 128, 256, 512),
    blocks=(2, 2, 2, 2),
    strides=(2, 2, 2, 2),
    key_channels=32,
    smooth=128,
    auxiliary=False,
)


M = TypeVar("M", bound=nn.Module)


def lived_in(module: M, seed: int = 0) -> M:
    """Return the module in evaluation, with normalisations as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel() ** 0.5
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator).to(layer.weight) / fan
        if isinstance(layer, nn.BatchNorm2d):
            size = layer.weight.shape
            layer.weight.data = (0.5 + torch.rand(size, generator=generator)).to(layer.weight)
            layer.bias.data = (torch.randn(size, generator=generator) / 4).to(layer.bias)
            layer.running_mean = torch.randn(size, generator=generator).to(layer.weight) / 4
            layer.running_var = 0.5 + torch.rand(size, generator=generator).to(layer.weight)
    return module.eval()


def net(**changes: object) -> FANet:
    """Return a small network that is as if it had been trained."""
    return lived_in(FANet(replace(TINY, **changes)))


def film(batch: int = 1, frames: int = 5, height: int = 64, width: int = 64, seed: int = 1) -> Tensor:
    """Return frames ``(b, t, 1, y, x)``."""
    return torch.rand(batch, frames, 1, height, width, generator=torch.Generator().manual_seed(seed))


def watch(network: FANet, frames: Tensor) -> Tensor:
    """Return the logits of frames that come in one by one."""
    state, seen = None, []
    for frame in frames.unbind(1):
        logits, state = network.observe(frame, state)
        seen.append(logits)
    return torch.stack(seen, dim=1)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (PAPER, 13_656_384),
        (replace(PAPER, channels=3, classes=19), 13_665_984),
        (replace(PAPER, strides=(1, 2, 2, 2)), 13_656_384),
        (FANetConfig(auxiliary=False), 468_752),
        (FANetConfig(), 478_224),
    ],
)
def test_the_number_of_parameters_is_the_published_one(config: FANetConfig, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in FANet(config).parameters()) == parameters


def test_parts_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        paper = FANet(replace(PAPER, channels=3, classes=19))
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in paper.named_children()}
    assert count["stem"] + count["stages"] == 11_176_512
    assert count["smooth_coarse"] == 590_080
    assert count["attention"] == sum(2 * (c * 32 + 64) + 2 * (c * c + 2 * c) for c in (64, 128, 256, 512))


def test_attention_by_the_short_way_is_attention_by_the_long_way() -> None:
    attention = lived_in(FastAttention(6, 4))
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(2))
    coarser = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(3))
    projected = attention.project(x).flatten(2)
    query = functional.normalize(projected[:, :4], dim=1)
    key = functional.normalize(projected[:, 4:8], dim=1)
    value = functional.leaky_relu(projected[:, 8:], 0.01)
    every_pair = query.transpose(1, 2) @ key / 35
    attended = (every_pair @ value.transpose(1, 2)).transpose(1, 2).reshape(2, 6, 5, 7)
    expected = x + attention.mix(attended)
    expected = expected + functional.interpolate(coarser, size=(5, 7), mode="bilinear", align_corners=False)
    close(attention(x, *attention.context(x), coarser), expected)


def test_queries_and_keys_count_by_their_direction_alone() -> None:
    attention = lived_in(FastAttention(6, 4))
    x = 100 * torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(2))
    query, product = attention.context(x)
    close(query.norm(dim=1), torch.ones(2, 5, 7))
    attention.project.norm.weight.data[:8] *= 1000
    attention.project.norm.bias.data[:8] *= 1000
    longer_query, longer_product = attention.context(x)
    close(longer_query, query)
    close(longer_product, product)


def test_the_product_does_not_depend_on_where_positions_lie() -> None:
    attention = lived_in(FastAttention(6, 4))
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(35, generator=torch.Generator().manual_seed(3))
    shuffled = x.flatten(2)[..., order].view_as(x)
    close(attention.context(shuffled)[1], attention.context(x)[1])


def test_the_product_does_not_depend_on_how_often_a_scene_is_repeated() -> None:
    attention = lived_in(FastAttention(6, 4))
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(2))
    close(attention.context(x.repeat(1, 1, 2, 3))[1], attention.context(x)[1])


def test_without_history_frames_are_seen_one_by_one_to_the_last_bit() -> None:
    frames, network = film(2, 3), net()
    assert torch.equal(network(frames).flatten(0, 1), network(frames.flatten(0, 1)[:, None])[:, 0])


def test_a_first_frame_is_seen_as_without_history_to_the_last_bit() -> None:
    frames = film(2, 1)
    assert torch.equal(net(history=3)(frames), net()(frames))


@pytest.mark.parametrize("history", [2, 9])
def test_a_frame_repeated_is_seen_as_one_frame(history: int) -> None:
    frames = film(2, 1).expand(-1, history + 3, -1, -1, -1)
    close(net(history=history)(frames), net()(frames))


def test_a_sum_over_the_history_is_not_a_mean() -> None:
    frames = film(1, 3)
    mean, total = net(history=2)(frames), net(history=2, reduce="sum")(frames)
    close(mean[:, 0], total[:, 0])
    assert (mean[:, 1:] - total[:, 1:]).abs().max() > 1e-3


@pytest.mark.parametrize("history", [1, 3, 9, 40])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_products_are_summed_frame_by_frame(history: int, reduce: str) -> None:
    products = torch.randn(2, 12, 3, 4, generator=torch.Generator().manual_seed(4))
    for t in range(12):
        terms = products[:, max(0, t - history) : t + 1]
        expected = terms.mean(1) if reduce == "mean" else terms.sum(1)
        close(over_history(products, history, reduce)[:, t], expected)


def test_products_are_summed_and_not_keys_and_values_apart() -> None:
    frames, network = film(1, 2), net(history=1, reduce="sum")
    attention = network.attention[0]
    assert isinstance(attention, FastAttention)
    features = network._look(frames[0])[0].features
    first, second = attention.context(features)[1]
    seen = network._look_at_all(frames)[0].product[1]
    close(seen, first + second)
    projected = attention.project(features)
    key = functional.normalize(projected[:, 3:6], dim=1).sum(0).flatten(1)
    value = functional.leaky_relu(projected[:, 6:], 0.01).sum(0).flatten(1)
    apart = key @ value.T / key.shape[1]
    assert (seen - apart).abs().max() > 0.01


@pytest.mark.parametrize("history", [0, 1, 2, 9])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_frames_that_come_in_one_by_one_are_seen_as_in_a_sequence(history: int, reduce: str) -> None:
    frames, network = film(2, 6 if history < 9 else 13, 33, 40), net(history=history, reduce=reduce)
    close(watch(network, frames), network(frames))


def test_a_state_is_left_as_it_is_and_keeps_no_graph() -> None:
    frames, network = film(1, 4), net(history=2)
    state = None
    for frame in frames[:, :3].unbind(1):
        _, state = network.observe(frame, state)
    assert state is not None
    before = [total.clone() for total in state.totals]
    once, later = network.observe(frames[:, 3], state)
    again, _ = network.observe(frames[:, 3], state)
    assert torch.equal(once, again)
    assert all(torch.equal(a, b) for a, b in zip(before, state.totals, strict=True))
    assert len(later.past) == 2
    assert later.frames == 4
    assert not any(total.requires_grad for total in (*later.totals, *later.past[0]))


def test_what_a_stream_remembers_does_not_grow_with_the_grid() -> None:
    sizes = []
    for width in (64, 96):
        _, state = net(history=2).observe(film(1, 1, 64, width)[:, 0])
        sizes.append([tuple(product.shape) for product in state.past[0]])
    assert sizes[0] == sizes[1] == [(1, 3, c) for c in TINY.widths]


def test_a_stream_begins_anew_after_a_gap_but_not_after_a_delay() -> None:
    frames, network = film(1, 2), net(history=2)
    _, state = network.observe(frames[:, 0])
    alone, afresh = network.observe(frames[:, 1])
    gap, after = network.observe(frames[:, 1], state, scans_since=2.0)
    late, _ = network.observe(frames[:, 1], state, scans_since=1.4)
    assert torch.equal(gap, alone)
    assert after.frames == afresh.frames == 1
    close(late, network(frames)[:, 1])
    assert (late - alone).abs().max() > 1e-4


def test_running_sums_are_added_up_afresh_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, network = film(1, 7), net(history=2).requires_grad_(False)
    assert fanet.REFRESH_FRAMES == 1000
    monkeypatch.setattr(fanet, "REFRESH_FRAMES", 5)
    state: FANetState | None = None
    apart = []
    for t, frame in enumerate(frames.unbind(1)):
        logits, state = network.observe(frame, state)
        if t == 2:
            state = state._replace(totals=tuple(total + 1 for total in state.totals))
        apart.append((logits - network(frames)[:, t]).abs().max().item())
    assert max(apart[:3]) < 1e-5
    assert min(apart[3:5]) > 1e-3
    assert max(apart[5:]) < 1e-5


def test_a_running_sum_drifts_no_further_than_rounding_in_a_thousand_frames() -> None:
    generator = torch.Generator().manual_seed(6)
    state = FANetState((), (), 0, (1, 1, 1, 1))
    for _ in range(1500):
        state = fanet._after(state, (torch.randn(1, 3, 4, generator=generator),), 4)
    close(state.totals[0], torch.stack([stage for (stage,) in state.past]).sum(0))
    assert len(state.past) == 4


def test_a_frame_of_another_size_does_not_fit_a_stream() -> None:
    network = net(history=1)
    _, state = network.observe(film(1, 1)[:, 0])
    with pytest.raises(ValueError, match="as in the stream"):
        network.observe(film(1, 1, 64, 32)[:, 0], state)


def test_the_order_of_the_frames_before_does_not_matter() -> None:
    frames, network = film(1, 4), net(history=3)
    close(network(frames[:, [2, 0, 1, 3]])[:, 3], network(frames)[:, 3])


@pytest.mark.parametrize("history", [0, 2, 9])
def test_a_frame_sees_n_frames_before_it_and_no_others(history: int) -> None:
    frames, network = film(1, 13), net(history=history)
    before = network(frames)
    for changed in (1, 3, 11):
        other = frames.clone()
        other[:, changed] = other[:, changed].flip(-1) * 0.5
        moved = (network(other) - before).abs().amax((0, 2, 3, 4))
        seen = torch.arange(13).sub(changed)
        within = (seen >= 0) & (seen <= history)
        assert (moved[within] > 1e-4).all()
        assert (moved[~within] < 1e-5).all()


def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    frames, network = film(2, 4).requires_grad_(), net(history=2)
    logits = network(frames)
    logits[0].square().sum().backward()
    assert frames.grad is not None
    assert (frames.grad[1] == 0).all()
    assert (frames.grad[0] != 0).any()
    other = frames.detach().clone()
    other[1] = 1 - other[1]
    close(network(other)[0], logits[0])


def test_first_frames_are_not_scored_but_learn_through_later_ones() -> None:
    frames, network = film(1, 4).requires_grad_(), net(history=2)
    labels = torch.randint(0, 3, (1, 4, 64, 64), generator=torch.Generator().manual_seed(8))
    projections = [attention.project.conv.weight for attention in network.attention]
    logits = network.coarse(frames)
    logits.main.retain_grad()
    segmentation_loss(logits.main, labels, excluded=2)["loss"].backward()
    assert logits.main.grad is not None
    assert frames.grad is not None
    assert (logits.main.grad[:, :2] == 0).all()
    assert (frames.grad[:, :2] != 0).any((2, 3, 4)).all()
    through_all = [weight.grad.clone() for weight in projections]
    network.zero_grad()
    products = [view.product.detach() for view in network._look(frames[0, :2].detach())]
    views = network._look(frames[0, 2:].detach())
    cut = [
        view._replace(product=torch.stack([(a.sum(0) + f[0]) / 3, (a[1] + f.sum(0)) / 3]))
        for view, a, f in zip(views, products, (view.product for view in views), strict=True)
    ]
    late = network._classify(cut)[None]
    torch.testing.assert_close(late, logits.main[:, 2:].detach(), rtol=1e-4, atol=1e-4)
    segmentation_loss(late, labels[:, 2:])["loss"].backward()
    for weight, full in zip(projections, through_all, strict=True):
        assert (weight.grad[3:] - full[3:]).abs().max() > 1e-6  # keys and values


@pytest.mark.parametrize(
    ("strides", "factor"), [((1, 2, 2, 2), 4), ((2, 2, 2, 2), 8)], ids=["quarter", "eighth"]
)
def test_coarse_logits_have_a_quarter_or_an_eighth_of_the_cells_a_side(
    strides: tuple[int, ...], factor: int
) -> None:
    network = net(strides=strides)
    coarse = network.coarse(film(2, 3, 128, 64))
    assert coarse.main.shape == (2, 3, 3, 128 // factor, 64 // factor)
    last, middle = coarse.auxiliary
    assert last.shape[-2:] == (128 // (8 * factor), 64 // (8 * factor))
    assert middle.shape[-2:] == (128 // (4 * factor), 64 // (4 * factor))
    assert network.stride == 8 * factor


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 96), (70, 31)])
def test_frames_of_any_size_are_seen_as_if_padded_with_no_echo(size: tuple[int, int]) -> None:
    frames, network = film(1, 2, *size), net(history=1)
    logits = network(frames)
    assert logits.shape == (1, 2, 3, *size)
    padded = functional.pad(frames, (0, -size[1] % 32, 0, -size[0] % 32))
    assert torch.equal(logits, network(padded)[..., : size[0], : size[1]])


def test_logits_are_enlarged_from_cell_centres() -> None:
    network = net()
    frames = film(1, 1, 64, 64)
    expected = functional.interpolate(
        network.coarse(frames).main[:, 0], size=(64, 64), mode="bilinear", align_corners=False
    )
    close(network(frames)[:, 0], expected)


@pytest.mark.parametrize("training", [True, False])
def test_frames_without_any_echo_give_finite_logits_and_gradients(training: bool) -> None:
    network = FANet(replace(TINY, history=1)).train(training)
    frames = torch.zeros(2, 3, 1, 64, 64, requires_grad=True)
    logits = network(frames)
    logits.square().sum().backward()
    assert frames.grad is not None
    assert logits.isfinite().all()
    assert frames.grad.isfinite().all()


def test_a_fused_network_says_the_same_in_a_sequence_and_in_a_stream() -> None:
    network, frames = net(history=2), film(2, 4, 50, 70)
    fused = network.fused()
    close(fused(frames), network(frames))
    close(watch(fused, frames), network(frames))


def test_a_fused_network_has_no_normalisation_and_nothing_that_only_training_needs() -> None:
    network = net()
    fused = network.fused()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    assert fused.smooth_coarse is None
    assert len(fused.auxiliary) == 0
    assert not any(weight.requires_grad for weight in fused.parameters())
    assert not fused.training
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    assert fused.stem(film()[:, 0]).is_contiguous(memory_format=torch.channels_last)


def test_inference_does_not_run_what_only_training_needs() -> None:
    network = net()
    assert network.smooth_coarse is not None

    def forbidden(*_: object) -> None:
        raise AssertionError

    for part in (network.smooth_coarse, *network.auxiliary):
        part.register_forward_hook(forbidden)
    network(film())
    network.observe(film()[:, 0])
    with pytest.raises(AssertionError):
        network.coarse(film())


def test_logits_change_with_every_part_of_the_input_and_with_every_stage() -> None:
    network = net(channels=2, history=1)
    frames = torch.rand(1, 2, 2, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    network(frames)[:, 1].square().sum().backward()
    assert frames.grad is not None
    assert (frames.grad.abs().sum((0, 3, 4)) > 0).all()
    assert (frames.grad[0, 1] != 0).float().mean() > 0.9
    assert all(weight.grad is not None for part in network.attention for weight in part.parameters())
    assert all(weight.grad is not None for part in network.up for weight in part.parameters())


def test_training_reaches_every_parameter_where_auxiliary_heads_take_part() -> None:
    frames = film(2, 3)
    labels = torch.randint(0, 3, (2, 3, 64, 64), generator=torch.Generator().manual_seed(8))
    for auxiliary, idle in ((True, set()), (False, {"smooth_coarse"})):
        network = FANet(replace(TINY, auxiliary=auxiliary))
        network.training_loss(frames, labels)["loss"].backward()
        without = {name.split(".")[0] for name, weight in network.named_parameters() if weight.grad is None}
        assert without == idle


def test_the_training_loss_is_that_of_the_logits_and_of_labels_not_ignored() -> None:
    network, frames = net(history=1), film(2, 3, 50, 70)
    labels = torch.randint(-1, 3, (2, 3, 50, 70), generator=torch.Generator().manual_seed(8))
    options = {"class_weights": torch.tensor([1.0, 2.0, 3.0]), "mining": Mining(0.2, 0.1)}
    coarse = network.coarse(frames)
    padded = torch.full((2, 3, 64, 96), IGNORED)
    padded[..., :50, :70] = labels
    expected = segmentation_loss(
        coarse.main,
        padded,
        auxiliary=coarse.auxiliary,
        excluded=1,
        **options,
    )
    loss = network.training_loss(frames, labels, **options)
    assert loss.keys() == {"loss", "cross_entropy", "auxiliary_1", "auxiliary_2"}
    torch.testing.assert_close(loss, expected)


def test_a_sequence_too_short_for_the_history_does_not_train() -> None:
    labels = torch.zeros(1, 3, 64, 64, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least 4 frames"):
        net(history=2).training_loss(film(1, 3), labels)


def test_labels_of_another_grid_do_not_train() -> None:
    with pytest.raises(ValueError, match="expected labels"):
        net().training_loss(film(1, 3), torch.zeros(1, 3, 64, 63, dtype=torch.int64))


def test_frames_of_another_kind_are_refused() -> None:
    for wrong in (film()[:, 0], torch.rand(1, 2, 3, 64, 64), film().to(torch.int32), film()[:, :0]):
        with pytest.raises(ValueError, match="expected frames"):
            net()(wrong)
    with pytest.raises(ValueError, match="history"):
        FANet(replace(TINY, history=-1))


@pytest.mark.parametrize("training", [True, False])
def test_the_attentions_gradient_is_that_of_its_differences(training: bool) -> None:
    attention = lived_in(FastAttention(3, 2)).double().train(training)
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    coarser = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def whole(x: Tensor, coarser: Tensor) -> Tensor:
        query, product = attention.context(x)
        return attention(x, query, product.flip(0), coarser)

    assert torch.autograd.gradcheck(whole, (x, coarser))


@pytest.mark.parametrize(("out", "stride"), [(3, 1), (3, 2), (4, 2)])
def test_a_residual_blocks_gradient_is_that_of_its_differences(out: int, stride: int) -> None:
    block = lived_in(ResidualBlock(3, out, stride)).double()
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert torch.autograd.gradcheck(block, (x.requires_grad_(),))


def test_a_residual_block_adds_to_every_second_cell_and_rectifies_the_sum() -> None:
    block = lived_in(ResidualBlock(3, 3, 2))
    x = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(9))
    between = block.first.norm(block.first.conv(x))
    added = block.second.norm(block.second.conv(torch.where(between > 0, between, 0.01 * between)))
    assert (between < 0).any()
    close(block(x), (x[..., ::2, ::2] + added).clamp(min=0))


def test_the_whole_networks_gradient_is_that_of_its_differences() -> None:
    network = lived_in(FANet(replace(TINY, widths=(2, 3, 3, 4), smooth=2, history=1))).double()
    frames = film(1, 2, 32, 32).double().requires_grad_()
    assert torch.autograd.gradcheck(network, (frames,), fast_mode=True)


def test_a_network_in_half_precision_keeps_its_memory_in_float32() -> None:
    network, frames = net(history=2), film(1, 4)
    low = net(history=2).to(torch.bfloat16)
    logits, state = low.observe(frames[:, 0].to(torch.bfloat16))
    assert logits.dtype == torch.bfloat16
    assert all(total.dtype == torch.float32 for total in (*state.totals, *state.past[0]))
    assert (low(frames.to(torch.bfloat16)).float() - network(frames)).abs().mean() < 0.2


def test_a_network_learns_what_a_cell_alone_does_not_tell() -> None:
    generator = torch.Generator().manual_seed(3)
    frames = torch.zeros(4, 1, 1, 64, 64)
    labels = torch.zeros(4, 1, 64, 64, dtype=torch.int64)
    for b in range(4):
        wide, narrow = (int(at) for at in torch.randint(0, 5, (2,), generator=generator))
        frames[b, 0, 0, 4:30, 8 * wide : 8 * wide + 28] = 0.5
        labels[b, 0, 4:30, 8 * wide : 8 * wide + 28] = 1
        frames[b, 0, 0, 44:52, 8 * narrow : 8 * narrow + 8] = 0.5
        labels[b, 0, 44:52, 8 * narrow : 8 * narrow + 8] = 2
    torch.manual_seed(0)
    network = FANet(replace(TINY, widths=(8, 16, 16, 16), smooth=16))
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        network.training_loss(frames, labels)["loss"].backward()
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        predicted = network(frames).argmax(2)
    assert miou(confusion_matrix(predicted, labels, 3)) > 0.75
