"""The synthetic faces: labels against independent geometry, determinism, resume, visibility, export."""

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nobody import as_nobody, close, listing, readable_folder, reopen

if importlib.util.find_spec("anny") is None or importlib.util.find_spec("warp") is None:
    pytest.skip("anny and warp-lang are not installed", allow_module_level=True)

from srrl_tasks.faces import synthetic
from srrl_tasks.faces.schemes import scheme_for
from srrl_tasks.faces.synthetic import store

from srrl.errors import RunError, UserError

TINY = synthetic.SyntheticSettings(n_train=40, n_val=3, n_test=2, size=64)
OPTIONS = ["--n-train", "40", "--n-val", "3", "--n-test", "2", "--size", "64"]  # the same on the command line
HOLD = (
    "import sys, time; from pathlib import Path; from srrl.lock import held\n"
    "with held(Path(sys.argv[1]), int(sys.argv[2])) as free: print(free, flush=True); time.sleep(200)"
)
# a worker, its task and the file by which it says that it has begun to flush: that ends when something comes on its stdin
SLOW_DISK = """
import json, os, sys
from srrl.task import ensure_tasks_importable
ensure_tasks_importable()
from srrl_tasks.faces.synthetic import worker
def flush(handle):
    open(sys.argv[2], "w").close()
    os.read(0, 1)
os.fsync = flush
worker.main(json.loads(sys.argv[1]))
"""
COMMAND = """
import sys
from srrl.task import ensure_tasks_importable
ensure_tasks_importable()
from srrl_tasks.faces.synthetic.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("кэш 1")


@pytest.fixture(scope="module")
def generator(cache):
    from srrl_tasks.faces.synthetic.face import Generator

    return Generator(128, cache)


@pytest.fixture(scope="module")
def filled(cache):
    synthetic.ensure(TINY, cache_dir=cache, progress=False, processes=2)
    return cache


def bare_head(generator, pose):
    """(scene, posed points, camera, 3-D landmarks) of the mean head without hair or clothes."""
    from srrl_tasks.faces.synthetic.landmarks import Brow
    from srrl_tasks.faces.synthetic.mesh import Builder

    scene = Builder()
    nod = np.ones(len(generator.template))  # all of it turns with the head
    shape = np.array(generator.landmarks.shape)
    scene.add(shape, generator.body, generator.material, np.full(3, 0.4), template=generator.place, nod=nod)
    return scene, *generator._place(shape, scene, Brow(), pose)


def python(code, *arguments, **kwargs):
    """A program of its own that finds this checkout."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], **kwargs)


