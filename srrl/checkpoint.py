"""Atomic saving and safe loading: weights as safetensors, training state as plain tensors and numbers, never a pickle of code."""

from __future__ import annotations

import errno
import io
import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from srrl.errors import UserError, out_of_memory
from srrl.runs import atomic

STATE_VERSION = 1
CHECKSUM = "srrl.crc32"  # in the header of what this module writes
PHASE = "phase"  # in the header of what a run saves: which of its networks it is
NORMALISATION = "normalisation"  # in the header of all weights that it writes, and of nothing else


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Training state (tensors, numbers, strings, lists, dicts) into one file, atomically.

    Serialised in memory first: a failing disk then raises a plain OSError, which :func:`atomic` turns into exit 1.
    """
    buffer = io.BytesIO()
    torch.save({"version": STATE_VERSION, **state}, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote. Raises UserError for a file that is damaged, foreign, or would run code."""
    state = _load_torch(path, "; remove it to begin this phase again")
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        raise UserError(f"{path} is not a training state of this version: start a new run")
    return state


def save_weights(path: Path, model: nn.Module, **metadata: str) -> None:
    """The model's state dict as safetensors, atomically.

    ``metadata``, its normalisations and a checksum of everything are kept in the file's header.
    """
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    header = {"format": "pt", NORMALISATION: json.dumps(normalisations(model)), **metadata}
    data = safetensors_bytes(state, metadata={**header, CHECKSUM: _checksum(state, header)})
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def save_export(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A file of :mod:`srrl.export`: tensors, what they are, and a checksum of both; the caller makes it atomic."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    path.write_bytes(
        safetensors_bytes(tensors, metadata={**metadata, CHECKSUM: _checksum(tensors, metadata)})
    )


def read_export(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What :func:`save_export` wrote, (metadata, tensors). UserError for a file that is missing, damaged or another."""
    if not path.is_file():
        raise UserError(f"{path.absolute()} does not exist: expected a file that python -m srrl.export wrote")
    metadata, tensors = _read_safetensors(path)
    if "task" not in metadata or CHECKSUM not in metadata:
        raise UserError(f"{path} was not written by python -m srrl.export: give such a file, or a run folder")
    return metadata, tensors


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors. UserError where the file is damaged, which a checksum tells where one was written."""
    try:
        tensors = parse_safetensors(path.read_bytes())
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except OSError as error:
        raise _unreadable(path, error) from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or no safetensors file ({_line(error)}): write or copy it again"
        ) from error
    expected = metadata.get(CHECKSUM)
    ours = expected is not None or NORMALISATION in metadata
    if ours and expected != _checksum(tensors, metadata):
        raise UserError(f"{path} is damaged (its checksum does not fit): write or copy it again")
    return metadata, tensors


