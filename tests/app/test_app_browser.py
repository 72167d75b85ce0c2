"""The page in Chromium, from the first start on: a run is made in it, and every tab is used on that run.

In each test no request may leave this machine, and nothing may fail in the browser.
"""

import contextlib
import re
import shutil
import time

import cv2
import numpy as np
import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from served import ROOT, served

from srrl.shipped import names as shipped_names

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
EXAMPLES = ROOT / "app/examples"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
SLOW = 60_000  # milliseconds
JOB = 600_000  # that the quick job may take beside other tests
LEVEL_AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
OF_COLOUR = ["color-contrast", "link-in-text-block"]  # what a dark page may get wrong and a light one not
RATE = 20  # frames a second of the videos here


def frames(count):
    """A face that wanders over a grey background, BGR."""
    face = cv2.resize(cv2.imread(str(EXAMPLES / "face.jpg")), (400, 400))
    for i in range(count):
        frame = np.full((480, 640, 3), 120, np.uint8)
        x = int(110 + 60 * np.sin(i / 30 * 2 * np.pi))
        frame[40:440, x : x + 400] = face
        yield frame


def video(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (640, 480))
    for frame in frames(count):
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, whose camera sees :func:`frames`."""
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    camera.write_bytes(b"".join(cv2.imencode(".jpg", f)[1].tobytes() for f in frames(30)))
    with sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=CHROMIUM, args=[*ARGUMENTS, f"--use-file-for-fake-video-capture={camera}"]
        )
        yield opened
        opened.close()


@contextlib.contextmanager
def opened(browser, address, **context):
    """A page of the app; in the end no request may have gone elsewhere, and nothing have failed in the browser."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | context))
    page, elsewhere, errors = context.new_page(), [], []
    page.on(
        "request",
        lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    expect(page.locator("#go")).to_be_visible(timeout=SLOW)
    yield page
    context.close()
    assert not elsewhere and not errors


@pytest.fixture(scope="module")
def site(browser, runs, tmp_path_factory):
    """The app's address, process and runs: it began without any run, and one was trained from its page."""
    root = tmp_path_factory.mktemp("seite ü 1")
    with served("--runs", root) as (address, process):
        with opened(browser, address) as page:
            expect(page.locator("#nothing")).to_contain_text("There is no run of your own yet")
            expect(page.locator("#run input")).to_have_value("shipped:faces68")
            page.locator("#examples").get_by_text("three faces").click()
            expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)
            page.locator("#go").click()
            expect(page.locator("#status")).to_contain_text(
                "3 faces found. The student's points are", timeout=SLOW
            )
            page.locator("#first").click()
            state, spoken = page.locator("#job-state"), page.locator("#job-spoken")
            expect(state).to_contain_text("Training faces/001", timeout=SLOW)
            expect(spoken).to_have_attribute("aria-live", "polite")
            expect(page.locator("#job-start")).to_be_disabled()
            expect(state).to_contain_text("teacher, epoch 1 of 5 done", timeout=JOB)
            page.locator("#job-stop").click()
            expect(state).to_contain_text("Stopped faces/001", timeout=SLOW)
            page.locator("#job-resume").click()
            expect(state).to_contain_text("epoch", timeout=SLOW)
            page.get_by_role("tab", name="Runs").click()
            expect(page.locator("#run-state")).to_contain_text("This run is training", timeout=SLOW)
            page.get_by_role("tab", name="Train").click()
            expect(spoken).to_have_text("Training faces/001: the student.", timeout=JOB)
            expect(state).to_contain_text("Finished faces/001", timeout=JOB)
            expect(spoken).to_have_text(state.inner_text())
            expect(page.locator("#job-curves img")).to_be_visible()
            expect(page.locator("#run input")).to_have_value("faces/001")
            expect(page.locator("#nothing")).to_be_hidden()
        shutil.copytree(runs / "classification/001", root / "classification/001")
        yield address, process, root


@pytest.fixture
def page(browser, site):
    with opened(browser, site[0]) as page:
        expect(page.locator("#run input")).to_have_value(re.compile("/001"))
        choose(page, "faces/001")
        yield page


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def choose(page, run, where="#run"):
    page.locator(f"{where} input").click()
    page.locator(f"{where}").get_by_role("option", name=run).or_(
        page.get_by_role("option", name=run)
    ).first.click()


