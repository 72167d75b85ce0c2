"""The connector: its layers, its initialisation, its two activations, and its place before the pooling."""

import math

import pytest
import torch
from torch import nn
from toys import tiny

from srrl.api import CrossEntropyCriterion
from srrl.connector import Connector
from srrl.distillers import build_distiller
from srrl.distillers.base import MethodSettings
from srrl.distillers.srrl import match_features


def transparent(activation="relu", channels=1):
    """A connector in eval mode that is the activation alone: unit weights, BatchNorm without effect."""
    connector = Connector(channels, channels, activation).eval()
    with torch.no_grad():
        connector.conv.weight.copy_(torch.eye(channels).view(channels, channels, 1, 1))
        connector.bn.running_var.fill_(1 - connector.bn.eps)
    return connector


def test_layers_are_a_1x1_convolution_without_bias_then_batchnorm_then_relu():
    layers = list(Connector(3, 8).children())
    assert [type(m) for m in layers] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    conv = layers[0]
    assert conv.bias is None
    assert (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    assert Connector(3, 8)(torch.rand(2, 3, 5, 4)).shape == (2, 8, 5, 4)


def test_order_conv_batchnorm_relu_by_hand():
    connector = Connector(1, 1).eval()
    with torch.no_grad():
        connector.conv.weight.fill_(2.0)
        connector.bn.running_mean.fill_(3.0)
        connector.bn.running_var.fill_(4.0 - connector.bn.eps)
        connector.bn.weight.fill_(10.0)
        connector.bn.bias.fill_(1.0)
    # (2·x − 3) / 2 · 10 + 1: x = 2 -> 6, x = 1 -> −4 -> 0
    out = connector(torch.tensor([2.0, 1.0]).view(1, 1, 1, 2))
    assert out.flatten().tolist() == pytest.approx([6.0, 0.0], rel=1e-5)


@pytest.mark.parametrize(("student", "teacher"), [(64, 512), (512, 64)])
def test_initialisation_is_he_normal_fan_out(student, teacher):
    torch.manual_seed(0)
    weight = Connector(student, teacher).conv.weight.detach()
    expected = math.sqrt(2 / teacher)  # fan-out of a 1×1 convolution is its output channels
    # 32768 draws: the standard error of the standard deviation is 0.4 %
    assert float(weight.std()) == pytest.approx(expected, rel=0.02)
    assert abs(float(weight.mean())) < 4 * expected / math.sqrt(weight.numel())
    assert float((weight.abs() < expected).float().mean()) == pytest.approx(0.6827, abs=0.015)  # normal


def test_relu_gives_no_negatives_and_identity_does():
    torch.manual_seed(0)
    x = torch.randn(4, 5, 3, 3)
    assert Connector(5, 7)(x).min() == 0
    assert Connector(5, 7, "identity")(x).min() < 0
    assert transparent("identity")(torch.full((1, 1, 1, 1), -2.0)).item() == pytest.approx(-2.0, rel=1e-5)


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="relu or identity"):
        Connector(2, 2, "gelu")


def test_connecting_the_map_differs_from_connecting_pooled_vectors():
    features = torch.tensor([3.0, -1.0, -1.0, -1.0]).view(1, 1, 2, 2)
    connector = transparent()
    before_pooling = connector(features).mean((2, 3)).item()
    after_pooling = connector(features.mean((2, 3), keepdim=True)).item()
    assert before_pooling == pytest.approx(0.75, rel=1e-5)
    assert after_pooling == 0.0


def test_the_distiller_connects_before_it_pools():
    student, teacher = tiny(1, act=nn.Identity, norm=False), tiny(1, seed=1)
    method = build_distiller(
        "srrl", student, teacher, CrossEntropyCriterion(), MethodSettings(connector_activation="relu")
    ).eval()
    method.connector = transparent()
    features = torch.tensor([3.0, -1.0, -1.0, -1.0]).view(1, 1, 2, 2)
    connected = method.connect(features, torch.zeros(1, 1, 4, 4))
    # mean of ReLU = 0.75 against the teacher's 0: 0.5625; pooled first it would be ReLU(0) = 0
    fm = match_features(method.criterion, connected, torch.zeros(1, 1, 4, 4), None)
    assert fm.item() == pytest.approx(0.5625, rel=1e-5)
