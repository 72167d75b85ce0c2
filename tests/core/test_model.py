"""Adapters: head ∘ features is each library's own forward, maps are NCHW, and what does not fit is said in one line."""

import socket
import time

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock
from toys import tiny

from srrl.adapters import Backbone, TimmModel, TorchvisionModel, adapt, build_backbone, build_model
from srrl.errors import UserError
from srrl.frozen import Frozen
from srrl.inspection import count_macs, count_parameters
from srrl.model import Split, to_unit

zoo = torchvision.models


def small_vgg():
    return zoo.VGG(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(4)), 5, init_weights=False
    )


def vgg():
    model = small_vgg()
    model.classifier = nn.Sequential(nn.Linear(6 * 49, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 5))
    return model


SWIN = dict(img_size=56, embed_dim=12, depths=(1, 1), num_heads=(1, 2), window_size=7, num_classes=5)
# name -> (builder, image size, map's channels and side, sides of the intermediate maps)
LIBRARY = {
    "timm-resnet": (lambda: timm.create_model("test_resnet", num_classes=5), 64, (96, 2), [32, 16, 8, 4, 2]),
    "timm-mobilenetv3": (
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
        64,
        (288, 2),
        [32, 16, 8, 4, 2],
    ),
    "timm-convnext": (lambda: timm.create_model("test_convnext", num_classes=5), 64, (64, 2), [16, 8, 4, 2]),
    "timm-vit-token": (lambda: timm.create_model("test_vit", num_classes=5), 160, (64, 1), [10] * 6 + [1]),
    "timm-vit-pooled": (lambda: timm.create_model("test_vit2", num_classes=5), 160, (64, 10), [10] * 8),
    "timm-swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWIN), 56, (24, 7), [14, 7]),
    "resnet": (lambda: zoo.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), 64, (512, 2), [16, 8, 4, 2]),
    "mobilenet_v2": (lambda: zoo.MobileNetV2(5, width_mult=0.1), 64, (1280, 2), [2]),
    "mobilenet_v3": (lambda: zoo.mobilenet_v3_small(num_classes=5), 64, (576, 2), [2]),
    "shufflenet": (lambda: zoo.shufflenet_v2_x0_5(num_classes=5), 64, (1024, 2), [8, 4, 2, 2]),
    "convnext": (
        lambda: zoo.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=5),
        64,
        (16, 8),
        [8],
    ),
    "densenet": (
        lambda: zoo.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5),
        64,
        (16, 8),
        [8],
    ),
    "vgg": (vgg, 64, (6, 16), [16]),
}


# these were trained on inputs in −1 to 1, the others on ImageNet's statistics
HALF = ("timm-resnet", "timm-convnext", "timm-vit-token", "timm-vit-pooled")


@pytest.fixture(scope="module")
def models():
    """Each library model once, with BatchNorm statistics of its own so that train and eval mode differ."""
    cache = {}

    def get(name):
        if name not in cache:
            torch.manual_seed(0)
            model = LIBRARY[name][0]()
            for m in model.modules():
                if isinstance(m, nn.BatchNorm2d):
                    nn.init.uniform_(m.running_mean, -0.1, 0.1)
                    nn.init.uniform_(m.running_var, 0.5, 1.5)
            cache[name] = model, adapt(model)
        return cache[name]

    return get


