"""The app as a process: its address, its endpoints, and what it answers to bad requests."""

import glob
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from served import ROOT, free_port, served
from srrl_app.health import address_of, healthy

from srrl.errors import UserError

WHOLE = "the whole picture is one face"


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
    ours = ["shipped:faces68", "shipped:faces68-small"]
    assert [r["run"] for r in found] == ["faces/001", "classification/001", *ours]
    assert found[0]["networks"]["teacher"]["nme"] == 4.5


def test_compare_gives_both_pictures_and_the_difference(client, picture):
    said, teacher, student, *_ = client.predict(
        handle_file(str(picture)), "faces/001", WHOLE, False, api_name="/compare"
    )
    assert said.startswith("**faces/001**: 1 face found. The student's points are ")
    for file in (teacher, student):
        with Image.open(file) as opened:
            assert opened.size == (100, 80)


def test_benchmark_times_what_is_asked_for(client):
    said, table, plot = client.predict(
        ["faces/001", "classification/001"], ["student", "baseline"], ["float32", "packed"], 4, 1, "64",
        api_name="/benchmark",
    )  # fmt: skip
    assert "rounds, 1 thread" in said and "no baseline: classification/001" in said
    assert [row[:3] for row in table["data"]] == [
        ["faces/001", "student", "float32"],
        ["faces/001", "baseline", "float32"],
        ["classification/001", "student", "float32"],
    ]
    assert table["data"][0][6] == 5.25 and Image.open(plot).size[0] > 400  # trained for 64 pixels
    assert table["data"][2][6] is None  # trained for 16
    said, *_ = client.predict(["../../etc"], ["student"], ["float32"], 1, 1, "64", api_name="/benchmark")
    assert said.startswith("There is no such run")


def test_bad_requests_are_answered_in_words_and_the_server_lives_on(client, picture):
    for run in ("../../etc", "/etc/passwd", "faces/002", "faces/../faces/001", None):
        said = client.predict(handle_file(str(picture)), run, WHOLE, False, api_name="/compare")[0]
        assert said == "There is no such run: choose one from the list."
    said = client.predict(
        handle_file(str(picture)), "classification/001", "find the faces", True, api_name="/compare"
    )[0]
    assert re.search("Teacher and student (dis)?agree: . .* This run has no baseline.", said)
    said = client.predict(
        handle_file(str(picture)), "faces/001", WHOLE, False, "classification/001", api_name="/compare"
    )[0]
    assert said.startswith("The second run is for another kind of task")


def strange(folder):
    """Files that people and others send, with what the page says to each."""
    found, seen, unreadable = {}, "**faces/001**: 1 face found", "This file is not a picture"

    def save(name, image, said=seen, **how):
        image.save(folder / name, **how)
        found[name] = said

    exif = Image.Exif()
    exif[0x0112] = 6
    save("turned.jpg", Image.new("RGB", (90, 60), "red"), exif=exif)
    save("grey.png", Image.new("L", (90, 60), 9))
    save("deep.png", Image.fromarray(np.full((60, 90), 4000, np.uint16)))
    save("clear.png", Image.new("RGBA", (90, 60), (0, 0, 0, 0)))
    save("print.jpg", Image.new("CMYK", (90, 60)))
    save("moving.gif", Image.new("P", (90, 60)), save_all=True, append_images=[Image.new("P", (90, 60), 3)])
    save("wide.png", Image.new("1", (9000, 5000)))
    save("bomb.png", Image.new("1", (13000, 13000)), "This picture has 13000 × 13000 pixels")
    for name, content in (
        ("text.png", b"just text"),
        ("empty.jpg", b""),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ):
        (folder / name).write_bytes(content)
        found[name] = unreadable
    (folder / "noise.jpg").write_bytes(np.random.default_rng(0).bytes(30_000_000))
    found["noise.jpg"] = unreadable
    return found


def memory(process):
    return process.memory_info().rss / 1e6


def test_strange_files_many_clients_and_memory(runs, picture, tmp_path):
    """Each gets an answer that a person understands, memory comes back to its level, the server lives on."""
    with served("--runs", runs) as (address, process):
        process = psutil.Process(process.pid)
        client = Client(address, verbose=False)
        ask = lambda c, file, where=WHOLE: c.predict(  # noqa: E731 - said often below
            handle_file(str(file)), "faces/001", where, False, api_name="/compare"
        )[0]
        ask(client, picture)
        for name, said in strange(tmp_path).items():
            assert ask(client, tmp_path / name).startswith(said), name
        with ThreadPoolExecutor(40) as pool:  # as many as there are clients
            clients = list(pool.map(lambda _: Client(address, verbose=False), range(40)))
            own = [tmp_path / f"{i}.png" for i in range(40)]
            for i, path in enumerate(own):
                noise = np.random.default_rng(i).integers(0, 255, (80, 100, 3), dtype=np.uint8)
                Image.fromarray(noise).save(path)
            first = list(pool.map(ask, clients, own))
            level = memory(process)
            again = list(pool.map(ask, clients[:8], own))
        assert all(said.startswith("**faces/001**: 1 face found") for said in first + again)
        ask(client, tmp_path / "wide.png")
        once = memory(process)
        assert once < level + 250  # that picture takes 135 MB, and twice that on the way
        for name in ("wide.png", "bomb.png", "noise.jpg") * 3:
            ask(client, tmp_path / name)
        assert memory(process) < once + 60
        assert ask(client, picture).startswith("**faces/001**: 1 face found")


