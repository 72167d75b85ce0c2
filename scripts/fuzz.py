"""Feeds damaged files and command lines to every reader of the program: each must be taken, or refused in one clear line.

``python scripts/fuzz.py --inputs 100000`` mutates that many annotation files, spread over every format, and besides, in
proportion, settings, weights, checkpoints, exported files, run folders, caches and pictures, and makes up command lines; a few
of them train, score, time and export for real. Nothing but UserError and RunError may come out, in one line, within five seconds
(a command line: a minute) of the processor, processes that it started included, and 4 GB. Each target works in a process of its own, so that a crash of a library is found too.
The input that failed is kept, made as small as it could be. Exit status 1 where something failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ROOT / "tests" / "faces" / "formats"
SECONDS, BYTES = 5.0, 4 << 30
# what upsets parsers: numbers at the edges of their types, words that some library reads as one, broken encodings
TOKENS = [
    *(b"nan inf -inf 1e999 -1 0 1e-320 99999999999999999999 4294967296 -2147483649 0x10 1_000 true null ~".split()),
    b"9" * 5000, b"[" * 3000, b"{" * 2000, b'"', b"'", b",", b";", b"\0", b"\r", b"\n", b"\xff\xfe", b"\xed\xa0\x80",
    "١٢".encode(), "é".encode(), b"../../..", b"/dev/zero", b"&a [*a]", b"!!python/object/apply:os.system [true]", b"*x",
    b"<<: *a", b": ", b"- ", b"%s%n", b"=", b"#",
]  # fmt: skip


@dataclass
class Target:
    """One reader: the strategy of its inputs, and what takes an input in an empty folder."""

    name: str
    inputs: st.SearchStrategy
    take: Callable[[Path, object], object]
    share: float = 1.0  # of the inputs, beside the others'
    most: int | None = None  # inputs, however many are asked for: of what takes seconds each
    annotation: bool = False  # counts among those of which there are as many as were asked for
    seconds: float = SECONDS  # of the processor's, that an input may take


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the valid contents with up to five changes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(("bit", "byte", "token", "cut", "drop", "double", "end", "word")))
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        if kind == "bit" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "token":
            data[at:at] = draw(st.sampled_from(TOKENS))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "double":
            length = draw(st.integers(1, 256))
            data[at:at] = data[at : at + length] * draw(st.sampled_from((1, 2, 50)))
        elif kind == "end":
            data += draw(st.binary(max_size=32))
        elif kind == "word":  # a token in the place of a whole word of a text
            stop = at
            while stop < min(len(data), at + 40) and data[stop : stop + 1] not in (b" ", b"\n", b",", b":"):
                stop += 1
            data[at:stop] = draw(st.sampled_from(TOKENS))
    return bytes(data)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**400), 10**400),
        st.floats(),
        st.text(max_size=8),
        st.just(-1),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def json_mutated(draw: st.DrawFn, text: bytes) -> bytes:
    """A JSON text in which up to three values are others, or gone."""
    content = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        node, depth = content, draw(st.integers(0, 5))
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if depth == 0 or not isinstance(node[key], (dict, list)):
                if draw(st.booleans()):
                    node[key] = draw(JSON)
                else:
                    del node[key]
                break
            node, depth = node[key], depth - 1
    return json.dumps(content).encode()


def annotations() -> list[Target]:
    """A target for each landmark format, from the layouts as published."""
    import scipy.io  # noqa: F401 - for the processes that are forked from this one
    from srrl_tasks.faces.readers import aflw, read

    aflw.read_arrays = forked_arrays
    wflw = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
    # format -> (folder or file below FORMATS, the annotation file in it)
    places = {
        "ibug": ("ibug", "face_a.pts"),
        "wflw": ("wflw", wflw),
        "cofw": ("COFW_test_color.mat", ""),
        "aflw": ("aflw", "AFLWinfo_release.mat"),
        "coco": ("coco", "annotations.json"),
        "csv": ("csv", "keypoints.csv"),
    }

    def target(name: str, place: str, file: str) -> Target:
        source = FORMATS / place

        def take(folder: Path, data: bytes) -> None:
            path = folder / place
            if not path.exists():
                (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
            (path / file if file else path).write_bytes(data)
            both_ways(lambda on_error: read(path, name, on_error=on_error))

        whole = (source / file if file else source).read_bytes()
        inputs = mutated([whole])
        if file.endswith(".json"):
            inputs |= json_mutated(whole)
        # a process an input
        return Target(name, inputs, take, 3.0 if name == "aflw" else 8.0, annotation=True)

    found = [target(name, *place) for name, place in places.items()]
    helen = (FORMATS / "ibug" / "face_a.pts").read_bytes()

    def w300(folder: Path, data: bytes) -> None:
        for part in ("afw", "helen/trainset", "lfpw/trainset"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(FORMATS / "ibug" / "face_a.png", folder / part)
            (folder / part / "face_a.pts").write_bytes(data if part == "afw" else helen)
        both_ways(lambda on_error: read(folder, "300w", split="train", on_error=on_error))

    return [*found, Target("300w", mutated([helen]), w300, 8.0, annotation=True)]


def both_ways(read: Callable[[str], list]) -> None:
    """The records of a file, read with ``on_error`` as raise and as skip: the same ones where nothing of it is bad."""
    counts: dict[str, int] = {}
    for on_error in ("raise", "skip"):
        with refused():
            found = read(on_error)
            counts[on_error] = len(found)
            for record in found:
                assert record.points.ndim == 2 and record.points.shape[1] == 2
            assert on_error == "skip" or not found.skipped, "left out, where it should have raised"
    assert "raise" not in counts or counts["raise"] == counts.get("skip"), f"records: {counts}"


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Lets a refusal pass: of the two types that a command line shows, and in one line that says something."""
    from srrl.errors import RunError, UserError

    try:
        yield
    except (UserError, RunError) as error:
        assert str(error).strip() and "\n" not in str(error), f"not one line: {str(error)!r}"


