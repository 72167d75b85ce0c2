"""SHA256SUMS: the forms that sha256sum writes, files that differ from their line, and lines that are damaged."""

import hashlib
import os
import pickle
import shutil
import subprocess

import pytest

from srrl import sums as module
from srrl.errors import UserError
from srrl.sums import NAME, sums_in

FILES = {"a.jpg": b"one", "deep/b c.png": b"two", "deep/\\ü\n*.bmp": b"three"}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    return tmp_path / "set"


def digest(content):
    return hashlib.sha256(content).hexdigest()


def lines(folder, text):
    (folder / NAME).write_bytes(text.encode())
    return sums_in(folder)


def refused(*words):
    return pytest.raises(UserError, match=".*".join(words))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="the program sha256sum is not there")
@pytest.mark.parametrize("option", ["--text", "--binary"])
@pytest.mark.parametrize("where", [".", ".//", "././/", "FOLDER"])
def test_what_the_program_itself_writes_is_understood(folder, option, where):
    """Also blanks, line breaks and backslashes in names, and whole paths; the README's own command."""
    command = f"find -L {where} -type f ! -name SHA256SUMS -exec sha256sum {option} {{}} + > SHA256SUMS"
    command = command.replace("FOLDER", f"'{folder}'")
    subprocess.run(command, shell=True, cwd=folder, check=True)
    sums = sums_in(folder)
    for name, content in FILES.items():
        assert sums.read(folder / name) == content
        with refused("differs from its line in"):
            sums.check(folder / name, content + b"\0")


def test_the_forms_of_a_line_written_by_hand(folder):
    text = (
        f"# made on Monday\r\n{digest(b'one').upper()} *./a.jpg\r\n\r\n"
        f"{digest(b'two')}  deep/../deep/b c.png\n{digest(b'two')}  deep/b c.png\n\\{digest(b'three')}  deep/\\\\ü\\n*.bmp"
    )
    sums = lines(folder, text)
    assert [sums.read(folder / name) for name in FILES] == list(FILES.values())


def test_a_file_that_differs_that_has_no_line_or_that_lies_elsewhere(folder, monkeypatch):
    sums = lines(folder, f"{digest(b'one')}  a.jpg\n")
    with refused("b c.png has no line in .*SHA256SUMS: add one, or make that file anew"):
        sums.read(folder / "deep/b c.png")
    with refused("cannot be read", "No such file"):
        sums.read(folder / "lost.png")
    sums.check(folder.parent / "a.jpg", b"other")
    sums.check(folder.parent / "set2" / "a.jpg", b"other")
    monkeypatch.chdir(folder.parent)  # as paths on a command line are
    assert sums_in("set") == sums == pickle.loads(pickle.dumps(sums))
    with refused(
        "set/deep/../a.jpg differs from its line in .*SHA256SUMS: restore it, or make that file anew"
    ):
        sums_in("set").check(os.path.join("set", "deep", "..", "a.jpg"), b"onf")


def test_a_folder_without_one(folder):
    assert sums_in(folder) is None and sums_in(folder / "a.jpg") is None and sums_in(folder / "none") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{digest(b'one')[:-1]}  a.jpg\n", "line 1: expected 64 digits"),
        (f"{digest(b'one')}  a.jpg\n{digest(b'two')}\tx\n", "line 2: expected 64 digits"),
        (f"{digest(b'one')}  \n", "line 1: expected 64 digits"),
        (f"{digest(b'one')}  a.jpg\n{digest(b'two')}  ./a.jpg\n", "line 2: a.jpg stands there twice"),
    ],
    ids=["a digit too few", "no two blanks", "no name", "two checksums"],
)
def test_a_damaged_one_is_named_with_its_line(folder, text, said):
    with refused(f"{NAME} {said}") as error:
        lines(folder, text)
    assert "\n" not in str(error.value)


def test_it_is_parsed_once_and_again_when_it_was_made_anew(folder, monkeypatch):
    parsed = []
    whole = module._relative
    monkeypatch.setattr(module, "_relative", lambda *a: parsed.append(a) or whole(*a))
    sums = lines(folder, f"{digest(b'other')}  a.jpg\n")
    for _ in range(3):
        with refused("a.jpg differs"):
            sums_in(folder).read(folder / "a.jpg")
    assert len(parsed) == 1
    (folder / NAME).write_text(f"{digest(b'one')}  a.jpg\n")
    os.utime(folder / NAME, ns=(1, 1))
    anew = sums_in(folder)
    assert anew != sums and anew.read(folder / "a.jpg") == b"one"
