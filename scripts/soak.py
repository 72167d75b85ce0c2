"""The app under mixed load for an hour: no error, no slower, and no more memory at the end than after the first minutes.

``python scripts/soak.py [--minutes 60] [--clients 10] [--json FILE]`` starts the app on the landmarks that come with the package and lets
that many clients loose on it, each of which goes on at once: pictures compared (of several sizes, files that are none, a run that
is not there), the page opened anew, the list of runs, networks timed, and every now and then a client that asks and leaves.
Meanwhile the app's memory, open files, threads and temporary files are written down. Ends with 1 where an answer was not the one
expected or did not come within five minutes, a client had none at all, or anything grew. Needs the extras app and test.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
from gradio_client import Client, handle_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from served import served  # noqa: E402

WHOLE, FIND = "the whole picture is one face", "find the faces"
RUNS = ("shipped:faces68", "shipped:faces68-small")
PATIENCE = 300.0  # seconds for an answer, of which a comparison by ten clients on two cores takes ten
EVERY = 5.0  # seconds between two looks at the process
# what may still grow once every kind of request has been answered many times
GROWTH = {"memory_mb": 60.0, "open_files": 15.0, "threads": 15.0, "temporary_mb": 60.0}


def pictures(folder: Path) -> dict[str, tuple[Path, str]]:
    """File and how the answer to it begins after the run's name, or in its place."""
    rng = np.random.default_rng(0)
    face = cv2.imread(str(ROOT / "app/examples/face.jpg"))
    group = cv2.imread(str(ROOT / "app/examples/group.jpg"))
    large = 3000 / min(group.shape[:2])
    noise = rng.integers(0, 255, (800, 1200, 3), dtype=np.uint8)
    for name, image in {
        "face.jpg": face,
        "group.jpg": group,
        "large.jpg": cv2.resize(group, None, fx=large, fy=large),
        "noise.png": noise,
    }.items():
        cv2.imwrite(str(folder / name), image)
    (folder / "text.png").write_bytes(b"just text")
    said = {"face.jpg": "1 face found", "group.jpg": "3 faces found", "large.jpg": "3 faces found"}
    said |= {"noise.png": "No face was found", "text.png": "This file is not a picture"}
    return {name: (folder / name, words) for name, words in said.items()}


class Load:
    """What the clients ask, and what became of it."""

    def __init__(self, address: str, folder: Path):
        self.address, self.files = address, pictures(folder)
        self.seconds: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
        self.errors: list[str] = []
        self.answered: collections.Counter[int] = collections.Counter()  # by client
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def client(self, number: int) -> None:
        """Asks until it is told to stop."""
        rng = random.Random(number)
        client: Client | None = None
        kinds: list[tuple[str, float, Callable[[Client, random.Random], str | None]]] = [
            ("a picture compared", 0.70, self.compare),
            ("the page opened", 0.14, self.open),
            ("the list of runs", 0.08, self.runs),
            ("networks timed", 0.02, self.benchmark),
            ("a run that is not there", 0.03, self.nobody),
            ("asked and left", 0.03, self.leave),
        ]
        while not self.stop.is_set():
            name, _, ask = rng.choices(kinds, [share for _, share, _ in kinds])[0]
            began = time.monotonic()
            try:
                client = client or Client(self.address, verbose=False)
                wrong = ask(client, rng)
                self.answered[number] += name != "asked and left"
            except Exception as error:  # whatever it is, it is what a user would have seen
                wrong = f"{type(error).__name__}: {error}"
            with self._lock:
                self.seconds[name].append((began, time.monotonic() - began))
                if wrong:
                    self.errors.append(f"{name}: {wrong[:300]}")

    def compare(self, client: Client, rng: random.Random) -> str | None:
        name = rng.choice(list(self.files))
        path, expected = self.files[name]
        run = rng.choice(RUNS)
        said, *_ = answer(client, handle_file(str(path)), run, FIND, False, api_name="/compare")
        return None if said.removeprefix(f"**{run}**: ").startswith(expected) else f"{name}: {said}"

    def open(self, client: Client, rng: random.Random) -> str | None:
        with httpx.Client(base_url=self.address, timeout=PATIENCE) as session:
            codes = [session.get(path).status_code for path in ("/", "/config", "/gradio_api/info")]
        return None if codes == [200] * 3 else str(codes)

    def runs(self, client: Client, rng: random.Random) -> str | None:
        found = [r["run"] for r in answer(client, api_name="/runs")]
        return None if found == list(RUNS) else str(found)

    def benchmark(self, client: Client, rng: random.Random) -> str | None:
        timed = ([RUNS[1]], ["student"], ["float32"], 1, 1, "as trained")
        said, *_ = answer(client, *timed, api_name="/benchmark")
        return None if "rounds, 1 thread" in said else said

    def nobody(self, client: Client, rng: random.Random) -> str | None:
        path = handle_file(str(self.files["face.jpg"][0]))
        said, *_ = answer(client, path, "../../etc", WHOLE, False, api_name="/compare")
        return None if said == "There is no such run: choose one from the list." else said

    def leave(self, client: Client, rng: random.Random) -> str | None:
        """Another client, which does not wait for its answer."""
        other = Client(self.address, verbose=False)
        job = other.submit(
            handle_file(str(self.files["large.jpg"][0])), RUNS[0], FIND, False, api_name="/compare"
        )
        time.sleep(rng.uniform(0.0, 0.5))
        job.cancel()
        return None


