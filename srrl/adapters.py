"""Models of torchvision and timm under the model protocol, whole or without their head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srrl.errors import UserError
from srrl.inspection import keep_used, probe_channels, probing
from srrl.model import IMAGENET_MEAN, IMAGENET_STD, Adapter, Model
from srrl.zoo import timm_model, torchvision_model


class TimmModel(Adapter):
    """A timm model under the protocol.

    Channels-last maps (Swin) are turned to NCHW and back. A ViT that pools its patch tokens gives them as a map on
    their grid; a ViT that reads its class token gives that token as a 1×1 map, and its head takes the spatial mean of
    the map it is handed as the class token, which is exact for its own features.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        num_classes: int | None = None,
        model: nn.Module | None = None,
    ):
        model = model or timm_model(name, pretrained, num_classes)
        cfg = getattr(model, "pretrained_cfg", {}) or {}
        super().__init__(cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD))
        self.model = model
        self.feature_channels = model.num_features
        self.layout = getattr(model, "output_fmt", "NCHW")
        self.layout = getattr(self.layout, "value", self.layout)
        self.prefix = getattr(model, "num_prefix_tokens", 0) if hasattr(model, "patch_embed") else 0
        fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)
        if fixed is None and cfg.get("fixed_input_size"):
            fixed = cfg["input_size"][1:]
        self.probe_size = fixed[0] if fixed else 64  # some token models take one image size only
        _check_split(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return self._map(self.model.forward_features(self.normalize(x)))

    def _map(self, out: Tensor) -> Tensor:
        """What timm calls features as an NCHW map."""
        if out.ndim == 3:
            if self.model.global_pool == "token":
                return out[:, 0, :, None, None]
            tokens = out[:, self.prefix :]
            side = int(tokens.shape[1] ** 0.5)
            if side * side != tokens.shape[1]:
                raise UserError(
                    f"{type(self.model).__name__} gives {tokens.shape[1]} tokens, not a square grid: use a square input"
                )
            return tokens.transpose(1, 2).unflatten(2, (side, side))
        return out.permute(0, 3, 1, 2) if self.layout == "NHWC" else out

    def forward_head(self, features: Tensor) -> Tensor:
        if hasattr(self.model, "fc_norm") and hasattr(self.model, "patch_embed"):
            pooled = features.mean((2, 3))
            return self.model.head(self.model.head_drop(self.model.fc_norm(pooled)))
        return self.model.forward_head(features.permute(0, 2, 3, 1) if self.layout == "NHWC" else features)

    def forward_intermediates(self, x: Tensor) -> list[Tensor]:
        """timm's intermediates, its own last map (after a final normalisation or convolution) in the last place."""
        out, maps = self.model.forward_intermediates(self.normalize(x))
        last = self._map(out)
        return [*(maps[:-1] if maps[-1].shape == last.shape else maps), last]

    def stage_modules(self) -> list[nn.Module]:
        return [
            self.model.get_submodule(stage["module"]) for stage in getattr(self.model, "feature_info", [])
        ]


class TorchvisionModel(Adapter):
    """A torchvision classifier under the protocol: ResNets, ``features``/``classifier`` networks, RegNet, ShuffleNetV2."""

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        num_classes: int | None = None,
        model: nn.Module | None = None,
    ):
        super().__init__()
        self.model = model or torchvision_model(name, pretrained, num_classes)
        m = self.model
        if hasattr(m, "layer4"):
            self.stages = ("layer1", "layer2", "layer3", "layer4")
        elif hasattr(m, "features") and hasattr(m, "classifier"):
            self.stages = ("features",)
        elif hasattr(m, "trunk_output"):
            self.stages = ("stem", "trunk_output")
        elif hasattr(m, "stage4") and hasattr(m, "conv5"):
            self.stages = ("stage2", "stage3", "stage4", "conv5")
        else:
            raise UserError(
                f"torchvision model {name!r} has no last map that this adapter knows: "
                "use timm/<name>, or give your own split with srrl.Split(features, head)"
            )
        _check_split(self)
        self.feature_channels = probe_channels(self, (3, 64, 64))

    def forward_intermediates(self, x: Tensor) -> list[Tensor]:
        m, x = self.model, self.normalize(x)
        if hasattr(m, "layer4"):
            x = m.maxpool(m.relu(m.bn1(m.conv1(x))))
        elif hasattr(m, "stage4"):
            x = m.maxpool(m.conv1(x))
        maps = []
        for stage in self.stages:
            x = getattr(m, stage)(x)
            maps.append(x)
        if type(m).__name__ == "DenseNet":
            maps[-1] = maps[-1].relu()
        return maps

    def stage_modules(self) -> list[nn.Module]:
        return [getattr(self.model, stage) for stage in self.stages]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x)[-1]

    def forward_head(self, features: Tensor) -> Tensor:
        m = self.model
        pooled = m.avgpool(features) if hasattr(m, "avgpool") else features.mean((2, 3), keepdim=True)
        if type(m).__name__ == "ConvNeXt":  # its classifier normalises before it flattens
            return m.classifier(pooled)
        pooled = pooled.flatten(1)
        return m.classifier(pooled) if hasattr(m, "classifier") else m.fc(pooled)