def command_line(*arguments, largest_file=None):
    """Exit status and standard error, less the progress, of the command; no file of it may have more bytes than said."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    process = python(
        COMMAND, *arguments, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=None if largest_file is None else limit,
    )  # fmt: skip
    error = process.communicate(timeout=240)[1]
    lines = [line for line in error.splitlines() if not line.startswith("synthetic faces ")]
    return process.returncode, "\n".join(lines)


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.faces"))}


def test_points_are_the_pinhole_projection_of_the_posed_head(generator):
    face = generator.make((3, 0, 1))
    for n, count in ((98, 98), (68, 68)):
        x, y, z = face.points3d[n].astype(np.float64).T
        away = face.camera.distance - z
        u = face.camera.cx + face.camera.focal * x / away
        v = face.camera.cy - face.camera.focal * y / away
        assert face.points[n].shape == (count, 2)
        np.testing.assert_allclose(face.points[n], np.stack([u, v], 1), atol=1e-9)
    low, high = face.points[98].min(0), face.points[98].max(0)
    assert 0.49 * 128 < (high - low).max() < 0.63 * 128
    assert face.rect[0] < low[0] and face.rect[3] > high[1]


@pytest.mark.parametrize("n", [68, 98])
def test_a_mirrored_pose_gives_mirrored_labels(generator, n):
    from srrl_tasks.faces.synthetic.pose import Pose

    one = bare_head(generator, Pose(yaw=28.0, pitch=7.0, roll=12.0))
    two = bare_head(generator, Pose(yaw=-28.0, pitch=7.0, roll=-12.0))
    a, b = (camera.project(points[n])[:, :2] for _, _, camera, points in (one, two))
    mirrored = b[np.asarray(scheme_for(n).flip_order)]
    mirrored[:, 0] = 127.0 - mirrored[:, 0]
    np.testing.assert_allclose(a, mirrored, atol=0.02)


def test_both_schemes_name_the_same_places_but_for_habits(generator):
    """The 68 lie where people put them: seen from the front up to 0.045 dm (5 % of the inter-ocular distance) from what the 98
    call the same, and up to 0.11 dm before it."""
    from srrl_tasks.faces.synthetic.pose import Pose

    pose = Pose(yaw=20.0)
    _, _, camera, points = bare_head(generator, pose)
    few, many = points[68], points[98]
    pairs = [*zip(range(27, 36), range(51, 60)), *zip((36, 39, 42, 45), (60, 64, 68, 72))]
    pairs += zip(range(48, 68), range(76, 96))
    for i, j in pairs:
        across, up, forward = (few[i] - many[j]) @ pose.matrix  # in the head's own axes
        assert np.hypot(across, up) < 0.045 and abs(forward) < 0.11, i
    x = camera.project(many)[:, 0]
    assert x[60] < x[64] < x[51] < x[68] < x[72]  # the person's right eye is on the picture's left


def test_the_contour_is_the_outermost_place_of_its_path_and_so_much_beyond():
    from srrl_tasks.faces.synthetic.landmarks import choose_contour

    across = np.array(
        [0.0, 3.0, 4.0, 3.0, 0.0]
    )  # a parabola in the path's number: the peak is its third place
    paths = np.stack([across, np.arange(5.0), np.zeros(5)], 1)[None]
    flat = paths[..., :2] * 10
    right = np.array([[1.0, 0.0]])
    assert choose_contour(paths, flat, right, np.zeros(1)) == pytest.approx(np.array([[4.0, 2.0, 0.0]]))
    assert choose_contour(paths, flat, right, np.array([0.2])) == pytest.approx(np.array([[4.2, 2.0, 0.0]]))
    # downwards in the picture is against y of the head
    down = choose_contour(paths, flat * [1, -1], np.array([[0.0, 1.0]]), np.array([0.2]))
    assert down == pytest.approx(np.array([[0.0, -0.2, 0.0]]))


def test_forward_of_the_skin_is_sideways_in_the_picture_of_a_turned_head_up_to_forty_degrees(generator):
    """Point 29 of the ridge: 0.091 dm before the skin, so sin(yaw) of that to the side, and from 40 degrees on no more."""
    from srrl_tasks.faces.synthetic.face import PIVOT
    from srrl_tasks.faces.synthetic.habits import HABITS
    from srrl_tasks.faces.synthetic.pose import Pose

    outwards, up, forward = HABITS["nose"][2]
    assert outwards == 0
    for yaw in (0.0, 15.0, -30.0, 40.0, 60.0):
        pose = Pose(yaw=yaw)
        points = bare_head(generator, pose)[3]
        skin = generator.landmarks.caster.cast(0.0, 7.110 + up)  # NOSE_MIDDLE[2], moved up
        head = (generator.landmarks.shape[skin[0]] * skin[1][:, None]).sum(0)
        moved = points[68][29] - (head - PIVOT) @ pose.matrix.T
        turned = np.radians(min(abs(yaw), 40.0))
        assert moved[0] == pytest.approx(np.sign(yaw) * np.sin(turned) * forward, abs=2e-3), yaw
        assert moved[1] == pytest.approx(0.0, abs=1e-6)


def test_the_contour_of_a_turned_head_by_hand():
    """A half circle of 17 points: each moves so many steps along it and so far out of it, the more the head is turned."""
    from srrl_tasks.faces.synthetic.habits import TURNED_ALONG, TURNED_OUT
    from srrl_tasks.faces.synthetic.landmarks import turn_contour

    angle = np.linspace(np.pi, 2 * np.pi, 17)  # from the picture's left over the chin to its right
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(17)], 1)
    assert turn_contour(circle, 0.0) == pytest.approx(circle)
    share = 0.5**1.5  # sin(30°) to the power
    step = 2 * np.sin(np.pi / 16) / 2  # half a chord over two sixteenths of the half circle
    for yaw, place in ((30.0, range(17)), (-30.0, range(16, -1, -1))):
        moved = turn_contour(circle, yaw)
        for k, i in list(enumerate(place))[1:-1]:  # at the ends a step is one-sided
            along = np.array([-np.sin(angle[i]), np.cos(angle[i]), 0.0]) * (1.0 if yaw > 0 else -1.0)
            expected = circle[i] + share * (TURNED_ALONG[k] * step * along + TURNED_OUT[k] * circle[i])
            assert moved[i] == pytest.approx(expected, abs=1e-9), (yaw, i)


def test_a_turned_head_has_its_jaw_further_out_on_the_near_side_and_starts_lower_on_the_far_one(generator):
    from srrl_tasks.faces.synthetic.pose import Pose

    turned = Pose(yaw=40.0)  # towards the picture's right: the far side is there
    _, _, camera, points = bare_head(generator, turned)
    few, many = (camera.project(points[n])[:, :2] for n in (68, 98))
    assert few[16, 1] > many[32, 1] and few[14, 1] > many[28, 1] + 2  # lower in the picture
    line = np.interp(few[4, 1], many[:17, 1], many[:17, 0])
    assert few[4, 0] < line - 1  # left of the 98's line at its height


def test_the_68_contour_lies_on_the_same_line_spaced_by_habit(generator):
    """Seen from the front: near the 98's line (its ear end goes on upwards), the points beside the chin further out."""
    shape = np.array(generator.landmarks.shape)
    from srrl_tasks.faces.synthetic.landmarks import Brow

    contour = generator.landmarks.contour_paths(shape)[:, 0]
    points = generator.landmarks.positions(shape, Brow(), contour)
    few, many = points[68][:17, :2], points[98][:33, :2]
    from_to = many[1:] - many[:-1]
    for i, place in enumerate(few):
        along = np.clip(((place - many[:-1]) * from_to).sum(1) / (from_to**2).sum(1), 0, 1)
        gap = np.linalg.norm(place - many[:-1] - along[:, None] * from_to, axis=1).min()
        assert gap < 0.045 or i in (0, 16), (i, gap)
    np.testing.assert_allclose(few, few[::-1] * [-1, 1], atol=2e-3)
    step = np.linalg.norm(np.diff(few, axis=0), axis=1)
    assert step[7] > 1.25 * step[5] and 0.03 < few[0, 1] - many[0, 1] < 0.12