def test_more_than_the_limit_is_refused(server, tmp_path):
    """70 MB in one request: 413, or the connection ends, and the next request is answered."""
    (tmp_path / "big.bin").write_bytes(bytes(70_000_000))
    with (tmp_path / "big.bin").open("rb") as handle:
        try:
            code = httpx.post(f"{server}/gradio_api/upload", files={"files": handle}, timeout=60).status_code
        except httpx.TransportError:
            code = 413
    assert code == 413 and status(server) == 200


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--auth", "name:password"]])
def test_who_may_train_and_who_may_come_in(runs, arguments):
    """Whoever has the password may use any name for this machine."""
    with served("--runs", runs, *arguments) as (address, _):
        assert healthy(
            ["srrl", "app", "--port", address.rpartition(":")[2]]
        )  # that it asks for a password is well
        if "--auth" in arguments:
            for host in (address.rpartition("/")[2], "demo.example"):
                assert httpx.get(f"{address}/config", headers={"Host": host}).status_code == 401
            with httpx.Client(base_url=address) as session:
                assert session.post("/login", data={"username": "name", "password": "no"}).status_code == 400
                session.post("/login", data={"username": "name", "password": "password"})
                config = session.get("/config").json()
        else:
            config = httpx.get(f"{address}/config").json()
        tabs = {c["props"].get("label") for c in config["components"] if c["type"] == "tabitem"}
        assert {"Compare", "Live", "Benchmark", "Runs"} <= tabs
        # anybody on the network could otherwise keep the machine busy
        assert ("Train" in tabs) == ("--auth" in arguments)


def join(address, name, data, session="s"):
    """What a function of the page answers that is called as the page does it, private ones included: their messages."""
    config = httpx.get(f"{address}/config").json()
    functions = [
        d for d in config["dependencies"] if name in json.dumps(d["targets"]) or d["api_name"] == name
    ]
    body = {
        "data": data,
        "fn_index": functions[0]["id"],
        "session_hash": session,
        "event_data": None,
        "trigger_id": None,
    }
    httpx.post(f"{address}/gradio_api/queue/join", json=body)
    said = []
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                said.append(json.loads(line[5:]))
                if said[-1]["msg"] in ("process_completed", "process_streaming", "close_stream"):
                    return said
    return said


@pytest.mark.parametrize("key", ["url", "path"])
@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {"meta": {"_type": "x"}}, {}])
def test_files_of_the_server_are_not_opened_as_pictures(server, picture, key, meta):
    """Neither as a camera's frame, whose function the page does not name, nor as an upload, whatever the payload says it is."""
    payload = {"path": None, "url": None, **meta} | {key: str(picture)}
    asked = (
        ("stream", [payload, "faces/001", False, WHOLE, None]),
        ("compare", [payload, "faces/001", WHOLE, False, None, ""]),
    )
    for i, (name, data) in enumerate(asked):
        last = join(server, name, data, f"thief{i}")[-1]  # one browser tab: two have a camera at a time
        answer = json.dumps(last)
        assert "face found" not in answer and "frames a second" not in answer
        assert last.get("success") is False or "No picture yet" in answer
    begun = httpx.post(f"{server}/gradio_api/call/compare", json={"data": asked[1][1]}).json()["event_id"]
    answer = httpx.get(f"{server}/gradio_api/call/compare/{begun}", timeout=60).text
    assert "face found" not in answer and ("error" in answer or "No picture yet" in answer)


def test_a_page_of_the_web_that_calls_itself_this_machine_is_refused(server):
    """Its name may point here, but it is the name that the browser sends."""
    get = lambda address, host: httpx.get(f"{address}/config", headers={"Host": host}).status_code  # noqa: E731
    port = server.rpartition(":")[2]
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert get(server, host) == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::1].evil.example"):
        assert get(server, host) == 403, host


def test_what_gradio_would_keep_for_ever_is_not_taken(server):
    """Bodies that no page of ours sends, and routes that it does not use."""
    frame = {"data": [{"url": "data:image/png;base64," + "A" * 9_000_000}, "faces/001", False, WHOLE, None]}
    assert httpx.post(f"{server}/gradio_api/queue/join", json=frame, timeout=60).status_code == 413
    pieces = (b"{}" for _ in range(2))  # without a length
    assert httpx.post(f"{server}/gradio_api/queue/join", content=pieces).status_code == 411
    for route in ("process_recording", "vibe-code/", "deep_link", "profiling/traces", "component_server"):
        assert httpx.post(f"{server}/gradio_api/{route}", files={"file": b"x"}).status_code == 404, route


