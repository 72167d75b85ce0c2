"""The app as a process: its address, its endpoints, and what it answers to bad requests."""

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_named_endpoints_and_runs(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
        "/compare",
        "/benchmark",
        "/runs",
    }
    found = client.predict(api_name="/runs")
    assert [r["run"] for r in found] == ["faces/001", "classification/001"]
    assert found[0]["networks"]["teacher"]["nme"] == 4.5


def test_compare_gives_both_pictures_and_the_difference(client, picture):
    said, teacher, student, *_ = client.predict(
        handle_file(str(picture)), "faces/001", "the whole picture is one face", False, api_name="/compare"
    )
    assert said.startswith("1 face found. The student's points are ")
    for file in (teacher, student):
        with Image.open(file) as opened:
            assert opened.size == (100, 80)
    table = client.predict("faces/001", api_name="/benchmark")[0]
    assert [row[0] for row in table["data"]] == ["teacher", "student", "baseline"]


def test_bad_requests_are_answered_in_words_and_the_server_lives_on(client, picture, tmp_path):
    where = "find the faces"
    (tmp_path / "text.png").write_text("just text")
    said = client.predict(
        handle_file(str(tmp_path / "text.png")), "faces/001", where, False, api_name="/compare"
    )[0]
    assert said.startswith("This file is not a picture")
    for run in ("../../etc", "/etc/passwd", "faces/002"):
        with pytest.raises(Exception, match="not in the list of choices|upstream Gradio app"):
            client.predict(handle_file(str(picture)), run, where, False, api_name="/compare")
    said = client.predict(handle_file(str(picture)), "classification/001", where, True, api_name="/compare")[
        0
    ]
    assert re.search("Teacher and student (dis)?agree: . .* This run has no baseline.", said)


def test_nothing_is_open_that_need_not_be(server, runs):
    assert status(server) == 200
    assert status(server + "/monitoring") in (403, 404)
    weights = runs / "faces/001/weights/student.safetensors"
    assert status(f"{server}/gradio_api/file={weights}") == 403
    assert status(f"{server}/gradio_api/file=/etc/passwd") == 403
    with urllib.request.urlopen(server + "/config", timeout=20) as answer:
        config = json.load(answer)
    assert not config.get("enable_monitoring") and not config.get("is_space")
    port = int(server.rpartition(":")[2])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
        "127.0.0.1"
    }
    for address in others:  # bound to this machine alone
        with pytest.raises(OSError):
            socket.create_connection((address, port), timeout=2).close()


def test_bad_arguments_end_with_two():
    for arguments, message in (
        (["--auth", "name"], "expected USER:PASSWORD"),
        (["--port", "70000"], "expected 1 to 65535"),
        (["--run", "nowhere"], "does not exist"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
