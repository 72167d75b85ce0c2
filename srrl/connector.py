"""The connector r(·) of SRRL: 1×1 convolution → BatchNorm → activation, used in training only."""

from __future__ import annotations

from torch import Tensor, nn


class Connector(nn.Module):
    """Maps the student's last map (N, C_s, H, W) to the teacher's channels (N, C_t, H, W), before any pooling.

    As in the authors' code: no bias, He-normal fan-out initialisation (PyTorch's default is fan-in), BatchNorm, then
    ReLU. ``activation="identity"`` serves teachers whose features can be negative (SiLU, ConvNeXt, ViT), which a ReLU
    could never reach. BatchNorm and ReLU do not commute with pooling, so it has to stand before it.
    """

    def __init__(self, student_channels: int, teacher_channels: int, activation: str = "relu"):
        super().__init__()
        if activation not in ("relu", "identity"):
            raise ValueError(f"activation {activation!r}: expected relu or identity")
        self.conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn = nn.BatchNorm2d(teacher_channels)
        self.activation = nn.ReLU(inplace=True) if activation == "relu" else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.activation(self.bn(self.conv(features)))
