"""Heatmaps: values by hand, round trips up to the border, and decoders against plain loops."""

import math

import numpy as np
import pytest
import torch
from srrl_tasks.faces.codec import HeatmapCodec

from srrl.errors import UserError


def random_points(n, size, low=-0.5, high=None):
    generator = torch.Generator().manual_seed(0)
    high = size - 0.5 if high is None else high
    return low + (high - low) * torch.rand(n, 68, 2, generator=generator)


def test_encode_by_hand():
    codec = HeatmapCodec(128, 32, sigma=1.5)
    # u = (x + 1/2) / 4 - 1/2: 49.5 -> 12 and 25.5 -> 6, both pixel centres.
    heatmap = codec.encode(torch.tensor([[[49.5, 25.5]]]))[0, 0]
    assert heatmap[6, 12] == 1.0
    assert heatmap[6, 13].item() == pytest.approx(math.exp(-1 / 4.5))
    assert heatmap[8, 11].item() == pytest.approx(math.exp(-5 / 4.5))
    # Half a heatmap pixel to the right: two equal neighbours.
    heatmap = codec.encode(torch.tensor([[[51.5, 25.5]]]))[0, 0]
    assert heatmap[6, 12].item() == pytest.approx(math.exp(-0.25 / 4.5))
    assert heatmap[6, 13].item() == pytest.approx(math.exp(-0.25 / 4.5))


def test_unlabelled_points_give_zeros():
    codec = HeatmapCodec(128, 32)
    points = torch.full((1, 3, 2), 60.0)
    points[0, 1, 0] = float("nan")
    heatmaps = codec.encode(points, torch.tensor([[True, True, False]]))
    assert heatmaps[0, 0].max() > 0.9
    assert (heatmaps[0, 1:] == 0).all()


@pytest.mark.parametrize(
    "size, heatmap, sigma", [(128, 32, 1.5), (128, 32, 0.7), (128, 32, 3.0), (256, 64, 2.0), (100, 33, 1.5)]
)
def test_round_trip_everywhere_inside(size, heatmap, sigma):
    codec = HeatmapCodec(size, heatmap, sigma)
    points = random_points(20, size)
    edge = size - 0.5
    points[0, :4] = torch.tensor([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]])
    points[1, :, 0] = -0.4
    points[2, :, 1] = edge - 0.1
    decoded, score = codec.decode(codec.encode(points))
    assert (decoded - points).norm(dim=-1).max() < 0.01
    assert score.max() <= 1 and score[3:].min() > math.exp(-0.5 / (2 * sigma**2)) - 1e-4


def test_a_map_of_another_width_and_height_decodes_to_the_same_place():
    points = random_points(4, 128)
    heatmaps = 0.4 * HeatmapCodec(128, 32, 2.2).encode(points)
    decoded, _ = HeatmapCodec(128, 32, 1.5).decode(heatmaps)
    assert (decoded - points).norm(dim=-1).max() < 0.01


def test_heatmap_pixels_cover_blocks_of_crop_pixels():
    """A dot drawn at crop resolution and averaged over 4 x 4 blocks: a shared half-pixel error shows here."""
    points = random_points(1, 128, 20, 107)
    fine = HeatmapCodec(128, 128, sigma=6.0).encode(points)
    coarse = torch.nn.functional.avg_pool2d(fine, 4)
    decoded, _ = HeatmapCodec(128, 32, sigma=1.5).decode(coarse)
    assert (decoded - points).norm(dim=-1).max() < 0.02
    rows = torch.arange(128.0)
    x = (fine.sum(2) * rows).sum(-1) / fine.sum((2, 3))
    assert (x - points[..., 0]).abs().max() < 0.02


def test_points_outside_leave_a_tail_and_come_back_on_the_edge():
    codec = HeatmapCodec(128, 32)
    points = torch.tensor([[[-4.0, 60.0], [131.0, 60.0], [60.0, -2.0], [-900.0, 60.0]]])
    heatmaps = codec.encode(points)
    assert (heatmaps[0, :3].amax((1, 2)) < 0.9).all() and heatmaps[0, 3].max() == 0
    decoded, _ = codec.decode(heatmaps)
    expected = torch.tensor([[-0.5, 60.0], [127.5, 60.0], [60.0, -0.5]])
    assert torch.allclose(decoded[0, :3], expected, atol=0.01)


def noisy_maps(noise):
    points = random_points(1, 128)
    heatmaps = HeatmapCodec(128, 32).encode(points)
    generator = torch.Generator().manual_seed(1)
    return points, heatmaps + noise * torch.randn(heatmaps.shape, generator=generator)


