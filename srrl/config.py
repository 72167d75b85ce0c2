"""Typed configuration: pydantic schemas, short YAML files, ``key.sub=value`` on top, and answers to misspelt keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srrl.distillers.base import LARGEST, LONGEST, MethodSettings
from srrl.errors import UserError


class Section(BaseModel):
    """A group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class OptimSettings(Section):
    """Optimiser and learning-rate schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0, le=LARGEST)
    weight_decay: float = Field(1e-4, ge=0, le=LARGEST)
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    nesterov: bool = Field(False, description="sgd only")
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = Field(1.0, ge=0, le=LONGEST, description="epochs of linear warm-up")
    milestones: list[Annotated[float, Field(ge=0, le=LONGEST)]] = Field(
        [], description="step only: epochs after which the rate is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1000, description="step only")
    clip: float = Field(0.0, ge=0, le=LARGEST, description="largest gradient norm; 0 = no clipping")
    accumulate: int = Field(1, ge=1, le=LONGEST, description="batches a step")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the averaged weights, which are then the ones evaluated; 0 = off",
    )


class DataSettings(Section):
    """Where the data is; tasks add what they need."""

    train: str | None = None
    val: str | None = None
    test: str | None = None
    format: str | None = None
    split_seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="of what is set aside of train: not the run's, so that seeds share a teacher",
    )
    on_error: Literal["raise", "skip"] = "raise"
    workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"


class ModelSettings(Section):
    """One network; tasks add what they need."""

    arch: str
    pretrained: bool = False


class TeacherSettings(ModelSettings):
    """The teacher: trained in the run's first phase, or loaded from ``checkpoint``."""

    checkpoint: str | None = Field(
        None,
        description="weights (.safetensors or .pt), a run folder or shipped:NAME; no training then. teacher=… is short for it",
    )
    epochs: int | None = Field(
        None, ge=0, le=LONGEST, description="None: as many as the student; 0: a pretrained one as it comes"
    )
    lr: float | None = Field(None, gt=0, le=LARGEST, description="None: optim.lr, as the student")
    memory: str | None = Field(
        None,
        description="a folder where its last maps are kept for other runs that see the same batches, such as the cells of "
        "a comparison with one seed: on a CPU its pass is then paid once",
    )
    memory_gb: float = Field(16.0, gt=0, le=LONGEST, description="how large that folder may become")


class StudentSettings(ModelSettings):
    """The student; ``init`` starts it (and the baseline) from a file, a run folder or shipped:NAME."""

    init: str | None = None


class RunSettings(MethodSettings):
    """Everything one run needs; each task derives its own with defaults."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)
    task: str
    method: str = "srrl"
    seed: int = Field(0, ge=0, lt=2**32)
    epochs: int = Field(10, ge=1, le=LONGEST)
    batch_size: int = Field(32, ge=1, le=LONGEST)
    baseline: bool = Field(True, description="also train the student without a teacher at the same budget")
    score: Literal["test", "val"] = Field(
        "test", description="split of the final figures; val, for tuning: the test split is not even read"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="CPU threads of the networks; None: torch's choice. One is faster for very small ones",
    )
    compile: bool = Field(False, description="torch.compile the training step; on a GPU as CUDA graphs")
    sync_batchnorm: bool = Field(
        True,
        description="with several processes: BatchNorm over the samples of all; false: each its own, which is faster",
    )
    optim: OptimSettings = OptimSettings()
    data: DataSettings = DataSettings()
    teacher: TeacherSettings
    student: StudentSettings

    def method_settings(self) -> MethodSettings:
        """The part that distillers read."""
        own = MethodSettings(**{k: getattr(self, k) for k in MethodSettings.model_fields})
        return own.for_epochs(self.epochs)


class _PlainText(yaml.SafeLoader):
    """YAML whose plain scalars are null, decimal integers or text; what a text means is the schema's to say.

    YAML 1.1 reads ``no`` as False, ``2024_01`` as 202401, ``010`` as 8 and ``2024-01-31`` as a date: a folder of such a
    name would be lost before the schema sees it.
    """

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """As PyYAML's, which takes the last of several values of one key without a word."""
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    where = f"in line {lines[key.value]} and in line {line}"
                    raise yaml.YAMLError(f"the key {key.value[:80]!r} stands there twice, {where}")
                lines[key.value] = line
        return super().construct_mapping(node, deep)


