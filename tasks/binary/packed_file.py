"""The packed file: a binary network in one safetensors file, a bit a binary weight, that needs nothing beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from srrl.checkpoint import fit_weights, read_export, save_export
from srrl.errors import UserError

from .layers import binary_layers
from .networks import BinaryNet, binary_resnet
from .settings import BinarySettings

VERSION = 1


def write_packed(model: nn.Module, cfg: BinarySettings, path: Path) -> None:
    """A trained binary network and what its predictions need, into ``path``. UserError for a network that is not binary."""
    layers = binary_layers(model)
    if not isinstance(model, BinaryNet) or any(layer.precision != "binary" for layer in layers):
        raise UserError("only a student of one-bit weights and activations has a packed form")
    tensors = dict(model.state_dict())
    for name in _one_bit(model):
        tensors[name] = torch.from_numpy(np.packbits(tensors[name].cpu().numpy() >= 0))
    network = {
        "arch": cfg.student.arch,
        "width": cfg.student.width,
        "n_classes": cfg.data.n_classes,
        "image_size": cfg.image_size,
        "mean": model.normalize.mean.flatten().tolist(),
        "std": model.normalize.std.flatten().tolist(),
    }
    names = cfg.data.classes
    save_export(
        path,
        tensors,
        {
            "task": "binary",
            "format": "packed",
            "version": str(VERSION),
            "network": json.dumps(network),
            "classes": json.dumps(names, ensure_ascii=False),
        },
    )


def read_packed(path: Path) -> tuple[BinaryNet, BinarySettings]:
    """The network, its binary weights as ±1, in eval mode, and the settings of its predictor. UserError.

    Its layout, channels last, is that of packed layers: torch's real convolutions round by the layout.
    """
    metadata, tensors = read_export(path)
    if metadata.get("format") != "packed" or metadata.get("version") != str(VERSION):
        raise UserError(
            f"{path} is no packed file of version {VERSION}: write it again with python -m srrl.export RUN --format packed"
        )
    try:
        network = json.loads(metadata["network"])
        cfg = BinarySettings(
            image_size=network["image_size"],
            student={"arch": network["arch"], "width": network["width"]},
            data={"n_classes": network["n_classes"], "classes": json.loads(metadata["classes"])},
        )
        statistics = {"mean": tuple(network["mean"]), "std": tuple(network["std"])}
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise UserError(
            f"{path} does not describe its network ({type(error).__name__}): write it again"
        ) from error
    model = binary_resnet(
        cfg.student.arch,
        cfg.data.n_classes,
        width=cfg.student.width,
        precision="binary",
        image_size=cfg.image_size,
        **statistics,
    )
    own = model.state_dict()
    for name in _one_bit(model):
        tensors[name] = _signs(tensors.get(name), own[name])
    fit_weights(model, {k: v for k, v in tensors.items() if v is not None}, "network it describes", str(path))
    return model.eval().to(memory_format=torch.channels_last), cfg


def _one_bit(model: nn.Module) -> list[str]:
    """Names of the weights that are kept as signs."""
    binary = {id(layer.weight) for layer in binary_layers(model)}
    return [name for name, p in model.named_parameters() if id(p) in binary]


def _signs(bits: Tensor | None, weight: Tensor) -> Tensor | None:
    """±1 in the shape of ``weight``; what does not fit stays as it is, for the message of :func:`fit_weights`."""
    if bits is None or bits.dtype != torch.uint8 or bits.numel() != -(-weight.numel() // 8):
        return bits
    values = np.unpackbits(bits.numpy(), count=weight.numel())
    return torch.from_numpy(values).view_as(weight).float().mul(2).sub(1)
