"""Ends the program with SIGKILL at random moments, again and again, and checks that no work is lost or changed by it.

``python scripts/kills.py --kills 200`` trains, generates faces, exports and compares, each many times over. A process is
killed after a random time, alone or with all that it started, and its command is given again, until it comes to its end.
Then everything must be what one undisturbed run of the same command made: weights, figures and faces to the last bit. After
each kill whatever has its final name must be whole. Prints a line a history and a table; exit status 1 where anything differed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"  # sums in one order
MOST = 5  # kills of one history
TIMES = {"seconds", "images_per_second"}
SMALL = [
    "threads=1",
    "precision=fp32",
    "epochs=6",
    "teacher.epochs=4",
    "data.workers=0",
    "batch_size=10",
]


@dataclass
class Scenario:
    """One job: the command that begins it or goes on with it, and what its folder must hold in the end and on the way."""

    name: str
    command: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, object]]  # name -> what must be equal
    settled: Callable[[Path], list[str]] = lambda folder: []  # after a kill: what is wrong
    waits: bool = False  # where a process that was left behind holds a run, the command says so with status 2
    prepare: Callable[[Path], None] = lambda folder: None
    seconds: float = 0.0  # of the undisturbed run
    expected: dict[str, object] = field(default_factory=dict)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(path: Path) -> str:
    """Of a safetensors file, whose header names things in an order of its own each time."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        said = json.dumps(file.metadata(), sort_keys=True)
        whole = hashlib.sha256(said.encode())
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            whole.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
    return whole.hexdigest()


def run_result(folder: Path) -> dict[str, object]:
    """Weights and figures of a run folder, without what a clock said."""
    from srrl.runs import RunFolder

    found: dict[str, object] = {p.name: content(p) for p in sorted((folder / "weights").glob("*"))}
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as handle:
        found["metrics.csv"] = [
            {k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(handle)
        ]
    found["results.json"] = untimed(json.loads(RunFolder(folder).results.read_text(encoding="utf-8")))
    return found


def untimed(value: object) -> object:
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if not k.startswith("latency")}
    return value


def run_settled(folder: Path) -> list[str]:
    """Checkpoints, weights and tables below a folder that cannot be read."""
    from srrl.checkpoint import load_state, read_weights
    from srrl.config import read_yaml
    from srrl.errors import UserError

    readers = {
        ".pt": load_state,
        ".safetensors": read_weights,
        ".json": lambda p: json.loads(p.read_text(encoding="utf-8")),
        ".yaml": read_yaml,
        ".csv": lambda p: [int(row["epoch"]) for row in csv.DictReader(p.open(encoding="utf-8"))],
    }
    wrong = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in readers and not path.name.startswith("."):
            try:
                readers[path.suffix](path)
            except (UserError, ValueError, TypeError, KeyError) as error:
                wrong.append(f"{path.name}: {error}")
            except FileNotFoundError:  # a process that was left behind goes on
                pass
    return wrong


def training(task: str, *settings: str) -> Callable[[Path], list[str]]:
    def command(folder: Path) -> list[str]:
        if (folder / "run" / "config.yaml").is_file():
            return ["train", "--resume", str(folder / "run")]
        return ["train", "--task", task, *SMALL, *settings, "--run-dir", str(folder / "run")]

    return command


def shard_settled(folder: Path) -> list[str]:
    from srrl_tasks.faces.synthetic.store import read_shard

    from srrl.errors import UserError

    wrong = []
    for path in folder.rglob("*.faces"):
        try:
            for image in read_shard(path)[1]:
                image()
        except UserError as error:
            wrong.append(str(error))
    return wrong


def onnx_result(run: Path) -> Callable[[Path], dict[str, object]]:
    def result(folder: Path) -> dict[str, object]:
        """The exported network's answers: its file holds names that the exporter counts."""
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        net = onnxruntime.InferenceSession(str(folder / "student.onnx"), options)
        side = net.get_inputs()[0].shape[1]
        pixels = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
        return {
            o.name: hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest()
            for o, v in zip(net.get_outputs(), net.run(None, {"pixels": pixels}))
        }

    return result


