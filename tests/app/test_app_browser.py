"""The page in Chromium: what a person sees, that nothing is fetched from elsewhere, and that a phone can show it."""

import shutil

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, server):
    """The app's page; in the end no request may have gone elsewhere, and nothing have failed in the browser."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened, elsewhere, errors = context.new_page(), [], []
    opened.on(
        "request", lambda r: None if r.url.startswith((server, "data:", "blob:")) else elsewhere.append(r.url)
    )
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server)
    expect(opened.locator("#go")).to_be_visible(timeout=SLOW)
    yield opened
    context.close()
    assert not elsewhere and not errors


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def choose(page, run):
    page.locator("#run input").click()
    page.get_by_role("option", name=run).click()


def upload(page, file):
    page.locator("#picture input[type=file]").set_input_files(file)
    expect(page.locator("#picture img")).to_be_visible(timeout=SLOW)


def test_faces_are_compared(page, picture):
    upload(page, picture)
    page.get_by_label("the whole picture is one face").check()
    page.get_by_label("Also show the baseline").check()
    page.locator("#go").click()
    expect(page.locator("#status")).to_contain_text("1 face found. The student's points are", timeout=SLOW)
    for name in ("teacher", "student", "baseline"):
        shown = page.get_by_alt_text(f"What the {name} says about the picture")
        expect(shown).to_be_visible(timeout=SLOW)
        assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [100, 80]
    expect(page.locator("#difference img")).to_be_visible()
    expect(page.locator("#table")).to_contain_text("largest distance, %")
    expect(page.locator("#cost")).to_contain_text("baseline", timeout=SLOW)
    expect(page.locator("#cost")).to_contain_text("5.25")
    expect(page.locator("#cost-note")).to_contain_text("1 thread")


def test_a_classifier_shows_its_likeliest_classes_and_asks_for_no_face(page, picture):
    choose(page, "classification/001")
    expect(page.locator("#box")).to_be_hidden(timeout=SLOW)
    upload(page, picture)
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


def test_runs_tab_shows_report_and_state(page):
    page.get_by_role("tab", name="Runs").click()
    expect(page.locator("#run-state")).to_contain_text("This run is finished", timeout=SLOW)
    expect(page.locator("#report")).to_contain_text("A report")
    assert page.locator("#report a[href^=mailto]").count() == 0
    choose(page, "classification/001")
    expect(page.locator("#run-state")).to_contain_text("still training, or was stopped", timeout=SLOW)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser, server, scheme):
    context = browser.new_context(viewport={"width": 380, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server)
    expect(page.locator("#go")).to_be_visible(timeout=SLOW)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.locator("#run input").focus()
    for _ in range(12):  # the button can be reached with the keyboard alone
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "go":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("No picture yet", timeout=SLOW)
    context.close()
