"""Models of timm and torchvision by name, and their pretrained weights, with one clear line where something is missing."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable

from torch import nn

from srrl.errors import UserError


def timm_model(name: str, pretrained: bool, num_classes: int | None) -> nn.Module:
    """timm's model of that name. Raises UserError, with near names, for an unknown one, and for unreachable weights."""
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        raise UserError(
            f"timm has no model {name!r}" + (f": did you mean {', '.join(close)}?" if close else "")
        )
    extra = {} if num_classes is None else {"num_classes": num_classes}
    with _hub_at_once() if pretrained else contextlib.nullcontext():
        return _fetch(
            lambda: timm.create_model(name, pretrained=pretrained, **extra), f"timm/{name}", pretrained
        )


@contextlib.contextmanager
def _hub_at_once():
    """Where the hub's name does not resolve, only what is cached is used: asking again would take most of a minute."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not {"https", "all"} & set(getproxies()):  # no_proxy alone, which is among them, is none
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def torchvision_model(name: str, pretrained: bool, num_classes: int | None) -> nn.Module:
    """torchvision's classifier of that name; pretrained with another number of classes it gets a fresh last layer.

    Raises UserError, with near names, for an unknown one, and for unreachable weights.
    """
    import torchvision.models as zoo

    known = zoo.list_models(module=zoo)  # the classifiers
    if name not in known:
        close = difflib.get_close_matches(name, known, 3)
        raise UserError(
            f"torchvision has no model {name!r}" + (f": did you mean {', '.join(close)}?" if close else "")
        )
    if pretrained and num_classes not in (None, 1000):
        model = torchvision_model(name, True, None)
        _replace_classifier(model, num_classes)
        return model
    extra = {} if num_classes is None else {"num_classes": num_classes}
    return _fetch(
        lambda: zoo.get_model(name, weights="DEFAULT" if pretrained else None, **extra),
        f"torchvision/{name}",
        pretrained,
    )


def _replace_classifier(model: nn.Module, num_classes: int) -> None:
    owner, key = (model, "fc") if hasattr(model, "fc") else (model, "classifier")
    last = getattr(owner, key)
    if isinstance(last, nn.Sequential):
        owner, key, last = last, str(len(last) - 1), last[-1]
    setattr(owner, key, nn.Linear(last.in_features, num_classes))


def _fetch(make: Callable[[], nn.Module], name: str, pretrained: bool) -> nn.Module:
    try:
        return make()
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(
            f"pretrained weights of {name} could not be fetched ({reason}): "
            "check the network (they are kept in TORCH_HOME or HF_HOME once fetched), or set pretrained=false"
        ) from error