def onnx_settled(folder: Path) -> list[str]:
    import onnx

    file = folder / "student.onnx"
    if not file.exists():
        return []
    try:
        onnx.checker.check_model(onnx.load(file))
    except Exception as error:  # any: the file has its final name
        return [f"student.onnx: {error}"]
    return []


def compare_result(folder: Path) -> dict[str, object]:
    table = untimed(json.loads((folder / "table" / "table.json").read_text(encoding="utf-8")))
    cells = {p.parent.name: run_result(p.parent) for p in (folder / "table").glob("*/results.json")}
    return {"table.json": table, **cells}


def scenarios(finished: Path, methods: str) -> list[Scenario]:
    """All jobs; ``finished`` is the folder of an undisturbed run of the first, which is what gets exported."""
    comparison = ["compare", "--task", "classification", "--methods", methods, "--seeds", "0", *SMALL]
    generate = ["faces", "generate", "--n-train", "64", "--n-val", "1", "--n-test", "1", "--split", "train"]
    return [
        Scenario(
            "training",
            training("classification"),
            lambda folder: run_result(folder / "run"),
            run_settled,
        ),
        Scenario(
            "two stages",
            training("binary", "stage1_epochs=3"),
            lambda folder: run_result(folder / "run"),
            run_settled,
        ),
        Scenario(
            "each step",
            training("classification", "epochs=3", "teacher.epochs=2"),
            lambda folder: run_result(folder / "run"),
            run_settled,
        ),
        Scenario(
            "comparison",
            lambda folder: [*comparison, "--out", str(folder / "table")],
            compare_result,
            run_settled,
            waits=True,
        ),
        Scenario(
            "faces",
            lambda folder: [*generate, "--size", "64", "--processes", "2", "--cache-dir", str(folder)],
            lambda folder: {p.name: digest(p) for p in sorted(folder.rglob("*.faces"))},
            shard_settled,
        ),
        Scenario(
            "export",
            lambda folder: [
                "export",
                str(finished),
                "--format",
                "onnx",
                "--out",
                str(folder / "student.onnx"),
            ],
            onnx_result(finished),
            onnx_settled,
        ),
    ]


def preload() -> None:
    """What the commands import, so that their processes, forked from this one, need not."""
    import torch
    import torch._dynamo
    from accelerate import Accelerator  # noqa: F401
    from accelerate.utils import operations  # noqa: F401

    import srrl.compare
    import srrl.export
    import srrl.pipeline
    import srrl.train
    import srrl.trainer  # noqa: F401

    torch.set_num_threads(1)


def begin(scenario: Scenario, folder: Path, log: Path) -> int:
    """Process id of the command, which runs in a process of its own."""
    arguments = scenario.command(folder)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        if scenario.name == "each step":
            import srrl.trainer

            srrl.trainer.CHECKPOINT_SECONDS = 0.0
        if arguments[0] == "faces":
            from srrl_tasks.faces.synthetic.__main__ import main

            status = main(arguments[1:])
        else:
            from srrl.cli import main

            sys.argv = ["srrl", *arguments]
            main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(pid: int, seconds: float | None) -> int | None:
    """Exit status of a process of ours, None where it is still there after ``seconds``."""
    handle = os.pidfd_open(pid)
    try:
        if not select.select([handle], [], [], seconds)[0]:
            return None
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int, everything: bool) -> None:
    """SIGKILL to a process, and to all that it started where ``everything``."""
    import psutil

    children = psutil.Process(pid).children(recursive=True) if everything else []
    for process in [psutil.Process(pid), *children]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    ended(pid, None)
    psutil.wait_procs(children, timeout=30)


def left_behind(folder: Path, seconds: float = 120) -> None:
    """Waits until no process names the folder any more."""
    import psutil

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(
            str(folder) in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])
        ):
            return
        time.sleep(0.1)