def test_dark_equals_a_loop_of_weighted_least_squares():
    _, heatmaps = noisy_maps(0.02)
    decoded, _ = HeatmapCodec(128, 32).decode(heatmaps)
    floor = min(0.05, 0.9 * math.exp(-6.25 / 1.5**2))
    for heatmap, (x, y) in zip(heatmaps[0].double().numpy(), decoded[0].numpy(), strict=True):
        row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
        row_c, column_c = np.clip(row, 2, 29), np.clip(column, 2, 29)
        equations, targets = [], []
        for i in range(row_c - 2, row_c + 3):
            for j in range(column_c - 2, column_c + 3):
                height = heatmap[i, j] / heatmap.max()
                if height > floor:  # least squares on h r weighs r^2 by h^2
                    equations.append(height * np.array([1, j, i, j * j, i * i, i * j]))
                    targets.append(height * np.log(height))
        _, bx, by, a, b, c = np.linalg.lstsq(np.array(equations), np.array(targets), rcond=None)[0]
        u, v = np.linalg.solve([[2 * a, c], [c, 2 * b]], [-bx, -by])
        u, v = np.clip(u, column - 1, column + 1), np.clip(v, row - 1, row + 1)
        expected = np.clip([4 * (u + 0.5) - 0.5, 4 * (v + 0.5) - 0.5], -0.5, 127.5)
        assert np.abs(expected - [x, y]).max() < 1e-3


def test_noise_costs_little():
    # The Cramer-Rao bound for a Gaussian of sigma 1.5 in white noise of 0.05 is 0.028 heatmap pixels an axis, 0.11
    # crop pixels: sigma_u = noise sqrt(2 / pi).
    points, heatmaps = noisy_maps(0.05)
    inside = ((points > 12) & (points < 115)).all(-1)
    decoded, _ = HeatmapCodec(128, 32).decode(heatmaps)
    rms = (decoded - points)[inside].pow(2).mean().sqrt()
    assert rms < 2 * 4 * 0.05 * math.sqrt(2 / math.pi)


def test_topk_equals_a_loop():
    _, heatmaps = noisy_maps(0.02)
    heatmaps[0, :5] -= 0.6  # so few positive values are left that some of the nine are negative
    decoded, score = HeatmapCodec(128, 32, decoder="topk", topk=9).decode(heatmaps)
    for index, heatmap in enumerate(heatmaps[0].double().numpy()):
        order = np.argsort(heatmap.ravel())[::-1][:9]
        weights = np.clip(heatmap.ravel()[order], 0, None)
        u = (weights * (order % 32)).sum() / weights.sum()
        v = (weights * (order // 32)).sum() / weights.sum()
        assert np.abs(decoded[0, index].numpy() - [4 * (u + 0.5) - 0.5, 4 * (v + 0.5) - 0.5]).max() < 1e-3
        assert score[0, index].item() == pytest.approx(heatmap.max())


@pytest.mark.parametrize("decoder", ["dark", "topk"])
@pytest.mark.parametrize("value", [0.0, -1.0, 0.3])
def test_a_map_without_a_peak_gives_a_finite_place(decoder, value):
    points, score = HeatmapCodec(128, 32, decoder=decoder).decode(torch.full((2, 3, 32, 32), value))
    assert torch.isfinite(points).all() and (score == value).all()


def test_negative_values_around_the_peak_do_not_matter():
    points = random_points(2, 128, 20, 107)
    heatmaps = HeatmapCodec(128, 32).encode(points)
    heatmaps[heatmaps < 0.05] = -0.3
    decoded, _ = HeatmapCodec(128, 32).decode(heatmaps)
    assert (decoded - points).norm(dim=-1).max() < 0.01


def test_reduced_precision():
    codec = HeatmapCodec(128, 32)
    points = random_points(2, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded, _ = codec.decode(codec.encode(points))
    assert decoded.dtype == torch.float32 and (decoded - points).abs().max() < 0.01
    decoded, _ = codec.decode(codec.encode(points).bfloat16())
    assert (decoded - points).norm(dim=-1).mean() < 0.1  # bfloat16 keeps 8 bits of each height


@pytest.mark.parametrize(
    "wrong", [{"decoder": "max"}, {"heatmap_size": 4}, {"sigma": 0.0}, {"sigma": float("nan")}]
)
def test_wrong_settings_are_refused(wrong):
    settings = {"input_size": 128, "heatmap_size": 32, "sigma": 1.5, "decoder": "dark"} | wrong
    with pytest.raises(UserError, match="expected"):
        HeatmapCodec(**settings)
    with pytest.raises(ValueError, match="expected 32 x 32"):
        HeatmapCodec(128, 32).decode(torch.zeros(1, 1, 16, 16))