class Backbone(nn.Module):
    """The map of an adapter without its head, for networks with a head of their own."""

    def __init__(self, adapter: Adapter):
        super().__init__()
        self.adapter, self.channels = adapter, adapter.feature_channels
        self.normalize = adapter.normalize
        adapter.normalize = nn.Identity()  # the owner of the backbone normalises

    def intermediates(self, x: Tensor) -> list[Tensor]:
        return self.adapter.forward_intermediates(x)

    def stage_modules(self) -> list[nn.Module]:
        return self.adapter.stage_modules()

    def forward(self, x: Tensor) -> Tensor:
        return self.adapter.forward_features(x)


def build_model(name: str, *, num_classes: int | None = None, pretrained: bool = False) -> Adapter:
    """``timm/<name>`` or ``torchvision/<name>`` → adapter. Raises UserError for unknown names or unreachable weights."""
    library, _, rest = name.partition("/")
    if library == "timm":
        return TimmModel(rest, pretrained=pretrained, num_classes=num_classes)
    if library == "torchvision":
        return TorchvisionModel(rest, pretrained=pretrained, num_classes=num_classes)
    raise UserError(f"model {name!r} is not known: expected timm/<name> or torchvision/<name>")


def build_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """The convolutional trunk of ``timm/<name>`` or ``torchvision/<name>``."""
    adapter = build_model(name, pretrained=pretrained)
    for attribute in ("fc", "classifier", "head"):  # unused weights would be counted and saved
        if isinstance(getattr(adapter.model, attribute, None), nn.Module):
            setattr(adapter.model, attribute, nn.Identity())
    _drop_unused(adapter)
    return Backbone(adapter)


def adapt(model: nn.Module) -> nn.Module:
    """A module as the protocol wants it: itself where it complies, else wrapped by the adapter of its library."""
    if isinstance(model, Adapter) or (
        isinstance(model, Model) and not type(model).__module__.startswith("timm.")
    ):
        return model
    module = type(model).__module__
    if module.startswith("timm."):
        return TimmModel(type(model).__name__, model=model)
    if module.startswith("torchvision."):
        return TorchvisionModel(type(model).__name__, model=model)
    raise UserError(
        f"{type(model).__name__} has no forward_features/forward_head/feature_channels: "
        "add them, or wrap it with srrl.Split(features, head)"
    )


def _drop_unused(adapter: Adapter) -> None:
    """Replaces modules whose weights the last map does not depend on (MobileNetV3 keeps a ``conv_head`` for its classifier).

    They would be counted and saved, and several processes would wait for gradients that never come.
    """
    side = getattr(adapter, "probe_size", 64)
    with probing(adapter) as device:
        x = torch.rand(1, 3, side, side, device=device)
        keep_used(adapter.model, lambda: adapter.forward_features(x))


def _check_split(adapter: Adapter) -> None:
    """UserError unless head ∘ features is the model's own forward: some heads read more than the last map."""
    name, size = type(adapter.model).__name__, getattr(adapter, "probe_size", 64)
    with probing(adapter) as device:
        x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
        try:
            own = adapter.model(adapter.normalize(x))
        except (RuntimeError, AssertionError):
            return  # it takes another image size: nothing to compare with
        try:
            split = adapter(x)
            fits = split.shape == own.shape and torch.allclose(
                split, own, rtol=1e-2, atol=1e-3, equal_nan=True
            )
        except (RuntimeError, AttributeError, TypeError):
            fits = False
    if not fits:
        raise UserError(
            f"{name} is not a head on its last map alone, which srrl needs: choose another model, "
            "or give your own split with srrl.Split(features, head)"
        )