def forked_arrays(file: Path, names: Collection[str]) -> dict:
    """As ``read_arrays`` of MATLAB files, by the same lines in a process forked from this one: a fresh one takes a second."""
    import pickle

    from srrl_tasks.faces.readers import matfile

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(writer, 1)
            sys.argv, sys.stdout = ["", str(file), *names], os.fdopen(1, "w", closefd=False)
            exec(matfile._READ, {})
            sys.stdout.buffer.flush()
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise matfile.Damaged("the process that read it said so")
    return pickle.loads(said)


def settings_files() -> list[Target]:
    from srrl.config import apply_overrides, dump, read_yaml, resolve
    from srrl.task import get_task, task_names

    def yaml_file(folder: Path, data: bytes) -> None:
        path = folder / "settings.yaml"
        path.write_bytes(data)
        values = read_yaml(path)
        task = get_task(values.get("task", "faces"), values)
        dump(resolve(task.settings, task.filled(values)))

    schemas = {name: get_task(name, {}) for name in task_names()}
    known = sorted({key for task in schemas.values() for key in _keys(task.settings)})
    values = st.one_of(st.text(max_size=12), st.sampled_from([t.decode("utf-8", "replace") for t in TOKENS]))
    override = st.builds("{}={}".format, st.one_of(st.sampled_from(known), st.text(max_size=8)), values)

    def overrides(folder: Path, data: tuple[str, list[str]]) -> None:
        task = schemas[data[0]]
        given_ = apply_overrides({}, data[1])
        dump(resolve(task.settings, task.filled(given_), given_))

    texts = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))]
    pairs = st.tuples(st.sampled_from(sorted(schemas)), st.lists(override, max_size=4))
    return [
        Target("settings file", mutated(texts), yaml_file, 4.0),
        Target("settings", pairs, overrides),
    ]


def _keys(schema: type, prefix: str = "") -> list[str]:
    found = []
    for name, field in schema.model_fields.items():
        found.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            found += _keys(inner, f"{prefix}{name}.")
    return found