@pytest.mark.parametrize("index", [54, 60, 85, 16])
def test_a_dot_on_a_landmark_appears_at_its_labelled_pixel(generator, index):
    from srrl_tasks.faces.synthetic import raster, surface
    from srrl_tasks.faces.synthetic.mesh import ellipsoid
    from srrl_tasks.faces.synthetic.pose import Pose

    scene, posed, camera, points = bare_head(generator, Pose(yaw=18.0, pitch=-5.0, roll=8.0))
    look = surface.Look()
    look.sky = look.ground = surface.wp.vec3(1.0, 1.0, 1.0)
    look.key_dir = surface.wp.vec3(0.0, 0.0, 1.0)
    look.liner_width, look.brow_outer, look.brow_thick = 1.0, 1.0, 0.001
    black = np.zeros((128, 128, 3), np.float32)
    ball, triangles = ellipsoid(np.full(3, 0.03))
    images = []
    for colour in (0.0, 1.0):
        scene.add(ball, triangles, surface.THING, np.full(3, colour))
        mesh = scene.mesh(np.concatenate([posed, ball + points[98][index] + [0.0, 0.0, 0.03]]))
        images.append(raster.render(mesh, camera, look, np.full((256, 256), 0.5, np.float32), black)[0])
        scene.count -= len(scene.parts.pop()["points"])
    weight = np.abs(images[1] - images[0]).sum(2).astype(np.float64)
    rows, columns = np.mgrid[:128, :128]
    found = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    expected = camera.project(points[98][index])[:2]
    assert np.abs(found - expected).max() < 0.25, (found, expected)


