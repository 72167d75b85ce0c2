"""How fast the app answers, by hand on an idle machine: ``python tests/app/measure.py RUN``; not one of the tests.

Prints the seconds from the click on Compare to the pictures of its networks, for a photograph of one megapixel with the networks loaded
(median and largest of ten), and the frames a second that they reach on Chromium's fake camera (640 × 480).
"""

import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import expect, sync_playwright
from srrl_app.shelf import Shelf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from served import ROOT, served

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --use-fake-device-for-media-stream --use-fake-ui-for-media-stream".split()
)
CLICKS, SECONDS = 10, 30


def scene(width, height):
    """A face over grey, BGR."""
    frame = np.full((height, width, 3), 120, np.uint8)
    side = min(width, height) - 20
    face = cv2.resize(cv2.imread(str(ROOT / "app/examples/face.jpg")), (side, side))
    frame[10 : 10 + side, (width - side) // 2 : (width - side) // 2 + side] = face
    return frame


def main(run):
    folder = Path(tempfile.mkdtemp())
    shelf = Shelf(folder, run)
    there = shelf.load(next(iter(shelf.folders()))).names
    networks = [name for name in ("teacher", "student") if name in there]
    cv2.imwrite(str(folder / "photo.jpg"), scene(1155, 866))
    frames = [cv2.imencode(".jpg", np.roll(scene(640, 480), i, 1))[1].tobytes() for i in range(-20, 20, 2)]
    (folder / "camera.mjpeg").write_bytes(b"".join(frames + frames[::-1]))
    with served("--runs", folder, "--run", run) as (address, _), sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=[*ARGUMENTS, f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(address)
        page.locator("#picture input[type=file]").set_input_files(folder / "photo.jpg")
        expect(page.locator("#picture img")).to_be_visible(timeout=30_000)
        times = []
        for _ in range(CLICKS + 1):  # in between another answer, so that the pictures change
            clicked(page, networks, "the whole picture is one face")
            times.append(clicked(page, networks, "find the faces"))
        times = times[1:]  # the first loaded the networks
        print(
            f"click to the pictures, 1 megapixel: median {statistics.median(times):.2f} s, largest {max(times):.2f} s"
        )
        page.get_by_role("tab", name="Live").click()
        page.locator("#camera").get_by_text("Click to Access Webcam").click()
        page.locator("#camera").get_by_text("Record").click()
        rates = {name.capitalize(): [] for name in networks}
        for _ in range(SECONDS):
            page.wait_for_timeout(1000)
            for name, rate in re.findall(r"(\w+): ([\d.]+) frames", page.locator("#rates").inner_text()):
                rates[name].append(float(rate))
        for name, values in rates.items():
            print(
                f"{name}: median {statistics.median(values[5:]):.1f} frames a second, lowest {min(values[5:]):.1f}"
            )
        browser.close()


def clicked(page, networks, where):
    """Seconds until the pictures of these networks are new and shown."""
    page.get_by_label(where).first.check()
    there = "names => names.map(n => document.querySelector(`#image-${n} img`)?.src)"
    before = page.evaluate(there, networks)
    start = time.perf_counter()
    page.locator("#go").click()
    page.wait_for_function(
        """([names, before]) => names.every((n, i) => {
            const image = document.querySelector(`#image-${n} img`);
            return image && image.complete && image.naturalWidth > 0 && (image.src !== before[i] || before[i] === undefined);
        })""",
        arg=[networks, before],
        polling=10,
        timeout=60_000,
    )
    took = time.perf_counter() - start
    page.wait_for_timeout(3000)  # the timings below the pictures are over
    return took


if __name__ == "__main__":
    main(sys.argv[1])