def make_run(folder: Path) -> None:
    """A run folder as a training leaves it, of networks that have learnt nothing."""
    import torch

    from srrl.checkpoint import save_weights
    from srrl.config import dump, resolve
    from srrl.runs import MetricsLog, RunFolder, write_json
    from srrl.task import get_task

    torch.manual_seed(0)
    torch.set_num_threads(1)  # processes are forked from this one, which threads do not survive
    task, run = get_task("classification", {}), RunFolder(folder)
    data = {"format": "digits", "n_classes": 10, "classes": list("0123456789")}
    cfg = resolve(task.settings, {"student": {"width": 4}, "image_size": 16, "data": data})
    run.write_settings(dump(cfg))
    save_weights(run.weights("student"), task.build_student(cfg), task="classification")
    write_json(run.results, {"task": "classification", "method": "srrl", "student": {"top1": 10.0}})
    MetricsLog(folder / "metrics.csv").add({"phase": "student", "epoch": 1, "loss": 1.0})


def saved_files(work: Path) -> list[Target]:
    """Weights, checkpoints, exported files, run folders and caches."""
    import numpy as np
    import torch
    from srrl_tasks.faces.synthetic.store import read_shard, shard_path, write_shard

    from srrl.api import open_run
    from srrl.checkpoint import load_state, read_export, read_weights, save_export, save_state
    from srrl.runs import MetricsLog, read_json

    run = work / "run"
    make_run(run)
    save_state(work / "state.pt", {"epoch": 3, "model": {"w": torch.arange(6.0)}, "log": ["a", 1.5, None]})
    save_export(work / "export.safetensors", {"w": torch.arange(6.0)}, {"task": "binary"})
    torch.save({"w": torch.arange(6.0)}, work / "plain.pth")

    class Face:
        """What the generator gives, without the seconds that it takes."""

        image = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 7, (1, 32, 3))
        quality, rect = 90, (1.0, 1.0, 30.0, 30.0)
        points = {98: np.ones((98, 2), np.float32), 68: np.ones((68, 2), np.float32)}
        visible = {98: np.ones(98, bool), 68: np.ones(68, bool)}
        attributes = {str(k): 0 for k in range(6)}

        def make(self, key: tuple[int, int, int]) -> Face:
            return self

    write_shard(Face(), work, 0, "train", 0)

    def reader(file: str, whole: Path, read: Callable[[Path], object]) -> Callable[[Path, bytes], None]:
        """Takes a file only where it says what the undamaged one said, which a checksum is for."""
        right = read(whole)

        def take(folder: Path, data: bytes) -> None:
            (folder / file).write_bytes(data)
            assert alike(read(folder / file), right), "damaged, and taken all the same"

        return take

    def alike(a: object, b: object) -> bool:
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b))
        if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
            return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.equal(b)
        if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
            return np.array_equal(a, b)
        return a == b

    def opened(folder: Path, data: tuple[str, bytes]) -> None:
        path = folder / "run"
        shutil.copytree(run, path, dirs_exist_ok=True)
        (path / data[0]).write_bytes(data[1])
        found = open_run(path)
        read_json(path / "results.json")
        MetricsLog(path / "metrics.csv").trim("student", 1)
        found.model("student")

    def shard(path: Path) -> tuple:
        labels, images = read_shard(path)
        return labels, [image() for image in images]

    parts = ["config.yaml", "metrics.csv", "results.json", "weights/student.safetensors"]
    damaged = st.sampled_from(parts).flatmap(
        lambda name: st.tuples(st.just(name), mutated([(run / name).read_bytes()]))
    )
    weights, faces = run / "weights" / "student.safetensors", shard_path(work, "train", 0)
    readers = {
        "safetensors": ("w.safetensors", weights, read_weights),
        "torch file": ("w.pth", work / "plain.pth", read_weights),
        "checkpoint": ("s.pt", work / "state.pt", load_state),
        "exported file": ("e.safetensors", work / "export.safetensors", read_export),
        "cached faces": ("train-00000.faces", faces, shard),
    }
    return [
        Target("run folder", damaged, opened, 0.5),
        *(Target(name, mutated([how[1].read_bytes()]), reader(*how)) for name, how in readers.items()),
    ]