def ray_is_free(eye, target, corners, slack):
    """Möller-Trumbore in float64: nothing lies between the eye and the target but for the last `slack` dm."""
    way = target - eye
    length = np.linalg.norm(way)
    way = way / length
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(way, two)
    det = (one * p).sum(1)
    det = np.where(np.abs(det) < 1e-14, np.inf, det)
    t = eye - corners[:, 0]
    u = (t * p).sum(1) / det
    q = np.cross(t, one)
    v = (q @ way) / det
    at = (two * q).sum(1) / det
    return not ((u >= 0) & (v >= 0) & (u + v <= 1) & (at > 0) & (at < length - slack)).any()


def test_visibility_of_a_turned_head_matches_rays(generator):
    from srrl_tasks.faces.synthetic import labels, raster
    from srrl_tasks.faces.synthetic.pose import Pose

    scene, posed, camera, points = bare_head(generator, Pose(yaw=60.0, distance=20.0))
    screen = camera.project(posed)
    screen[:, :2] = (screen[:, :2] + 0.5) * 2 - 0.5
    depth, _ = raster.rasterise(screen, scene.mesh(posed), 256, generator.tile)
    seen = labels.visible_at(camera.project(points[98]), depth)
    corners = posed[generator.body[generator.material < 4]]
    eye = np.array([0.0, 0.0, camera.distance])
    inner = [*range(33, 60), 60, 64, 68, 72, *range(76, 88)]
    rays = np.array([ray_is_free(eye, points[98][k], corners, 0.08) for k in inner])
    assert seen[inner][rays].all(), "what a ray reaches is visible"
    assert (seen[inner] == rays).mean() > 0.8
    assert not seen[46] and not seen[72], "the far end of the brow and the far eye corner are hidden"
    assert seen[[33, 37, 60, 64, 54, 76]].all() and seen[:16].all(), "the near half is in view"


def test_the_same_key_gives_the_same_face_and_splits_differ(generator):
    one, two, other = (generator.make(key) for key in ((0, 0, 5), (0, 0, 5), (0, 1, 5)))
    assert (one.image == two.image).all() and (one.points[98] == two.points[98]).all()
    assert one.attributes == two.attributes
    assert (one.image != other.image).mean() > 0.5


def test_a_face_belongs_to_the_ancestry_and_age_that_it_is_drawn_with(generator, filled):
    """Told from the key alone, and the same as of the person whose head is built from it."""
    from srrl_tasks.faces.synthetic.identity import draw_person

    found = synthetic.records(TINY, "train", 68, cache_dir=filled, progress=False)
    seen = set()
    for number, record in enumerate(found):
        person = draw_person(np.random.default_rng([TINY.seed, 0, number, 0]), generator.assets.names)
        shares = dict(zip(("african", "asian", "caucasian"), person.ancestry, strict=True))
        age = {"child": person.child, "old": person.old}
        expected = (max(shares, key=shares.get), next((k for k, v in age.items() if v > 0.5), "adult"))
        assert record.subsets[-2:] == expected
        seen |= set(expected)
    assert len(seen) == 6  # of forty people


def test_records_read_the_cache(filled):
    import pickle

    for n in (68, 98):
        found = synthetic.records(TINY, "train", n, cache_dir=filled, progress=False)
        assert len(found) == 40 and len({record.name for record in found}) == 40
        record = pickle.loads(pickle.dumps(found[33]))
        assert record.pixels().shape == (64, 64, 3) and record.pixels().dtype == np.uint8
        assert record.points.shape == (n, 2) and record.visible.shape == (n,)
        assert list(record.attributes) == [
            "pose",
            "expression",
            "illumination",
            "make-up",
            "occlusion",
            "blur",
        ]
    with pytest.raises(UserError, match="68"):
        synthetic.records(TINY, "train", 29, cache_dir=filled)