@pytest.mark.parametrize("name", LIBRARY)
def test_head_of_features_is_the_librarys_own_forward(name, models):
    own, model = models(name)
    _, size, (channels, side), _ = LIBRARY[name]
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    if name in HALF:
        mean = std = torch.full((3,), 0.5)
    model.eval()
    with torch.no_grad():
        expected = own((x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
        features = model.forward_features(x)
        found = model.forward_head(features)
        whole = model(x)
    assert features.shape == (2, channels, side, side)
    assert model.feature_channels == channels
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole, found)


@pytest.mark.parametrize("name", LIBRARY)
def test_intermediate_maps_have_the_shapes_of_the_stages(name, models):
    _, model = models(name)
    _, size, (channels, side), sides = LIBRARY[name]
    model.eval()
    with torch.no_grad():
        x = torch.rand(1, 3, size, size)
        maps, features = model.forward_intermediates(x), model.forward_features(x)
    assert [m.shape[2] for m in maps] == [m.shape[3] for m in maps] == sides
    assert maps[-1].shape[1:] == (channels, side, side)
    torch.testing.assert_close(maps[-1], features)


@pytest.mark.parametrize("name", ["timm-swin", "timm-vit-pooled"])
def test_maps_keep_the_picture_upright(name, models):
    """A change in the upper right corner of the picture moves the map most in its upper right corner."""
    _, model = models(name)
    size = LIBRARY[name][1]
    x = torch.full((1, 3, size, size), 0.5)
    changed = x.clone()
    changed[:, :, : size // 7, -size // 7 :] = 1.0
    model.eval()
    with torch.no_grad():
        moved = (model.forward_features(changed) - model.forward_features(x)).abs().mean((0, 1))
    row, column = divmod(int(moved.argmax()), moved.shape[1])
    assert row < moved.shape[0] / 2 < column


def test_densenets_map_is_what_its_head_pools(models):
    _, model = models("densenet")
    model.eval()
    with torch.no_grad():
        assert (
            model.forward_features(torch.rand(1, 3, 64, 64)).min() >= 0
        )  # its ReLU is a function in forward


@pytest.mark.parametrize(
    "name",
    ["deit_tiny_distilled_patch16_224", "test_vit3", "xcit_nano_12_p16_224", "mixer_s32_224"],
)
def test_heads_that_read_more_than_the_last_map_are_refused(name):
    with pytest.raises(UserError, match="not a head on its last map.*Split"):
        build_model(f"timm/{name}", num_classes=5)


@pytest.mark.parametrize(
    "make", [lambda: zoo.squeezenet1_1(num_classes=5), lambda: zoo.mnasnet0_5(num_classes=5)]
)
def test_torchvision_models_that_do_not_fit_are_refused(make):
    with pytest.raises(UserError, match="Split"):
        adapt(make())


def test_build_model_by_name():
    assert build_model("timm/test_resnet", num_classes=7)(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    model = build_model("torchvision/shufflenet_v2_x0_5", num_classes=7)
    assert isinstance(model, TorchvisionModel)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm/resnet19", "timm has no model 'resnet19'.*did you mean"),
        ("torchvision/resnet19", "torchvision has no model 'resnet19'.*did you mean .*resnet1[58]"),
        ("torchvision/fasterrcnn_resnet50_fpn", "torchvision has no model"),  # no classifier
        ("torchvision/r3d_18", "torchvision has no model"),
        ("resnet18", "expected timm/<name> or torchvision/<name>"),
        ("keras/resnet18", "expected timm/<name> or torchvision/<name>"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, said):
    with pytest.raises(UserError, match=said) as error:
        build_model(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/shufflenet_v2_x0_5"])
def test_pretrained_without_a_network_is_one_line_and_fast(name, monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "localhost")  # which is no proxy
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(
        UserError, match=f"pretrained weights of {name} could not be fetched.*pretrained=false"
    ) as error:
        build_model(name, pretrained=True)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 30


def test_split_finds_its_channels_and_normalises():
    model = Split(
        nn.Conv2d(3, 11, 3), nn.Flatten(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.125), probe=(3, 9, 9)
    )
    assert model.feature_channels == 11
    seen = []
    model.features.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model(torch.full((1, 3, 3, 3), 0.75))
    assert seen[0][0, :, 0, 0].tolist() == [0.5, 1.0, 2.0]
    assert Split(nn.Identity(), nn.Identity(), channels=5).feature_channels == 5  # told, so not probed
    (stage,) = model.forward_intermediates(torch.ones(1, 3, 5, 5))
    assert stage.shape == (1, 11, 3, 3)


def test_probing_leaves_statistics_and_modes_alone():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval())
    before = {k: v.clone() for k, v in features.state_dict().items()}
    Split(features, nn.Flatten())
    assert all(torch.equal(v, before[k]) for k, v in features.state_dict().items())
    assert [m.training for m in features] == [True, True, False]
    resnet = zoo.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5).eval()
    adapt(resnet)
    assert not resnet.training
    assert int(resnet.bn1.num_batches_tracked) == 0


def test_a_model_is_probed_on_its_own_device():
    with torch.device("meta"):  # stands in for a GPU: tensors of two devices do not mix
        features, head = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)
    split = Split(features, head)
    assert split.feature_channels == 6
    assert split.normalize.mean.device.type == "meta"


def test_adapt_leaves_what_complies_and_wraps_what_it_knows():
    split = tiny()
    assert adapt(split) is split

    class Own(nn.Module):
        feature_channels = 3

        def forward_features(self, x):
            return x

        def forward_head(self, features):
            return features.mean((2, 3))

    own = Own()
    assert adapt(own) is own
    assert isinstance(adapt(timm.create_model("test_resnet", num_classes=2)), TimmModel)
    with pytest.raises(UserError, match=r"Linear has no forward_features.*srrl\.Split"):
        adapt(nn.Linear(2, 2))


def test_frozen_takes_no_gradient_and_stays_in_eval():
    frozen = Frozen(tiny())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(m.training for m in frozen.train().modules())
    assert frozen.feature_channels == 6


def test_backbone_drops_what_its_map_does_not_depend_on():
    backbone = build_backbone("timm/mobilenetv3_small_050")  # its conv_head belongs to the classifier
    backbone(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())
    assert backbone.training and not any("conv_head" in n for n, _ in backbone.named_parameters())


def test_backbone_has_no_head_and_its_owner_normalises():
    backbone = build_backbone("timm/test_resnet")
    assert isinstance(backbone, Backbone)
    assert backbone.channels == 96
    x = torch.rand(1, 3, 64, 64)
    backbone.eval()
    with torch.no_grad():
        assert torch.equal(backbone(x), backbone.adapter.model.forward_features(x))
        assert backbone.intermediates(x)[-1].shape[1] == 96
    names = [n for n, _ in build_backbone("torchvision/shufflenet_v2_x0_5").named_parameters()]
    assert not any(".fc." in n or "classifier" in n for n in names)


def test_to_unit_by_hand():
    assert to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    floats = torch.tensor([0.25])
    assert to_unit(floats) is floats


def test_parameters_and_operations_by_hand():
    model = Split(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    )
    assert count_parameters(model) == 3 * 4 * 9 + 4 * 2 + 2
    assert count_macs(model, 8) == 8 * 8 * 3 * 4 * 9 + 4 * 2  # multiply-adds