def pictures() -> list[Target]:
    import cv2
    import numpy as np
    from PIL import Image
    from srrl_tasks.faces.records import decode_image

    from srrl.media import to_rgb

    ramp = np.arange(40 * 30 * 3, dtype=np.uint32).reshape(40, 30, 3).astype(np.uint8)
    seeds = [cv2.imencode(end, ramp)[1].tobytes() for end in (".jpg", ".png", ".bmp", ".tiff", ".webp")]
    for form, mode in (("GIF", "P"), ("PNG", "I;16"), ("PNG", "LA"), ("JPEG", "CMYK"), ("PPM", "RGB")):
        buffer = io.BytesIO()
        picture = Image.fromarray(ramp)
        (picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)).save(buffer, form)
        seeds.append(buffer.getvalue())

    def read(folder: Path, data: bytes) -> list[np.ndarray | None]:
        """Its pixels as faces are read and as all other pictures are, None where that refused it."""
        path = folder / "picture"
        path.write_bytes(data)
        found: list[np.ndarray | None] = [None, None]
        for i, how in enumerate((lambda: decode_image(data, path), lambda: to_rgb(path))):
            with refused():
                found[i] = how()
                assert found[i].dtype == np.uint8 and found[i].ndim == 3 and found[i].shape[2] == 3
        return found

    flat = np.zeros((64, 64, 3), np.uint8)  # of long runs, in which one bit moves much
    flat[10:30, 10:40], flat[40:50, 5:60] = 200, (10, 200, 30)
    pngs = [s for s in seeds if s.startswith(b"\x89PNG")] + [cv2.imencode(".png", flat)[1].tobytes()]

    def flipped(folder: Path, data: tuple[int, list[int]]) -> None:
        """A PNG with bits of it changed: as it was, or refused, since the file has checksums."""
        damaged = bytearray(pngs[data[0]])
        for bit in data[1]:
            damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
        whole, found = read(folder, pngs[data[0]]), read(folder, bytes(damaged))
        for a, b in zip(whole, found):
            assert b is None or np.array_equal(a, b), "damaged, and taken all the same"

    bits = st.tuples(st.integers(0, len(pngs) - 1), st.lists(st.integers(0, 1 << 16), min_size=1, max_size=3))
    return [Target("picture", mutated(seeds), read, 2.0), Target("PNG", bits, flipped, 1.0)]


# what an operating system can hand over: no NUL
ARGUMENT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
EDGES = [
    *("0", "1", "2", "-1", "0.5", "1e9", "1e308", "1e-320", "nan", "inf", "-inf", "99999999999999999999", "true", "null"),
    *("", "x", "é ü", "[]", "[1]", "[[1]]", "{}", "{a: 1}", '"\\0"', '"a\\n\\e[31m"', "kd", "none", "resnet8", "/dev/null", "~", "."),
]  # fmt: skip


def outcome(folder: Path, act: Callable[[], object]) -> None:
    """Ends ``act``, a command in this folder, as it should end: with 0, 1 or 2 and a word, which is not of a fault of ours."""
    from srrl.cli import FAULT

    before = Path.cwd()
    os.chdir(folder)
    out, error = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status = act()
    except SystemExit as end:
        status = end.code
    finally:
        os.chdir(before)
    said = error.getvalue()
    assert status in (0, 1, 2), status
    assert status == 0 or said.strip(), "no word about what is wrong"
    assert FAULT not in said and "Traceback" not in said, said