def test_bytes_survive_a_kill_and_do_not_depend_on_processes(filled, tmp_path):
    wanted = shard_bytes(synthetic.folder_of(TINY, filled))
    code = (
        "from srrl.task import ensure_tasks_importable; ensure_tasks_importable();"
        "from srrl_tasks.faces import synthetic; from pathlib import Path;"
        f"synthetic.ensure(synthetic.SyntheticSettings(**{TINY.model_dump()!r}), 'train', cache_dir=Path({str(tmp_path)!r}), processes=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL
    )
    folder = synthetic.folder_of(TINY, tmp_path)
    end = time.monotonic() + 120
    while not list(folder.glob("*.faces")) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = shard_bytes(folder)
    assert kept and kept["train-00000.faces"] == wanted["train-00000.faces"]
    assert "train-00001.faces" not in kept
    synthetic.ensure(TINY, "train", cache_dir=tmp_path, progress=False, processes=1)
    assert shard_bytes(folder) == {name: data for name, data in wanted.items() if name.startswith("train")}


def test_programs_that_fill_one_cache_share_the_work(filled, tmp_path):
    """What another process is making is left to it, the rest is made meanwhile; when it is killed, that is made as well."""
    folder = synthetic.folder_of(TINY, tmp_path)
    folder.mkdir(parents=True)
    holder = python(HOLD, folder, store.number_of("train", 0), stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"True\n"
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(
            synthetic.ensure, TINY, "train", cache_dir=tmp_path, progress=False, processes=1
        )
        end = time.monotonic() + 120
        while not (folder / "train-00001.faces").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1.0)
        assert not (folder / "train-00000.faces").exists() and not filling.done()
        holder.kill()
        holder.wait()
        filling.result(120)
    wanted = shard_bytes(synthetic.folder_of(TINY, filled))
    assert shard_bytes(folder) == {name: data for name, data in wanted.items() if name.startswith("train")}