def upload(page, file):
    page.locator("#picture input[type=file]").set_input_files(file)
    expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)


@pytest.mark.timeout(1200)
def test_first_start_offers_a_run_and_makes_it(site):
    """The steps are the fixture's, which the others need as well; stopped half-way, no epoch was trained twice."""
    log = (site[2] / "faces/001/metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log[1:]] == [
        p for p in ("teacher", "baseline", "student") for _ in range(5)
    ]


def test_faces_are_compared(page):
    page.locator("#examples").get_by_text("three faces").click()
    expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)
    page.get_by_label("Also show the baseline").check()
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("3 faces found. The student's points are", timeout=SLOW)
    for name in ("teacher", "student", "baseline"):
        shown = page.get_by_alt_text(f"What the {name} says about the picture")
        expect(shown).to_be_visible(timeout=SLOW)
        assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1344, 448]
    places = ("#image-teacher", "#image-student", "#image-baseline", "#difference")
    assert len({page.locator(f"{p} img").get_attribute("src") for p in places}) == 4  # named by content
    expect(page.locator("#image-other")).to_be_hidden()
    ours = [i.get_attribute("src").split("/")[-2:] for i in page.locator("#slider img").all()]
    assert len(ours) == 2 and ours[0] != ours[1]
    page.wait_for_function(
        "() => [...document.querySelectorAll('#slider img')].every(image => image.naturalWidth == 1344)"
    )
    line = page.locator("#slider [role=slider]")
    before = line.bounding_box()["x"]
    line.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert line.bounding_box()["x"] > before + 10 and line.get_attribute("aria-valuenow") == "55"
    for words in ("largest distance, %", "student", "baseline"):
        expect(page.locator("#table")).to_contain_text(words)
    expect(page.locator("#cost")).to_contain_text("baseline", timeout=SLOW)
    expect(page.locator("#cost-note")).to_contain_text("1 thread")
    for words in ("one picture, ms (median)", "parameters, millions", "multiply-adds, millions", "file, MB"):
        expect(page.locator("#cost")).to_contain_text(words)
        plot = page.locator("#bars .block").filter(has_text=words)
        expect(plot.locator(".mark-rect path, .mark-bar path")).to_have_count(3, timeout=SLOW)
    choose(page, "shipped:faces68-small")  # other networks: their bars, and not those of before
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("This run has no teacher", timeout=SLOW)
    expect(page.locator("#image-teacher")).to_be_hidden()
    for words in ("one picture, ms (median)", "parameters, millions"):
        plot = page.locator("#bars .block").filter(has_text=words)
        expect(plot.locator(".mark-rect path, .mark-bar path")).to_have_count(1, timeout=SLOW)
    expect(page.locator("#cost-note")).to_contain_text("shipped:faces68-small", timeout=SLOW)


@pytest.mark.parametrize("way", ["upload", "paste", "camera"])
def test_ways_to_give_a_picture(page, way):
    """A file, the clipboard, the camera of the Compare tab: the same face comes out, and only a face that is there."""
    if way == "upload":
        upload(page, EXAMPLES / "face.jpg")
    elif way == "paste":
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.evaluate(
            """async bytes => {
                const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)], {type: "image/jpeg"}));
                const canvas = Object.assign(document.createElement("canvas"), {width: bitmap.width, height: bitmap.height});
                canvas.getContext("2d").drawImage(bitmap, 0, 0);
                const blob = await new Promise(done => canvas.toBlob(done, "image/png"));
                await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
            }""",
            list((EXAMPLES / "face.jpg").read_bytes()),
        )
        page.locator("#picture").get_by_label("Paste from clipboard").click()
    else:
        page.locator("#picture").get_by_label("Capture from camera").click()
        page.locator("#picture").get_by_text("Click to Access Webcam").click()
        page.locator("#picture").get_by_label("capture photo").click(timeout=SLOW)
    expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("1 face found", timeout=SLOW)
    expect(page.get_by_alt_text("What the student says about the picture")).to_be_visible(timeout=SLOW)