def _checksum(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """Of names, types, shapes and values, and of what the header says besides."""
    said = {k: v for k, v in header.items() if k != CHECKSUM}
    value = zlib.crc32(json.dumps(said, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy(), value)  # NumPy knows no bfloat16
    return f"{value:08x}"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors or .pt/.pth file, without ever running code from it.

    Raises UserError where the file is missing, damaged or a pickle that needs more than tensors.
    """
    return _weights_in(_weights_file(path))[0]


def check_weights(path: str | Path, phase: str) -> None:
    """UserError where a file is missing or damaged, or holds another of a run's networks than ``phase``."""
    _check_phase(Path(path), _weights_in(_weights_file(path))[2], phase)


def _check_phase(path: Path, found: str | None, phase: str) -> None:
    if found not in (None, phase):
        raise UserError(
            f"{path} holds the weights of {found}, not of {phase}, as its header says: restore the file that the training saved"
        )


def _weights_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path.absolute()} do not exist: expected a .safetensors or .pt file")
    return path


def _weights_in(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str | None]:
    """The tensors in a file that is there, the normalisations that its header names, and the phase, where it says one."""
    if path.suffix == ".safetensors":
        metadata, tensors = _read_safetensors(path)
        try:
            found = json.loads(metadata.get(NORMALISATION, "{}"))
        except ValueError as error:
            raise UserError(
                f"{path} is damaged (its header, {_line(error)}): save or copy it again"
            ) from error
        return tensors, found if isinstance(found, dict) else {}, metadata.get(PHASE)
    state = _load_torch(path)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise UserError(f"{path} holds no state dict: expected a mapping of names to tensors")
    return {k.removeprefix("module."): v for k, v in state.items()}, {}, None


def load_weights(model: nn.Module, path: str | Path, what: str = "model", phase: str | None = None) -> None:
    """Every tensor of the file into ``model``, strictly, and the normalisation of pictures that it was trained with.

    ``phase`` is the network of a run that the file must be, where it says which it is. Raises UserError naming the first
    thing that does not fit.
    """
    state, found, said = _weights_in(_weights_file(path))
    if phase is not None:
        _check_phase(Path(path), said, phase)
    fit_weights(model, state, what, str(path))
    normalise_as(model, found)


def normalisations(model: nn.Module) -> dict[str, Any]:
    """How the parts of a model that normalise pictures do so, by their names."""
    return {k: m.normalisation for k, m in model.named_modules() if hasattr(m, "normalisation")}


def normalise_as(model: nn.Module, found: dict[str, Any]) -> None:
    """The inverse of :func:`normalisations`; parts that the model does not have are passed over."""
    parts = dict(model.named_modules())
    for name, values in found.items():
        if hasattr(parts.get(name), "normalisation"):
            parts[name].normalisation = values


def fit_weights(model: nn.Module, state: dict[str, Tensor], what: str, source: str) -> None:
    """A state dict into ``model``, all of it or a UserError; the model is untouched on failure."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        first = f"lacks {missing[0]!r}" if missing else f"has {extra[0]!r}, which the {what} has not"
        raise UserError(
            f"{source} was saved from another architecture: it {first} ({len(missing)} missing, {len(extra)} extra): "
            f"give the {what} the arch and width that it was trained with"
        )
    for (
        key,
        value,
    ) in own.items():  # in the model's order, so that the first thing named is the first in the network
        if state[key].shape != value.shape:
            raise UserError(
                f"{source} was saved from another architecture: {key!r} is {tuple(state[key].shape)}, the {what} expects "
                f"{tuple(value.shape)}: give the {what} the arch and width that it was trained with"
            )
    model.load_state_dict(state)


def _load_torch(path: Path, advice: str = "") -> Any:
    zipped = False
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:  # torch writes the checksums of a zip file, and does not look at them
            with zipfile.ZipFile(path) as archive:
                if part := archive.testzip():
                    raise UserError(f"{path} is damaged (the checksum of {part} in it does not fit){advice}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{Path(path).absolute()} does not exist") from None
    except OSError as error:
        # damaged bytes lead to a place before the file's beginning, which is an invalid argument
        if error.errno not in (None, errno.EINVAL):
            raise _unreadable(path, error) from None
        raise UserError(f"{path} is damaged or no torch file ({_line(error)}){advice}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and could run code, so it is not loaded: "
            "save its state_dict() alone, best as .safetensors"
        ) from error
    except Exception as error:  # damaged bytes make the restricted unpickler fail in every possible way
        if out_of_memory(error):
            if zipped:  # whose checksums are right
                raise
            raise UserError(
                f"{path} is damaged, or larger than the memory that is free here: save it anew with torch.save, which "
                "writes checksums, or close other programs"
            ) from error
        raise UserError(f"{path} is damaged or no torch file ({_line(error)}){advice}") from error


def _unreadable(path: Path, error: OSError) -> UserError:
    """Of a file whose content nobody has seen, which may be good: it is not called damaged."""
    return UserError(f"{path} cannot be read ({error.strerror or error}): check its rights and its disk")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