def history(scenario: Scenario, folder: Path, draw: random.Random, kills: int) -> tuple[int, list[str]]:
    """One job to its end under at most ``kills`` kills: how many there were, and what was wrong."""
    folder.mkdir(parents=True)
    log = folder.with_suffix(".log")
    done, wrong = 0, []
    while True:
        pid = begin(scenario, folder, log)
        status = ended(pid, draw.uniform(0.0, 0.7 * scenario.seconds) if done < kills else 600)
        if status is None:
            everything = done >= kills or draw.random() < 0.5
            kill(pid, everything)
            if done >= kills:
                wrong.append("did not end within 600 s")
                break
            done += 1
            wrong += scenario.settled(folder)
        elif status == 2 and scenario.waits and "another process" in log.read_text(encoding="utf-8"):
            left_behind(folder)
        elif status != 0:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            wrong.append(f"ended with status {status}: {' | '.join(last)}")
            break
        else:
            break
    if not wrong:
        found = scenario.result(folder)
        for name in sorted(found.keys() | scenario.expected.keys()):
            if found.get(name) != scenario.expected.get(name):
                wrong.append(f"{name} differs from the undisturbed run's")
        wrong += [f"left behind: {p.relative_to(folder)}" for p in scraps(folder)]
    return done, wrong


def scraps(folder: Path) -> Iterator[Path]:
    """Files that only a process that still runs should have: of killed ones they may stay, but never grow in number."""
    found = [p for p in folder.rglob("*") if p.name.endswith((".tmp", ".part"))]
    if len(found) > 8:
        yield from found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many in all (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default 0)")
    parser.add_argument("--only", metavar="NAMES", help="jobs, separated by commas (default: all)")
    parser.add_argument("--settings", default="", help="further ones of every training, with spaces between")
    parser.add_argument("--methods", default="none,srrl", help="of the comparison (default none,srrl)")
    parser.add_argument("--json", metavar="FILE", help="the table, as JSON")
    parser.add_argument("--keep", metavar="DIR", help="work there, and leave everything")
    args = parser.parse_args(argv)
    preload()
    SMALL.extend(args.settings.split())
    draw = random.Random(args.seed)
    root = Path(args.keep or tempfile.mkdtemp(prefix="srrl-kills-"))
    failures = []
    try:
        jobs = scenarios(root / "undisturbed" / "training" / "run", args.methods)
        names = args.only.split(",") if args.only else [job.name for job in jobs]
        if unknown := set(names) - {job.name for job in jobs}:
            parser.error(
                f"--only: expected some of {', '.join(j.name for j in jobs)}, not {', '.join(unknown)}"
            )
        for job in jobs:
            if job.name in names or job is jobs[0]:
                folder = root / "undisturbed" / job.name
                folder.mkdir(parents=True)
                start = time.monotonic()
                status = ended(begin(job, folder, folder.with_suffix(".log")), 600)
                if status != 0:
                    print(folder.with_suffix(".log").read_text(encoding="utf-8"), file=sys.stderr)
                    return 1
                job.seconds, job.expected = time.monotonic() - start, job.result(folder)
                print(f"{job.name}: {job.seconds:.1f} s undisturbed", flush=True)
        jobs = [job for job in jobs if job.name in names]
        counts: dict[str, collections.Counter] = {job.name: collections.Counter() for job in jobs}
        number = 0
        while sum(c["kills"] for c in counts.values()) < args.kills:
            job = min(jobs, key=lambda j: counts[j.name]["kills"])
            left = args.kills - sum(c["kills"] for c in counts.values())
            left = min(
                MOST, left, max(1, args.kills // len(jobs))
            )  # every job has its turn, also where there are few
            number += 1
            folder = root / f"{number:04d}"
            done, wrong = history(job, folder, draw, left)
            counts[job.name].update(kills=done, histories=1, lost=bool(wrong))
            print(f"{number:4d} {job.name}: {done} kills, {'; '.join(wrong) or 'as undisturbed'}", flush=True)
            failures += wrong
            if not wrong and not args.keep:
                shutil.rmtree(folder)
                folder.with_suffix(".log").unlink()
        print("\n| job | histories | kills | lost or changed |\n|---|--:|--:|--:|")
        for name, c in counts.items():
            print(f"| {name} | {c['histories']} | {c['kills']} | {c['lost']} |")
        total = sum(counts.values(), collections.Counter())
        print(f"| all | {total['histories']} | {total['kills']} | {total['lost']} |")
        if args.json:
            report = {
                name: {k: int(c[k]) for k in ("histories", "kills", "lost")} for name, c in counts.items()
            }
            Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    finally:
        if not failures and not args.keep:
            shutil.rmtree(root, ignore_errors=True)
        elif failures:
            print(f"everything is kept in {root}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