_PlainText.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_PlainText.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:0|-?[1-9][0-9]*)$"), list("-0123456789")
)


# PyYAML raises what its constructors meet: !!bool x a KeyError, !!timestamp x an AttributeError, 5,000 digits a ValueError
_UNREADABLE = (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, RecursionError)
_LARGEST = 100_000  # values; settings have some hundred


def _parse(text: str) -> Any:
    """The value of a YAML text. Raises one of ``_UNREADABLE``, also where aliases make it endless or huge."""
    value = yaml.load(text, _PlainText)
    waiting, count = [value], 0
    while waiting:
        inner = waiting.pop()
        parts = [*inner.keys(), *inner.values()] if isinstance(inner, dict) else inner
        if isinstance(inner, (dict, list, tuple, set)):
            count += len(inner) + 1
            waiting.extend(parts)
        if count > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} values, or holds itself")
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError for a missing file, bad YAML or anything but a mapping."""
    path = Path(path)
    if not path.is_file():
        near = (
            difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
            if path.parent.is_dir()
            else []
        )
        raise UserError(
            f"config file {path.absolute()} does not exist"
            + (f": did you mean {path.parent / near[0]}?" if near else "")
        )
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except (*_UNREADABLE, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())[:200]}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}: expected 'key: value' lines")
    return values


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """``key.sub=value`` strings laid over a nested mapping; values are read as YAML. Returns a new mapping."""
    result = spelled_out(values)
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{text!r} is not an override: expected key=value or key.sub=value")
        try:
            value = _parse(raw) if raw else None
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{text!r}: the value is not readable as YAML: {reason}") from error
        node, parts = result, key.strip().split(".")
        if parts == ["teacher"] and isinstance(value, str):
            parts, value = ["teacher", "checkpoint"], _checkpoint(value)
        for part in parts[:-1]:
            if node.get(part) is None:  # also a section whose every line is commented out
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise UserError(f"{text!r}: {part} is a single value, it has no keys below it")
        if isinstance(value, dict) and isinstance(node.get(parts[-1]), dict):
            value = merged(node[parts[-1]], value)
        node[parts[-1]] = value
    return result


def spelled_out(values: dict[str, Any]) -> dict[str, Any]:
    """A copy in which ``teacher: WHERE`` is the section that it is short for; ``scratch`` is no checkpoint."""
    result = _copy(values)
    teacher = result.get("teacher")
    if isinstance(teacher, str):
        result["teacher"] = {"checkpoint": _checkpoint(teacher)}
    elif isinstance(teacher, dict) and teacher.get("checkpoint") == "scratch":
        teacher["checkpoint"] = None
    return result


def _checkpoint(value: str) -> str | None:
    return None if value == "scratch" else value


def resolve(schema: type[RunSettings], *layers: dict[str, Any]) -> RunSettings:
    """Layers of nested mappings, later ones on top, validated. Raises UserError with a 'did you mean' for unknown keys."""
    values: dict[str, Any] = _defaults(schema)
    for layer in layers:
        values = merged(values, spelled_out(layer))
    try:
        return schema.model_validate(_restring(schema, values))
    except ValidationError as error:
        raise UserError(_explain(schema, error)) from None


def dump(settings: BaseModel, leave_out: Collection[str] = ()) -> str:
    """The settings as YAML that :func:`read_yaml` and :func:`resolve` give back unchanged, less the keys to leave out."""
    values = settings.model_dump(mode="json", exclude=set(leave_out))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def differences(a: BaseModel | str | Path, b: BaseModel | str | Path) -> list[str]:
    """Dotted keys in which two settings, or files of them, differ."""
    one, two = (
        _flat(yaml.load(dump(x), _PlainText) if isinstance(x, BaseModel) else read_yaml(x)) for x in (a, b)
    )
    return sorted(k for k in {*one, *two} if one.get(k) != two.get(k))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _copy(values: Any) -> Any:
    return {k: _copy(v) for k, v in values.items()} if isinstance(values, dict) else values


def merged(base: dict, top: dict) -> dict:
    """One nested mapping laid over another; a section that is None leaves the other's as it is. Returns a new one."""
    result = _copy(base)
    for key, value in top.items():
        if value is None and isinstance(result.get(key), dict):
            continue  # a section whose every line is commented out
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else _copy(value)
    return result