def command_lines(work: Path) -> list[Target]:
    """Arguments of every command in all sorts of orders, on a run folder and files that are there, and ones that are not."""
    from importlib import import_module

    from srrl_tasks.binary import speed
    from srrl_tasks.faces.synthetic import __main__ as faces

    from srrl.cli import main_of
    from srrl.task import get_task

    run, picture = work / "run", work / "picture.png"
    if not run.exists():
        make_run(run)
    shutil.copy(FORMATS / "ibug" / "face_a.png", picture)
    (work / "empty").mkdir(exist_ok=True)
    words = [
        str(run), str(picture), str(work / "empty"), str(work / "no such"), "runs/faces/001", "shipped:faces68", "-", "",
        "0", "-1", "1e9", "9" * 30, "nan", "none", "srrl,kd", "srrl,srrl", "all", "student", "teacher", "onnx", "packed", "faces",
        "classification", "method=srrl", "epochs=0", "optim.lr=x", "data.train=/dev/null", "=", "a=b", "é ü", "\udcff", "a\n\x1b[31m",
        "x" * 5000, "{", "[1, 2", "--help", "--", "--model", "--data", "--format", "--box", "--json", "--out",
        "--task", "--seeds", "--methods", "--grid", "--tuned", "--jobs", "--probe", "--rounds", "-c", "--config",
        "--quick", "--resume", "--run-dir", "--print-config", "--batch", "--threads", "--unknown",
    ]  # fmt: skip
    words_of = st.lists(st.one_of(st.sampled_from(words), ARGUMENT), max_size=8)

    def begun(name: str, arguments: list[str]) -> Callable[[], object]:
        return lambda: main_of(import_module(f"srrl.{name}").COMMAND, arguments)

    def take(folder: Path, data: tuple[str, list[str]]) -> None:
        name, arguments = data
        # what would train or measure for minutes only says what it would do, or has no run to do it with
        arguments = [*arguments, *(["--print-config"] if name == "train" else [])]
        if name in ("benchmark", "export"):
            there = (str(run), "shipped:faces68")
            arguments = [str(work / "no such") if a in there else a for a in arguments]
        if name in ("evaluate", "compare"):  # makes the faces that it is scored on, or trains
            arguments = ["shipped:none" if a == "shipped:faces68" else a for a in arguments]
        outcome(folder, begun(name, arguments))

    keys = _keys(get_task("classification", {}).settings)
    # what is compiled or fetched takes minutes
    keys = [k for k in keys if k != "compile" and k.rpartition(".")[2] not in ("pretrained", "download")]
    changed = st.builds("{}={}".format, st.sampled_from(keys), st.sampled_from(EDGES))
    small = "--task classification --quick --dry-run teacher.arch=resnet8 teacher.width=2 student.width=2 data.workers=0"

    def dry_run(folder: Path, changes: list[str]) -> None:
        outcome(folder, begun("train", [*small.split(), *changes]))

    options = {
        "evaluate": [["--model", "student"], ["--json", "e.json"], ["--model", "teacher"], ["--data", str(work / "empty")]],
        "benchmark": [["--skip-epoch"], ["--batch-size", "1"], ["--json", "b.json"], ["--batch-size", "1000000"]],
        "export": [["--format", "packed"], ["--out", "x"], ["--out", "y.onnx"], ["--format", "onnx-int8"]],
    }  # fmt: skip
    always = {
        "evaluate": [str(run)],
        "benchmark": [str(run), "--rounds", "1", "--batches", "1"],
        "export": [str(run), "--format", "onnx", "--out", "new.onnx"],
    }

    def real(folder: Path, data: tuple[str, list[list[str]]]) -> None:
        for path in folder.iterdir():  # an export does not overwrite the one before
            path.unlink()
        name, chosen = data
        outcome(folder, begun(name, [*always[name], *(word for option in chosen for word in option)]))

    real_runs = st.sampled_from(sorted(options)).flatmap(
        lambda name: st.tuples(st.just(name), st.lists(st.sampled_from(options[name]), max_size=2))
    )
    others = [
        "--host", "--port", "--auth", "--run", "--runs", "--n-train", "--n-val", "--size", "--seed", "--cache-dir", "--split",
        "--processes", "--image-size", "--classes", "--rounds", "--json", "generate", "export", "sheet", "127.0.0.1", "nowhere.invalid",
        "a:b", "train", "64", "1", "0", "65536", "-1", "9" * 30, "nan", "", "é ü", "a\n\x1b[31m", str(run), str(picture),
        str(work / "empty"), "shipped:faces68", "--help", "--unknown",
    ]  # fmt: skip
    others_of = st.lists(st.one_of(st.sampled_from(others), ARGUMENT), max_size=6)

    def parsers(folder: Path, data: tuple[str, list[str]]) -> None:
        """The commands beside the main ones, up to where they would serve, generate or measure."""
        from types import SimpleNamespace
        from unittest.mock import patch

        import srrl_app.command as app

        name, arguments = data
        done = lambda *_, **__: 0  # noqa: E731
        modules = {"gradio": SimpleNamespace(), "srrl_app.page": SimpleNamespace(serve=done)}
        times = {"float32": [1.0], "binary, packed": [1.0]}
        with (
            patch.dict(sys.modules, modules),
            patch.multiple(faces, ensure=done, export_wflw=done, _sheets=done),
            patch.object(speed, "measure", lambda *_: times),
        ):
            acts = {
                "app": lambda: main_of(app.COMMAND, arguments),
                "faces": lambda: faces.main(arguments),
                "speed": lambda: speed_main(arguments),
            }
            outcome(folder, acts[name])

    def speed_main(arguments: list[str]) -> int:
        from srrl.cli import guarded

        return guarded(lambda: speed.main(arguments))

    names = st.sampled_from(("train", "evaluate", "predict", "compare", "benchmark", "export"))
    return [
        # evaluate scores and times a whole run
        Target("command line", st.tuples(names, words_of), take, share=2.0, seconds=60.0),
        Target("other command lines", st.tuples(st.sampled_from(("app", "faces", "speed")), others_of), parsers, seconds=60.0),
        Target("dry runs", st.lists(changed, max_size=2), dry_run, share=0.3, most=150, seconds=60.0),
        Target("real runs", real_runs, real, share=0.3, most=60, seconds=120.0),
    ]  # fmt: skip