def test_files_in_one_request_and_all_that_are_kept_are_limited(monkeypatch, tmp_path):
    from srrl_app import guard

    rule = guard.Guard(None, hosts=None, folder=tmp_path)
    ask = lambda length: rule.refused(  # noqa: E731
        {"type": "http", "path": "/gradio_api/upload", "headers": [(b"content-length", str(length).encode())]}
    )
    assert ask(64 * 2**20 + 300) is None and ask(65 * 2**20).status_code == 413
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/kept").write_bytes(bytes(3000))
    monkeypatch.setattr(guard, "KEPT", 5000)
    assert ask(2000) is None and ask(2001).status_code == 507


@pytest.mark.parametrize("address", ["http://1.1.1.1/face.png", "https://example.org/face.mp4"])
def test_addresses_are_not_fetched(server, address):
    """gradio downloads them by itself: a stranger would have the server ask anything of anybody."""
    payload = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
    for name, data, where in (
        ("compare", [payload, "faces/001", WHOLE, False, None, ""], 0),
        ("annotated", [payload, "faces/001", False, WHOLE], 1),
    ):
        last = join(server, name, data, f"{name}{address[4]}")[-1]
        assert last["success"] and last["output"]["data"][where].startswith("Addresses are not opened")
    for kind in ("/gradio_api/file=", "/file="):
        assert httpx.get(f"{server}{kind}{address}").status_code == 404


def test_our_rules_for_files_hold_after_an_example_was_chosen(server, tmp_path):
    """The page's component is made anew then; what opens files has to stay ours."""
    answer = join(server, "load_example", [2], "example")[-1]
    assert answer["success"] and "group.jpg" in json.dumps(answer["output"])
    for name, content, said in (
        ("text.png", b"just text", "This file is not a picture"),
        ("bomb.png", None, "This picture has 13000"),
    ):
        if content is None:
            Image.new("1", (13000, 13000)).save(tmp_path / name)
            content = (tmp_path / name).read_bytes()
        path = httpx.post(f"{server}/gradio_api/upload", files={"files": (name, content)}).json()[0]
        payload = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        answer = join(server, "compare", [payload, "faces/001", WHOLE, False, None, ""], "example")[-1]
        assert answer["success"] and answer["output"]["data"][0].startswith(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_listens_to_this_machine_alone_and_what_people_uploaded_goes_with_it(runs, picture, number):
    picture = picture.rename(picture.with_name(f"mine{number}.png"))
    with served("--runs", runs) as (address, process):
        listening = [c.laddr for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"]
        assert [(a.ip, a.port) for a in listening] == [("127.0.0.1", int(address.rpartition(":")[2]))]
        said, drawn, *_ = Client(address, verbose=False).predict(
            handle_file(str(picture)), "faces/001", WHOLE, False, api_name="/compare"
        )
        folders = [Path(f) for f in glob.glob(tempfile.gettempdir() + "/srrl-app-*")]
        mine = [f for f in folders if list(f.rglob(picture.name))]
        assert mine
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert not any(f.exists() for f in mine) and "Traceback" not in process.said()


def test_nothing_is_open_that_need_not_be(server, runs):
    assert status(server) == 200
    assert status(server + "/monitoring") in (403, 404)
    weights = runs / "faces/001/weights/student.safetensors"
    assert status(f"{server}/gradio_api/file={quote(str(weights))}") == 403
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


def test_nothing_leaves_this_machine_by_a_setting_of_gradio(runs, tmp_path, monkeypatch):
    """A public link, telemetry, a log of all that was asked, a server for other programs: what the page is begun with."""
    import gradio as gr
    from srrl_app import page
    from srrl_app.shelf import Shelf

    given = {}

    def launch(self, **settings):
        given.update(settings, analytics=self.analytics_enabled)
        raise ValueError("not begun")

    monkeypatch.setattr(gr.Blocks, "launch", launch)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that what it sets goes again
    with pytest.raises(UserError, match="choose another --port"):
        page.serve(Shelf(runs), host="127.0.0.1", port=1, auth=None, folder=tmp_path)
    for name in ("share", "analytics", "run_history", "enable_monitoring", "mcp_server", "pwa", "show_error"):
        assert given[name] is False, name
    assert given["allowed_paths"] == [] and given["server_name"] == "127.0.0.1"


def test_health_of_a_container(server, monkeypatch):
    """By the command line that the container began with."""
    port = server.rpartition(":")[2]
    assert healthy(["python", "/opt/srrl/bin/srrl", "app", "--port", port])
    assert healthy(["srrl", "app", f"--port={port}"])
    assert not healthy(["srrl", "app", "--port", str(free_port())])
    for other in (["srrl", "evaluate", "/runs/x"], ["srrl", "train", "--run-dir", "app"], ["sh", "app"]):
        assert address_of(other) is None and healthy(other)  # serves nothing
    assert address_of(["/sbin/docker-init", "--", "srrl", "app"]) == "http://127.0.0.1:7860/"
    assert address_of(["srrl", "app", "--run", "x"]) == "http://127.0.0.1:7860/"
    assert address_of(["srrl", "app", "--host", "::", "--port=1"]) == "http://[::1]:1/"
    monkeypatch.setenv("SRRL_HOST", "0.0.0.0")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody there
    assert healthy(["srrl", "app", "--port", port])


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
