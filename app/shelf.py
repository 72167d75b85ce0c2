"""The runs that the app can show, and their networks, loaded when they are first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srrl.errors import UserError
from srrl.shipped import PREFIX, located, names

if TYPE_CHECKING:
    from torch import nn

    from srrl.config import RunSettings
    from srrl.task import Task

# below the folder of runs: those with a name of their own, and numbered ones
PLACES = ("*/config.yaml", "*/*/config.yaml")
KEPT = 3  # runs whose networks stay in memory


@dataclass(frozen=True)
class Loaded:
    """One run: its task and settings, its networks and predictors by name, and results.json where it is finished."""

    path: Path
    task: Task
    cfg: RunSettings
    models: dict[str, nn.Module]
    predictors: dict[str, Any]
    results: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Of the networks, teacher first."""
        return list(self.models)


class Shelf:
    """Runs below ``root`` by their path from there, the one named ``first``, and those that come with the package.

    Only what it lists can be opened.
    """

    def __init__(self, root: str | Path = "runs", first: str | Path | None = None):
        self.root, self._lock = Path(root), threading.Lock()
        self.first: Path | None = None
        self.favourite: str | None = None  # of what comes with the package
        self._loaded: OrderedDict[Path, tuple[tuple, Loaded]] = OrderedDict()
        if first is not None:
            from srrl.runs import RunFolder

            run = RunFolder.open(first)
            ours = {located(PREFIX + name).resolve(): PREFIX + name for name in names()}
            self.favourite = ours.get(run.path.resolve())
            if self.favourite is None:
                self.first = run.path

    def folders(self) -> dict[str, Path]:
        """Every run with saved weights by the name that it is chosen by: ``first``, then :meth:`own`, then the package's."""
        runs = self.own() | {PREFIX + name: located(PREFIX + name) for name in names()}
        return {self.favourite: runs[self.favourite]} | runs if self.favourite else runs

    def own(self) -> dict[str, Path]:
        """The runs that were trained here, the newest first after ``first``."""
        from srrl.runs import RunFolder

        found = sorted(
            (p.parent for pattern in PLACES for p in self.root.glob(pattern)),
            key=lambda p: modified(p / "config.yaml"),
            reverse=True,
        )
        named = {str(p.relative_to(self.root)): p for p in found}
        if self.first is not None:
            same = [k for k, p in named.items() if p.resolve() == self.first.resolve()]
            name = same[0] if same else str(self.first)
            named = {name: self.first} | named
        return {k: p for k, p in named.items() if RunFolder(p).models()}

    def load(self, name: str | None) -> Loaded:
        """The run of this name. Raises UserError for a name that is not listed, and for a run that cannot be read."""
        folders = self.folders()
        if not isinstance(name, str) or name not in folders:
            raise UserError("There is no such run: choose one from the list.")
        path = folders[name]
        with self._lock:
            state = _state(path)
            if path in self._loaded and self._loaded[path][0] == state:
                self._loaded.move_to_end(path)
                return self._loaded[path][1]
            loaded = _load(path)
            self._loaded[path] = state, loaded
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return loaded


def modified(path: Path) -> float:
    """When the file was written; 0 for one that has gone meanwhile, as temporary ones do."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _state(path: Path) -> tuple:
    """What changes when the run goes on: the times of its weights and results."""
    files = (*sorted((path / "weights").glob("*.safetensors")), path / "results.json")
    return tuple((f.name, modified(f)) for f in files if f.is_file())


def _load(path: Path) -> Loaded:
    from srrl.api import open_run
    from srrl.runs import read_mapping

    opened = open_run(path)
    models = opened.models()
    predictors = {name: opened.task.predictor(model, opened.cfg) for name, model in models.items()}
    results: dict[str, Any] = {}
    if opened.run.results.is_file():
        results = read_mapping(opened.run.results)
    return Loaded(Path(path), opened.task, opened.cfg, models, predictors, results)
