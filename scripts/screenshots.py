"""The README's pictures of the app: ``python scripts/screenshots.py`` writes docs/app-compare.jpg and docs/app-phone.jpg.

The app is started on the landmarks that come with the package and opened in Chromium, at desk size and as a phone in dark mode; both
compare the example of three painted faces. Needs Chromium and the extras app and test.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from served import served  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60_000  # milliseconds
# what the browser is, from which part of the page on, and how many pixels wide the picture becomes
SHOTS = {
    "app-compare.jpg": ({"viewport": {"width": 1320, "height": 1400}}, "h1", 1000),
    "app-phone.jpg": ({"viewport": {"width": 380, "height": 1064}, "color_scheme": "dark"}, "#go", 380),
}


def shot(
    browser: Browser, address: str, file: Path, context: dict[str, object], top: str, width: int
) -> None:
    """The Compare tab, once everything in it is shown."""
    page = browser.new_context(**context).new_page()
    page.goto(address)
    page.locator("#examples").get_by_text("three faces").click()
    expect(page.locator("#picture img")).to_be_visible(timeout=PATIENCE)
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("3 faces found", timeout=PATIENCE)
    expect(page.locator("#cost")).to_contain_text("student", timeout=PATIENCE)
    page.mouse.move(0, 0)
    page.evaluate(
        "top => scrollTo(0, document.querySelector(top).getBoundingClientRect().y + scrollY - 16)", top
    )
    page.wait_for_timeout(1500)
    taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    size = (width, round(taken.height * width / taken.width))
    taken.resize(size, Image.Resampling.LANCZOS).save(file, quality=85, optimize=True, progressive=True)
    page.context.close()


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as empty,
        served("--runs", empty) as (address, _),
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, how in SHOTS.items():
            shot(browser, address, ROOT / "docs" / name, *how)
            print(ROOT / "docs" / name)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