def test_a_clock_that_jumps_takes_nothing_from_a_program_that_lives(filled, tmp_path):
    """A second program finds what the first is just writing two days old; what a killed one had begun is swept."""
    cache, marker = tmp_path / "cache", tmp_path / "flushing"
    shutil.copytree(filled, cache)
    folder = synthetic.folder_of(TINY, cache)
    for split in ("val", "test"):
        (folder / f"{split}-00000.faces").unlink()
    task = {"folder": str(folder), "cache": str(cache), "size": TINY.size, "seed": TINY.seed}
    writer = python(SLOW_DISK, json.dumps({**task, "shards": [["val", 0]]}), marker, stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not marker.exists():
            assert writer.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        (part,) = folder.glob("*.part")
        content = part.read_bytes()
        left, young = (folder / f"test-00000.{n}-0123abcd.part" for n in (1, 2))
        for path in (left, young):
            path.write_bytes(b"half")
        before = time.time() - 2 * 86400
        for path in (part, left):
            os.utime(path, (before, before))
        synthetic.ensure(TINY, "test", cache_dir=cache, progress=False, processes=1)
        assert sorted(folder.glob("*.part")) == sorted([part, young]) and part.read_bytes() == content
        _, error = writer.communicate(b"\n", timeout=60)
        assert writer.returncode == 0, error
    finally:
        writer.kill()
    assert shard_bytes(folder) == shard_bytes(synthetic.folder_of(TINY, filled))


def test_a_process_of_the_same_number_in_another_container_keeps_its_file(monkeypatch, tmp_path):
    """What the own workers leave when they fail is known by their process ids, which others that share the cache may bear."""
    from srrl_tasks.faces.synthetic import generate

    folder = synthetic.folder_of(TINY, tmp_path)
    folder.mkdir(parents=True)
    monkeypatch.setattr(generate, "__file__", str(tmp_path / "generate.py"))
    (tmp_path / "worker.py").write_text(
        "import os, sys\nfor name in ('val', 'test'):\n"
        f"    open({str(folder)!r} + f'/{{name}}-00000.{{os.getpid()}}-0123abcd.part', 'w').close()\nsys.exit('no')"
    )
    holder = python(HOLD, folder, store.number_of("val", 0), stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"True\n"
        with pytest.raises(RunError, match=r"failed: no \(finished"):
            synthetic.ensure(TINY, "test", cache_dir=tmp_path, progress=False, processes=1)
        assert [path.name.partition(".")[0] for path in folder.glob("*.part")] == ["val-00000"]
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("what", ["a shard", "the head"])
def test_a_full_disk_is_named_and_what_is_missing_is_made_afterwards(filled, tmp_path, what):
    """The operating system refuses to write more than 4 kB a file: of a shard, or of the head that faces are made from."""
    from srrl_tasks.faces.synthetic import assets

    cache = tmp_path / "cache"
    shutil.copytree(filled, cache)
    folder, head = synthetic.folder_of(TINY, cache), cache / f"head-{assets.ASSET_VERSION}"
    wanted = shard_bytes(folder)
    unsaved = folder / "val-00000.faces"
    unsaved.unlink()
    if what == "the head":
        shutil.rmtree(head)
        unsaved = head
    generate = ["generate", *OPTIONS, "--cache-dir", cache, "--processes", "1"]
    status, error = command_line(*generate, largest_file=4096)
    assert status == 1 and len(error.splitlines()) == 1, error
    assert error.startswith(f"error: generating synthetic faces failed: could not save {unsaved}"), error
    assert "File too large" in error and error.endswith("(finished shards are kept)")
    assert not list(cache.rglob("*.part")) and not list(cache.rglob("*.tmp"))
    assert shard_bytes(folder) == {k: v for k, v in wanted.items() if k != "val-00000.faces"}
    assert what == "a shard" or not (head / "names.json").exists()  # by which the head is known to be whole
    status, error = command_line(*generate)
    assert (status, error) == (0, "")
    assert shard_bytes(folder) == wanted


def test_export_is_wflw(filled, tmp_path):
    import cv2

    out = synthetic.export_wflw(TINY, tmp_path / "wflw", cache_dir=filled, progress=False)
    records = {record.name: record for record in synthetic.records(TINY, "test", 98, cache_dir=filled)}
    text = out / "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
    lines = text.read_text().strip().split("\n")
    assert len(lines) == 2
    for line, record in zip(lines, records.values()):
        tokens = line.split(" ")
        assert len(tokens) == 207
        np.testing.assert_allclose(np.array(tokens[:196], float).reshape(98, 2), record.points, atol=1e-6)
        assert all(abs(int(a) - b) <= 0.5 for a, b in zip(tokens[196:200], record.rect))
        assert [int(bit) for bit in tokens[200:206]] == list(record.attributes.values())
        image = cv2.imread(str(out / "WFLW_images" / tokens[206]))
        assert image.shape == (64, 64, 3)
        assert (image[..., ::-1] == record.pixels()).all()
    with pytest.raises(UserError, match="not empty"):
        synthetic.export_wflw(TINY, out, cache_dir=filled)


def test_settings_and_damaged_shards_speak_plainly(filled, tmp_path):
    base = synthetic.SyntheticSettings()
    assert base.fingerprint() == synthetic.SyntheticSettings(n_train=7).fingerprint()
    assert (
        len(
            {
                base.fingerprint(),
                *(synthetic.SyntheticSettings(**c).fingerprint() for c in ({"seed": 1}, {"size": 160})),
            }
        )
        == 3
    )
    with pytest.raises(UserError, match="train, val, test"):
        base.count("dev")
    from srrl_tasks.faces.synthetic.store import read_shard

    whole = next(synthetic.folder_of(TINY, filled).glob("test-*.faces"))
    broken = tmp_path / "test-00000.faces"
    for size in (10, len(whole.read_bytes()) - 1):
        broken.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(UserError, match="delete it"):
            read_shard(broken)


def test_a_damaged_cache_is_named_and_made_again(filled, tmp_path, capsys):
    """One bit of a label, one of a picture and a cut end; then one bit of the head that faces are made from."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    folder = synthetic.folder_of(TINY, tmp_path)
    wanted = shard_bytes(folder)
    shard = folder / "test-00000.faces"
    whole = wanted[shard.name]
    for damaged in (flipped(whole, 200), flipped(whole, len(whole) - 3000), whole[:-1]):
        shard.write_bytes(damaged)
        assert len(synthetic.records(TINY, "test", 68, cache_dir=tmp_path, progress=False)) == 2
        assert (
            capsys.readouterr().err.strip()
            == f"{shard}: a damaged shard of synthetic faces: it is made again"
        )
        assert shard_bytes(folder) == wanted

    from srrl_tasks.faces.synthetic import assets

    head = tmp_path / f"head-{assets.ASSET_VERSION}"
    right = (head / "basis.npy").read_bytes()
    (head / "basis.npy").write_bytes(flipped(right, len(right) // 2))
    shard.unlink()
    synthetic.ensure(TINY, "test", cache_dir=tmp_path, progress=False)
    assert (head / "basis.npy").read_bytes() == right
    assert shard_bytes(folder) == wanted


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_export_that_was_stopped_is_done_anew(filled, tmp_path):
    whole = synthetic.export_wflw(TINY, tmp_path / "whole", cache_dir=filled, progress=False)
    files = files_of(whole)
    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    lists = stopped / "WFLW_annotations/list_98pt_rect_attr_train_test"
    (lists / "list_98pt_rect_attr_test.txt").unlink()
    (stopped / "WFLW_images/synthetic--test/000009.jpg").write_bytes(b"of a larger set")
    assert synthetic.is_export(stopped)
    synthetic.export_wflw(TINY, stopped, cache_dir=filled, progress=False)
    assert files_of(stopped) == files


def test_an_export_that_the_disk_had_no_room_for_is_done_anew(filled, tmp_path):
    """No file of more than 1,000 bytes: not one picture has fewer."""
    whole = synthetic.export_wflw(TINY, tmp_path / "whole", cache_dir=filled, progress=False)
    out = tmp_path / "out"
    export = ["export", *OPTIONS, "--cache-dir", filled, out]
    status, error = command_line(*export, largest_file=1000)
    first = out / "WFLW_images/synthetic--train/000000.jpg"
    assert status == 1 and len(error.splitlines()) == 1, error
    assert error.startswith(f"error: could not save {first}: File too large"), error
    left = [p.relative_to(out).parts for p in out.rglob("*") if p.is_file()]
    assert (
        len(left) == 1 and len(left[0]) == 1
    )  # that they are no photographs; no list, no picture, nothing half
    assert command_line(*export) == (0, "")
    assert files_of(out) == files_of(whole)


def test_a_million_faces_are_more_than_an_argument_holds(monkeypatch, tmp_path):
    """The task goes to a worker through its standard input: Linux takes 128 kB in one argument."""
    from srrl_tasks.faces.synthetic import generate

    monkeypatch.setattr(generate, "__file__", str(tmp_path / "generate.py"))
    (tmp_path / "worker.py").write_text("import sys; print(sys.stdin.read())")
    shards = [["train", k] for k in range(31_250)]
    process, _ = generate._start({"shards": shards})
    said = process.stdout.read()
    assert process.wait() == 0 and len(said) > 131_072 and json.loads(said) == {"shards": shards}


def test_the_points_of_nose_and_lips_are_where_their_names_say(generator):
    """68 points on the mean head, seen from the front, against its own geometry (dm)."""
    from srrl_tasks.faces.synthetic.landmarks import Brow

    shape = np.array(generator.landmarks.shape)
    contour = generator.landmarks.contour_paths(shape)[:, 0]
    both = generator.landmarks.positions(shape, Brow(), contour)
    points = both[68]
    foremost = shape[np.unique(generator.skin)][:, 2].max()
    assert both[98][54, 2] > foremost - 0.01, "the tip of the nose is its foremost skin, to a millimetre"
    assert foremost < points[30, 2] < foremost + 0.05, "the 68's lies before it"
    assert points[33, 2] < foremost - 0.05 and points[33, 1] < points[30, 1] - 0.10, "33 lies under it"
    gaps = -np.diff(both[98][51:55, 1])
    assert gaps.max() < 1.6 * gaps.min(), "51 to 54 divide the ridge about evenly"
    width = points[54, 0] - points[48, 0]
    share = (points[48:60, 0] - points[48, 0]) / width
    assert share[[11, 10, 9, 8, 7]] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6], abs=0.02)
    assert (points[60:68, 0] > points[48, 0]).all() and (points[60:68, 0] < points[54, 0]).all()
    assert (points[61:64, 1] > points[67:64:-1, 1] - 1e-6).all(), "the upper rim is not below the lower one"
    brow, eye = points[17:22], points[36:42]
    assert (brow[:, 1] > eye[:, 1].max()).all() and (np.diff(brow[:, 0]) > 0).all()


def test_compacted_triangles_are_those_of_a_sorted_search(generator):
    from srrl_tasks.faces.synthetic.mesh import compact

    triangles = generator.body[generator.material == 2]
    used, local = compact(triangles, len(generator.template))
    expected, inverse = np.unique(triangles, return_inverse=True)
    assert (used == expected).all() and (local == inverse.reshape(-1, 3)).all()


def test_a_developed_grey_card_has_the_brightness_of_the_formula():
    """Shoulder, gamma, saturation and contrast one after another, in float64, for one colour."""
    from srrl_tasks.faces.synthetic import picture

    sensor = picture.Sensor(target=0.2, gamma=1.05, contrast=1.2, saturation=1.4, cast=np.array([1.1, 1.0, 0.9]),
                            grey=False, sigma=0.0, motion=0.0, motion_angle=0.0, shrink=1.0, noise=0.0, quality=90)  # fmt: skip
    card = np.array([0.30, 0.20, 0.10])
    linear = np.broadcast_to(card.astype(np.float32), (8, 8, 3)).copy()
    image = picture.develop(linear, np.ones((8, 8), bool), sensor, np.random.default_rng(0))
    light = card * (0.2 / card.mean()) * sensor.cast
    light = np.minimum(light / (1 + 0.35 * light) * 1.12, 1.0) ** (1 / (2.2 * 1.05))
    grey = light @ [0.299, 0.587, 0.114]
    expected = 0.45 + (grey + 1.4 * (light - grey) - 0.45) * 1.2
    assert np.abs(image.astype(float) - np.clip(expected, 0, 1) * 255).max() <= 1.0


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written.*data.cache_dir"):
        synthetic.ensure(TINY, cache_dir=tmp_path / "file", progress=False)


def test_a_cache_that_may_only_be_read_is_used_as_far_as_it_goes(filled):
    """By a user without root, in the process of the command: 2 and a line where something is missing, and it stays as it was."""
    import anny  # noqa: F401 - looked for by the command, whose user may be unable to enter the folder where it lies
    import warp  # noqa: F401
    from srrl_tasks.faces.synthetic.__main__ import main

    with readable_folder() as place:
        shutil.copytree(filled, place / "whole")
        shutil.copytree(filled, place / "part")
        (synthetic.folder_of(TINY, place / "part") / "val-00000.faces").unlink()
        (place / "empty").mkdir()
        (place / "file").touch()
        before = listing(close(place))
        try:
            for name, status in (("whole", 0), ("part", 2), ("empty", 2)):
                folder = synthetic.folder_of(TINY, place / name)
                options = ["generate", *OPTIONS, "--cache-dir", str(place / name)]
                found, out, error = as_nobody(lambda o=options: main(o), place)
                assert found == status, error
                refused = (
                    f"error: the cache folder {str(folder)!r} cannot be written (Permission denied): "
                    "set data.cache_dir or SRRL_CACHE to another\n"
                )
                assert (out, error) == ((f"{folder}\n", "") if status == 0 else ("", refused))
            options = ["export", *OPTIONS, "--cache-dir", str(place / "whole"), "empty/new"]
            found, _, error = as_nobody(lambda: main(options), place)
            assert found == 2 and error.startswith("error: Permission denied: empty/new"), error
            assert len(error.splitlines()) == 1 and listing(place) == before
        finally:
            reopen(place)


def test_an_exported_set_is_labelled_synthetic_and_a_folder_of_that_name_is_not(filled, tmp_path):
    from srrl_tasks.faces.synthetic import export_wflw, is_export

    out = export_wflw(TINY, tmp_path / "wflw", cache_dir=filled, progress=False)
    assert is_export(out) and is_export(out / "WFLW_images" / "synthetic--test")
    (tmp_path / "synthetic").mkdir()
    assert not is_export(tmp_path / "synthetic") and not is_export(tmp_path)