def test_a_rectangle_is_given_by_two_clicks_or_typed(page):
    upload(page, EXAMPLES / "group.jpg")  # 1344 × 448: the second of its faces alone is asked for
    expect(page.locator("#rectangle")).to_be_hidden()
    page.get_by_label("in a rectangle that I give").check()
    typed = page.locator("#rectangle input, #rectangle textarea")
    expect(typed).to_be_visible(timeout=SLOW)
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("Give the rectangle as four numbers", timeout=SLOW)
    shown = page.locator("#picture img")
    box = shown.bounding_box()
    scale = min(box["width"] / 1344, box["height"] / 448)
    left, top = (box["x"] + (box["width"] - 1344 * scale) / 2, box["y"] + (box["height"] - 448 * scale) / 2)
    for x, y in ((780, 350), (530, 130)):  # from the lower right corner to the upper left one
        page.mouse.click(left + x * scale, top + y * scale)
        page.wait_for_timeout(700)
    found = [float(v) for v in typed.input_value().split(",")]
    assert found == pytest.approx([530, 130, 780, 350], abs=4)
    page.locator("#go").click()
    status = page.locator("#status")
    expect(status).to_contain_text("1 face found", timeout=SLOW)
    first = re.search(r"are [\d.]+ %", status.inner_text())[0]
    typed.fill("900, 10, 2000, 400")  # another face, and so another distance
    page.locator("#go").click()
    expect(status).not_to_contain_text(first, timeout=SLOW)
    expect(status).to_contain_text("1 face found")
    page.locator("#examples").get_by_text("a face").click()  # another picture: the rectangle was not of it
    expect(typed).to_have_value("", timeout=SLOW)
    typed.fill("9, 9, 9, 9")
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("has no area", timeout=SLOW)


def test_two_runs_are_compared(page):
    page.locator("#examples").get_by_text("glasses").click()
    expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)
    choose(page, "faces/001", "#other")
    page.locator("#go").click()
    expect(page.get_by_alt_text("What the other student says about the picture")).to_be_visible(timeout=SLOW)
    expect(page.locator("#cost")).to_contain_text("other student", timeout=SLOW)
    choose(page, "classification/001", "#other")
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("another kind of task", timeout=SLOW)
    # what was answered before is no answer to this
    expect(page.locator("#image-teacher img")).to_have_count(0)
    expect(page.locator("#cost")).to_be_hidden()


def test_a_classifier_shows_its_likeliest_classes_and_asks_for_no_face(page):
    choose(page, "classification/001")
    expect(page.locator("#box")).to_be_hidden(timeout=SLOW)
    page.locator("#examples").get_by_text("a digit").click()
    expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("Teacher and student", timeout=SLOW)
    for name in ("teacher", "student"):
        expect(page.locator(f"#label-{name}")).to_contain_text("%")
    expect(page.locator("#difference")).to_be_hidden()


def test_what_is_wrong_is_said_where_one_looks(page, tmp_path):
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("No picture yet", timeout=SLOW)
    (tmp_path / "text.png").write_text("just text")
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "text.png")
    page.wait_for_timeout(1500)
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("not a picture that can be opened here", timeout=SLOW)


def test_camera(page):
    page.get_by_role("tab", name="Live").click()
    page.get_by_label("Steady the points").check()
    page.locator("#camera").get_by_text("Click to Access Webcam").click()
    page.locator("#camera").get_by_text("Record").click(timeout=SLOW)
    rates = page.locator("#rates")
    for name in ("Student", "Teacher"):
        expect(rates).to_contain_text(
            re.compile(
                rf"{name}: (0\.[1-9]|[1-9][\d.]*) frames a second, \d+ ms each, jitter: hold still to measure"
            ),
            timeout=SLOW,
        )
        expect(page.locator(f"#live-{name.lower()} img")).to_be_visible(timeout=SLOW)
        page.wait_for_function(  # each frame is a new file, which may be on its way
            f"() => document.querySelector('#live-{name.lower()} img')?.naturalWidth == 640", timeout=SLOW
        )
    choose(page, "shipped:faces68-small")  # comes without a teacher
    expect(page.locator("#live-teacher")).to_be_hidden(timeout=SLOW)
    expect(rates).not_to_contain_text("Teacher", timeout=SLOW)
    expect(page.locator("#live-student img")).to_be_visible()
    page.locator("#camera").get_by_text("Stop").click()
    expect(rates).to_have_text("The camera is off.", timeout=SLOW)