def targets(work: Path) -> list[Target]:
    return [*annotations(), *settings_files(), *saved_files(work), *pictures(), *command_lines(work)]


def run(target: Target, inputs: int, number: int, kept: Path) -> None:
    """Gives a target its inputs; raises at the smallest one found that fails."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    last, count = kept / f"{target.name}.input", 0

    @seed(number)
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(target.inputs)
    def check(data: object) -> None:
        nonlocal count
        count += 1
        last.write_bytes(data if isinstance(data, bytes) else repr(data).encode("utf-8", "backslashreplace"))
        start = processor_seconds()
        with refused():
            target.take(folder, data)
        took = processor_seconds() - start
        assert took < target.seconds, f"took {took:.1f} s"

    try:
        check()
        last.unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        (kept / f"{target.name}.count").write_text(str(count), encoding="utf-8")


def processor_seconds() -> float:
    """What this process has taken, and those that it started and has seen end."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def in_a_process(target: Target, inputs: int, number: int, kept: Path) -> tuple[bool, int]:
    """Whether the target took all of it, in a process that is allowed 4 GB more than this one, and how many inputs it was given."""
    counted = kept / f"{target.name}.count"
    counted.unlink(missing_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
            if pages:
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)
            with open(kept / f"{target.name}.log", "w", encoding="utf-8") as log:
                os.dup2(log.fileno(), 2)  # what libraries print about each damaged file
                try:
                    run(target, inputs, number, kept)
                    status = 0
                except BaseException:
                    import traceback

                    traceback.print_exc(file=log)
        finally:
            os._exit(status)
    good = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    count = (
        int(counted.read_text(encoding="utf-8")) if counted.exists() else 0
    )  # none where a library ended it
    counted.unlink(missing_ok=True)
    return good, count


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--inputs",
        type=int,
        default=100_000,
        help="how many annotation files; the others in proportion (default 100,000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default 0)")
    parser.add_argument("--only", metavar="NAMES", help="targets, separated by commas (default: all)")
    parser.add_argument("--json", metavar="FILE", help="the counts, as JSON")
    parser.add_argument(
        "--keep", metavar="DIR", help="where the inputs that failed go (default: a new folder)"
    )
    args = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    kept = Path(args.keep or tempfile.mkdtemp(prefix="srrl-fuzz-"))
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        found = targets(Path(work))
        shares = sum(t.share for t in found if t.annotation)
        if args.only:
            names = args.only.split(",")
            if unknown := set(names) - {t.name for t in found}:
                parser.error(
                    f"--only: expected some of {', '.join(t.name for t in found)}, not {', '.join(unknown)}"
                )
            found = [t for t in found if t.name in names]
        report, failed = {}, []
        for target in found:
            inputs = math.ceil(args.inputs * target.share / shares)
            start = time.monotonic()
            good, count = in_a_process(target, min(inputs, target.most or inputs), args.seed, kept)
            word = "taken or refused" if good else f"FAILED: {kept / target.name}.input and .log"
            print(f"{target.name}: {count} inputs, {time.monotonic() - start:.0f} s, {word}", flush=True)
            report[target.name] = {"inputs": count, "annotation": target.annotation, "failed": not good}
            failed += [] if good else [target.name]
    whole = sum(r["inputs"] for r in report.values())
    files = sum(r["inputs"] for r in report.values() if r["annotation"])
    print(f"{whole} inputs, {files} of them annotation files, {len(failed)} of {len(report)} targets failed")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