def answer(client: Client, *inputs: object, api_name: str) -> Any:
    """What the app answers. Raises TimeoutError where nothing comes in good time."""
    return client.submit(*inputs, api_name=api_name).result(timeout=PATIENCE)


def look(process: psutil.Process, temporary: Path) -> dict[str, float]:
    """The process now, and the folder of its temporary files; memory is resident, of it and its children."""
    family = [process, *process.children(recursive=True)]
    files = (Path(at) / name for at, _, names in os.walk(temporary) for name in names)
    return {
        "memory_mb": sum(p.memory_info().rss for p in family) / 1e6,
        "open_files": float(process.num_fds()),
        "threads": float(process.num_threads()),
        "temporary_mb": sum(map(_size, files)) / 1e6,
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # swept meanwhile
        return 0


def soak(minutes: float, clients: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Requests by kind, errors, and what the process took in the second tenth of the time and in the last."""
    looks: list[tuple[float, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        runs, temporary = Path(folder) / "runs", Path(folder) / "tmp"
        runs.mkdir()
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)  # the app's: other programs write to the usual one
        tempfile.tempdir = folder  # the clients', each of which leaves an empty folder with every answer
        with served("--runs", runs) as (address, started):
            process, load = psutil.Process(started.pid), Load(address, Path(folder))
            threads = [threading.Thread(target=load.client, args=(i,), daemon=True) for i in range(clients)]
            began, told, known = time.monotonic(), 0.0, 0
            for thread in threads:
                thread.start()
            while (now := time.monotonic() - began) < 60 * minutes and started.poll() is None:
                looks.append((now, look(process, temporary)))
                if now - told >= 60:
                    told = now
                    done = sum(map(len, load.seconds.values()))
                    say(
                        f"{now / 60:.0f} min: {done} requests, {len(load.errors)} errors, "
                        + ", ".join(f"{k} {v:.0f}" for k, v in looks[-1][1].items())
                    )
                    for error in load.errors[known:]:
                        say(f"  {error}")
                    known = len(load.errors)
                time.sleep(EVERY)
            alive = started.poll() is None
            load.stop.set()
            end = time.monotonic() + 2 * PATIENCE
            for i, thread in enumerate(threads):
                thread.join(max(0.0, end - time.monotonic()))
                if thread.is_alive():
                    load.errors.append(f"client {i} still waits for an answer")
                if not load.answered[i]:
                    load.errors.append(f"client {i} had no answer at all")
            if "Traceback" in started.said():
                load.errors.append("the app wrote a traceback: " + started.said()[-2000:])
            if not alive:
                load.errors.append("the app ended: " + started.said()[-2000:])
    whole = 60 * minutes
    levels = {
        when: {
            key: statistics.median(found[key] for at, found in looks if low * whole <= at <= high * whole)
            for key in GROWTH
        }
        for when, low, high in (("early", 0.1, 0.2), ("late", 0.9, 1.0))
    }
    levels["highest"] = {key: max(found[key] for _, found in looks) for key in GROWTH}
    requests = {}
    for name, pairs in sorted(load.seconds.items()):
        parts = {"": pairs, "_early": pairs[: len(pairs) // 5], "_late": pairs[-len(pairs) // 5 :]}
        medians = {f"median{k}": statistics.median(s for _, s in v) for k, v in parts.items() if v}
        requests[name] = {"count": len(pairs), "longest": max(s for _, s in pairs), **medians}
    return {
        "minutes": minutes,
        "clients": clients,
        "requests": requests,
        "errors": load.errors,
        "process": levels,
    }


def grown(found: dict[str, Any]) -> list[str]:
    """What grew by more than it may between the second tenth of the time and the last."""
    early, late = found["process"]["early"], found["process"]["late"]
    return [
        f"{key}: {early[key]:.0f} to {late[key]:.0f}"
        for key, most in GROWTH.items()
        if late[key] - early[key] > most
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    found = soak(args.minutes, args.clients, lambda text: print(text, flush=True))
    for name, r in found["requests"].items():
        early, late = (r.get(f"median_{k}", float("nan")) for k in ("early", "late"))
        print(f"{name}: {r['count']}, median {r['median']:.2f} s (first fifth {early:.2f}, last {late:.2f})")
    for key in GROWTH:
        print(key, *(f"{when} {found['process'][when][key]:.0f}" for when in ("early", "late", "highest")))
    wrong = grown(found)
    print(f"{len(found['errors'])} errors; grown: {'; '.join(wrong) or 'nothing'}")
    for error in found["errors"][:20]:
        print("  " + error)
    if args.json:
        from srrl.runs import write_json

        write_json(Path(args.json), found)
    return 1 if wrong or found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