def test_video(page, tmp_path):
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("tab", name="Video file").click()
    page.locator("#annotate").click()
    expect(page.locator("#video-status")).to_contain_text("No video yet", timeout=SLOW)
    page.locator("#video input[type=file]").set_input_files(video(tmp_path / "face.mp4", 24))
    expect(page.locator("#video video")).to_be_attached(timeout=SLOW)
    page.locator("#annotate").click()
    expect(page.locator("#video-status")).to_contain_text("24 frames done", timeout=SLOW)
    expect(page.locator("#video-status")).to_contain_text("Student (right): ")
    played = page.locator("#annotated video")
    expect(played).to_be_visible(timeout=SLOW)
    page.wait_for_function(  # the browser can decode it
        "() => document.querySelector('#annotated video').videoWidth > 0", timeout=SLOW
    )
    seen = played.evaluate("v => [v.videoWidth, v.videoHeight, Math.round(v.duration * 10)]")
    assert seen == [1280, 480, round(10 * 24 / RATE)]


def test_a_video_can_be_stopped_and_left(page, browser, site, tmp_path):
    address, process, _ = site
    long = video(tmp_path / "long.mp4", 1200)  # more than can be done in the time that is waited
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("tab", name="Video file").click()
    page.locator("#video input[type=file]").set_input_files(long)
    expect(page.locator("#video video")).to_be_attached(timeout=SLOW)
    status = page.locator("#video-status")
    page.locator("#annotate").click()
    expect(status).to_contain_text("of 1200 frames", timeout=SLOW)
    with opened(browser, address) as other:  # waits, and gives up
        choose(other, "faces/001")
        other.get_by_role("tab", name="Benchmark").click()
        other.locator("#bench-go").click()
        expect(other.locator("#bench-status")).to_contain_text("Waiting for its turn", timeout=SLOW)
        other.locator("#bench-stop").click()
        page.get_by_role("button", name="Stop, and show what is done").click()
        expect(other.locator("#bench-status")).to_have_text("Stopped.", timeout=SLOW)
    expect(status).to_contain_text(re.compile(r"Stopped after \d+ of 1200 frames\."), timeout=SLOW)
    page.locator("#annotate").click()
    expect(status).to_contain_text(re.compile(r"[1-9]\d* of 1200 frames"), timeout=SLOW)
    page.context.close()  # the client leaves
    with opened(browser, address) as other:  # the next one is answered, so the work has ended
        choose(other, "faces/001")
        other.locator("#examples").get_by_text("glasses").click()
        expect(other.locator("#picture img")).to_be_visible(timeout=SLOW)
        other.locator("#go").click()
        expect(other.locator("#status")).to_contain_text("1 face found", timeout=30_000)
    time.sleep(2)
    kept = [f.path for f in psutil.Process(process.pid).open_files() if "srrl-video" in f.path]
    assert not kept


