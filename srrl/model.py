"""The model protocol, adapters for torchvision, timm and any module, and freezing.

A model of SRRL takes RGB images (N, 3, H, W) in 0–1 and offers ``forward_features(x)`` → map (N, C, H, W),
``forward_head(map)`` → prediction, ``forward_intermediates(x)`` → the maps of its stages and ``feature_channels``.
Each adapter applies its own model's input normalisation, so that teacher and student may be used to different ones.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from srrl.errors import UserError
from srrl.zoo import timm_model, torchvision_model

if TYPE_CHECKING:
    from srrl.memory import MapMemory

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@runtime_checkable
class Model(Protocol):
    """What teacher and student must offer; the names are timm's."""

    feature_channels: int

    def forward_features(self, x: Tensor) -> Tensor: ...

    def forward_head(self, features: Tensor) -> Tensor: ...


def to_unit(image: Tensor) -> Tensor:
    """Images as the data sets give them (uint8 0–255, or float 0–1) → float 0–1."""
    return image.float().div(255.0) if image.dtype == torch.uint8 else image


class Normalize(nn.Module):
    """(x − mean) / std a channel, for x in 0–1; part of the model, not of the data."""

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    def normalisation(self) -> list[list[float]]:
        """[mean, std], which travel with saved weights: they are what the network was trained with."""
        return [self.mean.flatten().tolist(), self.std.flatten().tolist()]

    @normalisation.setter
    def normalisation(self, values: list[list[float]]) -> None:
        for buffer, given in zip((self.mean, self.std), values, strict=True):
            buffer.copy_(torch.tensor(given).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Adapter(nn.Module):
    """Base of the adapters: the full forward is head ∘ features."""

    feature_channels: int
    output_kind = "logits"

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__()
        self.normalize = Normalize(mean, std)

    def forward_features(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no forward_features")

    def forward_head(self, features: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no forward_head")

    def forward_intermediates(self, x: Tensor) -> list[Tensor]:
        """The map of each stage, the last one being ``forward_features``; that one alone where no stages are known."""
        return [self.forward_features(x)]

    def stage_modules(self) -> list[nn.Module]:
        """The modules whose outputs :meth:`forward_intermediates` gives; empty where they are not known."""
        return []

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class Split(Adapter):
    """Any model given as two modules: ``features`` (images → map) and ``head`` (map → prediction).

    ``channels`` is the map's channel count; found with a zero image of ``probe`` (C, H, W) when left out.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        *,
        channels: int | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        probe: tuple[int, int, int] = (3, 64, 64),
    ):
        super().__init__(mean, std)
        self.features, self.head = features, head
        self.probe_size = probe[-1]
        self.feature_channels = channels or _probe_channels(self, probe)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(self.normalize(x))

    def stage_modules(self) -> list[nn.Module]:
        return [self.features]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(features)


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
        self.feature_channels = _probe_channels(self, (3, 64, 64))

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


def _drop_unused(adapter: Adapter) -> None:
    """Replaces modules whose weights the last map does not depend on (MobileNetV3 keeps a ``conv_head`` for its classifier).

    They would be counted and saved, and several processes would wait for gradients that never come.
    """
    side = getattr(adapter, "probe_size", 64)
    with _probing(adapter) as device:
        x = torch.rand(1, 3, side, side, device=device)
        _keep_used(adapter.model, lambda: adapter.forward_features(x))


def _keep_used(model: nn.Module, run: Callable[[], Tensor]) -> None:
    """Replaces the modules of ``model`` whose weights ``run()`` does not depend on by nothing."""
    named = dict(model.named_parameters())
    with torch.enable_grad():
        gradients = torch.autograd.grad(run().sum(), list(named.values()), allow_unused=True)
    used = {name.rpartition(".")[0] for name, g in zip(named, gradients) if g is not None}
    for owner in {name.rpartition(".")[0] for name in named} - used - {""}:
        if not list(model.get_submodule(owner).children()):
            model.set_submodule(owner, nn.Identity())


def part_of(model: nn.Module, name: str, *, head: bool) -> nn.Module:
    """A copy of a model that keeps only the weights of its head, or only those of its features."""
    inner = copy.deepcopy(model.model if isinstance(model, Frozen) else model)
    trained = {n: p.requires_grad for n, p in inner.named_parameters()}
    inner.requires_grad_(True)

    def cut(noise: Tensor) -> None:
        features = inner.forward_features(noise)
        if head:
            features = features.detach()
        _keep_used(inner, lambda: inner.forward_head(features) if head else inner.forward_features(noise))

    on_noise(inner, name, cut)
    for n, p in inner.named_parameters():
        p.requires_grad_(trained[n])
    return inner


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


class Frozen(nn.Module):
    """A teacher: no parameter takes a gradient, and it stays in eval mode whatever ``train()`` is called on its owner."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.feature_channels = model.feature_channels
        self.memory: MapMemory | None = None  # of the maps of batches seen before
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    def see(self, batch: dict[str, Tensor]) -> None:
        """Shows the batch whose pictures come next to a teacher that asks for it with a method of this name."""
        if hasattr(self.model, "see"):
            self.model.see(batch)

    def forward_features(self, x: Tensor) -> Tensor:
        if self.memory is not None:
            return self.memory.recall(x, self.model.forward_features)
        return self.model.forward_features(x)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.model.forward_head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def stages_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The map of each stage of a model under the protocol, the last being its features: that alone where it knows no stages."""
    inner = model.model if isinstance(model, Frozen) else model
    if hasattr(inner, "forward_intermediates"):
        return inner.forward_intermediates(x)
    return [inner.forward_features(x)]


PROBE_SIZES = (64, 224, 32, 256)  # after the size that a model itself names, if it does
T = TypeVar("T")


def on_noise(model: nn.Module, name: str, look: Callable[[Tensor], T]) -> T:
    """``look`` at noise pictures (2, 3, S, S) of a size that the model takes, in eval mode and without gradients.

    ``name`` is what messages call the model. Raises UserError where it takes none of the usual sizes.
    """
    inner = model.model if isinstance(model, Frozen) else model
    with _probing(inner) as device:
        for size in dict.fromkeys((getattr(inner, "probe_size", PROBE_SIZES[0]), *PROBE_SIZES)):
            noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
            try:
                return look(noise)
            except (RuntimeError, AssertionError, ValueError) as error:
                refused = error
    raise UserError(
        f"the {name} takes no picture of {', '.join(map(str, PROBE_SIZES))} pixels ({str(refused).splitlines()[0]}): "
        "give it an attribute probe_size"
    )


def training_format(model: nn.Module) -> torch.memory_format:
    """The memory format to train in: channels_last, which convolutions like, unless it would crash.

    oneDNN's backward of a strided 1×1 convolution with fewer than 8 input channels writes outside its buffer in that
    format on CPUs with AVX2 (seen with torch 2.15), so that such a model keeps the default format.
    """
    risky = any(
        isinstance(m, nn.Conv2d) and m.in_channels < 8 and m.kernel_size == (1, 1) and max(m.stride) > 1
        for m in model.modules()
    )
    return torch.contiguous_format if risky else torch.channels_last


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included, buffers not."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of one image (3, S, S): torch's operation counter counts each as two, so half of it."""
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(model.parameters())
    was = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=parameter.device))
    model.train(was)
    return counter.get_total_flops() // 2


def _probe_channels(model: Adapter, shape: tuple[int, int, int]) -> int:
    with _probing(model) as device:
        return model.forward_features(torch.zeros(1, *shape, device=device)).shape[1]


@contextlib.contextmanager
def _probing(model: nn.Module):
    """Eval mode without gradients for a look at the model, on its device; every module's mode is put back."""
    modes = {m: m.training for m in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if hasattr(model, "normalize"):
        model.normalize.to(device)
    try:
        with torch.no_grad():
            model.eval()
            yield device
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_split(adapter: Adapter) -> None:
    """UserError unless head ∘ features is the model's own forward: some heads read more than the last map."""
    name, size = type(adapter.model).__name__, getattr(adapter, "probe_size", 64)
    with _probing(adapter) as device:
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
