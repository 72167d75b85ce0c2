"""Heatmap networks: a ResNet (or any timm/torchvision backbone) with a deconvolution head, cut where SRRL needs it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from srrl.adapters import build_backbone
from srrl.errors import UserError
from srrl.model import Normalize

from ..blocks import residual_stages

# blocks a stage, and whether the block is a bottleneck (expansion 4)
RESNETS: dict[str, tuple[tuple[int, int, int, int], bool]] = {
    "resnet10": ((1, 1, 1, 1), False),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}
Cut = Literal["deep", "shallow"]


class ResNetTrunk(nn.Module):
    """A ResNet of torchvision's blocks without pooling and classifier: (N, 3, H, W) → (N, C, H/32, W/32).

    ``width`` is the channel count of the first stage (64 in the paper's networks); stages double it.
    """

    def __init__(self, name: str, width: int = 64):
        super().__init__()
        if name not in RESNETS:
            raise UserError(
                f"backbone {name!r} is not known: expected one of {', '.join(RESNETS)}, "
                "timm/<name> or torchvision/<name>"
            )
        blocks, bottleneck = RESNETS[name]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = [width * 2**level for level in range(len(blocks))]
        stages, self.channels = residual_stages(blocks, widths, width, bottleneck=bottleneck)
        self.stages = nn.Sequential(*stages)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def intermediates(self, x: Tensor) -> list[Tensor]:
        """The map of each of the four stages, from stride 4 to stride 32."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def stage_modules(self) -> list[nn.Module]:
        """The four stages."""
        return list(self.stages)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x))


class DeconvHead(nn.Module):
    """Deconvolutions (4×4, stride 2, BatchNorm, ReLU), each doubling the map, as in *Simple Baselines* (Xiao et al. 2018)."""

    def __init__(self, channels: int, widths: list[int]):
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [
                nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.channels = channels
        for m in self.modules():
            if isinstance(m, nn.ConvTranspose2d):
                nn.init.normal_(
                    m.weight, std=(2.0 / (m.in_channels * 4)) ** 0.5
                )  # 4 of 16 taps reach a pixel

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class HeatmapNet(nn.Module):
    """A landmark network with the model protocol: images (N, 3, S, S) in 0–1 → heatmaps (N, K, h, w).

    ``cut`` says what the protocol calls features. *deep*: features are the backbone's last map and the head is the
    whole decoder with its last 1×1 convolution. *shallow*: features are the input of that 1×1 convolution and the
    head is that convolution alone. The weights are the same either way.
    """

    output_kind = "heatmaps"

    def __init__(
        self,
        arch: str,
        n_points: int,
        *,
        width: int = 64,
        decoder: list[int] | tuple[int, ...] = (256,) * 3,
        cut: Cut = "deep",
        pretrained: bool = False,
    ):
        super().__init__()
        if "/" in arch:
            self.backbone = build_backbone(arch, pretrained=pretrained)
            self.normalize = self.backbone.normalize
        else:
            if pretrained:
                raise UserError(
                    f"pretrained=true needs a timm/<name> or torchvision/<name> backbone, not {arch!r}"
                )
            self.backbone = ResNetTrunk(arch, width)
            self.normalize = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        self.decoder = DeconvHead(self.backbone.channels, list(decoder))
        self.final = nn.Conv2d(self.decoder.channels, n_points, 1)
        nn.init.normal_(self.final.weight, std=0.001)
        nn.init.zeros_(self.final.bias)
        self.cut = cut

    @property
    def feature_channels(self) -> int:
        """Channels of the map that :meth:`forward_features` returns."""
        return self.backbone.channels if self.cut == "deep" else self.decoder.channels

    def forward_features(self, x: Tensor) -> Tensor:
        """Images → the map at the cut."""
        features = self.backbone(self.normalize(x))
        return features if self.cut == "deep" else self.decoder(features)

    def forward_head(self, features: Tensor) -> Tensor:
        """The map at the cut → heatmaps (N, K, h, w)."""
        return self.final(self.decoder(features) if self.cut == "deep" else features)

    def forward_intermediates(self, x: Tensor) -> list[Tensor]:
        """The map of each backbone stage, and the decoder's output where the cut lies behind it."""
        maps = self.backbone.intermediates(self.normalize(x))
        return maps if self.cut == "deep" else [*maps, self.decoder(maps[-1])]

    def stage_modules(self) -> list[nn.Module]:
        """The modules that give those maps."""
        stages = self.backbone.stage_modules()
        return stages if self.cut == "deep" else [*stages, self.decoder]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def heatmap_size(model: nn.Module, input_size: int) -> int:
    """Side of the heatmaps that ``model`` gives for square images of ``input_size`` pixels."""
    was, device = model.training, next(model.parameters()).device
    with torch.no_grad():
        side = model.eval()(torch.zeros(1, 3, input_size, input_size, device=device)).shape[-1]
    model.train(was)
    return side