def test_benchmark(page):
    page.get_by_role("tab", name="Benchmark").click()
    expect(page.locator("#bench-runs .token")).to_have_text(["faces/001"])  # the run that was chosen above
    page.locator("#bench-every").click()
    expect(page.locator("#bench-runs .token")).to_have_count(2 + len(shipped_names()))
    choose(page, "classification/001")
    choose(page, "faces/001")
    page.wait_for_timeout(1000)
    expect(page.locator("#bench-runs .token")).to_have_count(2 + len(shipped_names()))  # several stay
    for _ in range(
        len(shipped_names()) + 1
    ):  # the last of the list, and the classifier: each file takes seconds
        page.locator("#bench-runs input").press("Backspace")
    page.locator("#bench-runs input").press("Tab")  # its list closes
    expect(page.locator("#bench-runs .token")).to_have_text(["faces/001"])
    page.locator("#bench-forms").get_by_text("ONNX Runtime").click()
    page.locator("#bench-forms").get_by_text("packed").click()
    page.locator("#bench-go").click()
    status = page.locator("#bench-status")
    expect(status).to_contain_text(re.compile(r"Making .* ready as .*: \d of \d+"), timeout=SLOW)
    page.locator("#bench-stop").click()
    expect(status).to_have_text("Stopped.", timeout=SLOW)  # before anything is measured
    page.locator("#bench-go").click()
    expect(status).to_contain_text("rounds, 1 thread", timeout=3 * SLOW)  # the ONNX files are written first
    expect(status).to_contain_text("Left out: no packed form")
    for words in ("faces/001", "teacher", "student", "ONNX", "landmark error (NME), %"):
        expect(page.locator("#bench-table")).to_contain_text(words)
    expect(page.locator("#bench-plot img")).to_be_visible(timeout=SLOW)


def test_runs_tab_shows_curves_pictures_report_and_settings(page):
    page.get_by_role("tab", name="Runs").click()
    expect(page.locator("#run-state")).to_contain_text("This run is finished", timeout=SLOW)
    expect(page.locator("#report")).to_contain_text("faces: srrl on synthetic")
    expect(page.locator("#curves img")).to_be_visible()
    assert page.locator("#plots img").count() >= 2
    page.wait_for_function("() => document.querySelector('#plots img').naturalWidth > 0")
    picture, place = page.locator("#plots img").first, page.locator("#plots .thumbnail-item").first
    height, width = picture.evaluate("image => [image.naturalHeight, image.naturalWidth]")
    box, around = picture.bounding_box(), place.bounding_box()
    assert around["height"] < height / width * around["width"] + 100  # as high as the picture and its words
    assert box["y"] > page.locator("#plots label").bounding_box()["y"] + 20  # below the heading
    assert page.locator("#report a[href^=mailto]").count() == 0
    page.get_by_role("button", name="Settings").click()
    expect(page.locator("#settings")).to_contain_text("alpha")
    choose(page, "classification/001")
    expect(page.locator("#run-state")).to_contain_text("was stopped before its end", timeout=SLOW)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_and_hear_it(browser, site, scheme):
    """axe-core finds nothing against WCAG 2.1 AA in any tab: contrast, names of what can be used, roles; messages are spoken as they come."""
    with opened(browser, site[0], color_scheme=scheme) as page:
        choose(page, "faces/001")
        page.locator("#examples").get_by_text("glasses").click()
        expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)
        page.locator("#go").click()
        expect(page.locator("#cost")).to_contain_text("student", timeout=SLOW)
        expect(page.locator("#status")).to_have_attribute("aria-live", "polite")
        for tab in ("Compare", "Live", "Video file", "Benchmark", "Runs", "Train"):
            page.get_by_role("tab", name=tab, exact=True).click()
            page.wait_for_timeout(1000)  # colours fade in
            rules = LEVEL_AA if scheme == "light" else OF_COLOUR
            found = Axe().run(page, options={"runOnly": rules}).response["violations"]
            assert not found, [(tab, v["help"], [n["html"] for n in v["nodes"]]) for v in found]


def test_phone(browser, site):
    with opened(browser, site[0], viewport={"width": 380, "height": 800}) as page:
        for tab in ("Live", "Benchmark", "Runs", "Train", "Compare"):
            if not page.get_by_role("tab", name=tab, exact=True).is_visible():
                page.get_by_label("More tabs").first.click()
            page.get_by_role("tab", name=tab).or_(
                page.get_by_role("button", name=tab, exact=True)
            ).first.click()
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= 380, tab
        page.locator("#run input").focus()
        for _ in range(24):  # the button can be reached with the keyboard alone
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "go":
                break
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_contain_text("No picture yet", timeout=SLOW)
        choose(page, "faces/001")
        page.locator("#examples").get_by_text("three faces").click()  # much wider than the phone
        expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)
        page.locator("#go").click()
        expect(page.locator("#status")).to_contain_text("3 faces found", timeout=SLOW)
        expect(page.locator("#cost")).to_contain_text("student", timeout=SLOW)
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