def _defaults(schema: type[BaseModel]) -> dict[str, Any]:
    """Nested defaults, so that one key of a section can be changed and the rest of it kept."""
    result = {}
    for name, field in schema.model_fields.items():
        if field.is_required():
            continue
        value = field.get_default(call_default_factory=True)
        result[name] = value.model_dump() if isinstance(value, BaseModel) else value
    return result


def _restring(schema: type[BaseModel], values: Any) -> Any:
    """Where the schema wants text only, numbers become text: a folder may be called 2024."""
    if not isinstance(values, dict):
        return values
    result = {}
    for key, value in values.items():
        field = schema.model_fields.get(str(key))
        inner = _section(field.annotation) if field else None
        if inner is not None:
            value = _restring(inner, value)
        elif field is not None and field.annotation in (str, str | None) and isinstance(value, (int, float)):
            value = str(value)
        result[str(key)] = value
    return result


def _section(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _at(schema: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The section at a path of keys, None where there is none."""
    owner: type[BaseModel] | None = schema
    for part in path:
        field = owner.model_fields.get(part) if owner else None
        owner = _section(field.annotation) if field else None
    return owner


def _explain(schema: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    if first["type"] == "extra_forbidden":
        owner = _at(schema, path[:-1])
        known = list(owner.model_fields) if owner else []
        close = difflib.get_close_matches(path[-1], known, 1, cutoff=0.7)
        near = [".".join([*path[:-1], c]) for c in close] or _elsewhere(schema, path[-1])
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {'.'.join(path)!r}: {hint}"
    value = first.get("input")
    if first["type"] in ("model_type", "model_attributes_type", "dict_type") and not isinstance(value, dict):
        keys = list(getattr(_at(schema, path), "model_fields", []))
        hint = f": give {'.'.join(path)}.{keys[0]}=… or another of {', '.join(keys)}" if keys else ""
        return (
            f"{'.'.join(path)} is a section of settings, not a single value (got {str(value)[:80]!r}){hint}"
        )
    shown = f"keys {', '.join(map(str, value))}" if isinstance(value, dict) else repr(value)
    shown = f" (got {shown if len(shown) < 200 else shown[:200] + '…'})"
    key = _key(schema, first["loc"])
    # a field of several types fails once for each
    messages = [e["msg"][:1].lower() + e["msg"][1:] for e in error.errors() if _key(schema, e["loc"]) == key]
    return f"{key}: {' or '.join(dict.fromkeys(messages))}{shown}"


def _elsewhere(schema: type[BaseModel], name: str, prefix: str = "") -> list[str]:
    """Dotted keys of the sections below ``schema`` that end in ``name``."""
    found = []
    for key, field in schema.model_fields.items():
        inner = _section(field.annotation)
        if inner is not None:
            found += [f"{prefix}{key}.{name}"] if name in inner.model_fields else []
            found += _elsewhere(inner, name, f"{prefix}{key}.")
    return found


def _key(schema: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """``section.key`` of an error, without the type names that pydantic appends for a field of several types."""
    parts: list[str] = []
    owner: type[BaseModel] | None = schema
    for part in location:
        if owner is None and isinstance(part, str):
            break
        parts.append(str(part))
        field = owner.model_fields.get(part) if owner else None
        owner = _section(field.annotation) if field else None
    return ".".join(parts)
