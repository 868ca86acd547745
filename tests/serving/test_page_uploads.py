"""Files on their way into a conversation: how many, how large, how long, and whose they are."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.serving.made_page import LOGIN, Reader, made_page, noise_png, serving_page
from xraygpt.serving import page_uploads


@pytest.fixture
def address() -> Iterator[str]:
    with serving_page() as address:
        yield address


def test_a_file_becomes_a_conversation_without_touching_the_disk(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reader = Reader(address)
    number = reader.upload(noise_png(), "folder%2FJane%20Doe%0A.png").json()["upload"]
    reader.event(reader.number_of("upload", "xg-viewer"), details={"upload": number}, queue=True)
    told = str(reader.listen())
    assert "data:image/png;base64," in told
    assert "1 · Jane Doe.png" in told
    assert list(tmp_path.rglob("*")) == []
    assert "Jane" not in caplog.text


def test_what_is_no_image_is_refused_without_its_name(address: str) -> None:
    answer = Reader(address).upload(b"a letter", "Jane Doe.txt")
    assert (answer.status_code, list(answer.json())) == (200, ["error"])
    assert "not a PNG, JPEG or DICOM" in answer.json()["error"]
    assert "Jane" not in answer.text


def test_limits_of_size(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(address)
    monkeypatch.setattr(page_uploads, "MAX_PIXELS", 100)
    assert "at most 100" in reader.upload(noise_png()).json()["error"]
    assert "more than 67108864 bytes" in reader.upload(bytes(64 * 2**20 + 1)).json()["error"]["message"]


def test_limits_of_number(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_uploads, "MAX_UPLOADS", 1)
    first, second = Reader(address), Reader(address)
    numbers = [first.upload(noise_png()).json()["upload"] for _ in range(3)]  # each in the place of the one before
    assert second.upload(noise_png()).status_code == 503
    assert "not here any more" in str(first.claim(numbers[0]))
    assert "data:image" in str(first.claim(numbers[2]))


def test_a_login_does_not_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_uploads, "MAX_UPLOADS_OF_LOGIN", 2)
    with serving_page(login=LOGIN) as address:
        browsers = [Reader(address, "anna") for _ in range(3)]
        assert [reader.upload(noise_png()).status_code for reader in browsers] == [200, 200, 429]
        assert Reader(address, "bela").upload(noise_png()).status_code == 200


def test_what_nobody_claims_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_uploads, "CLAIM_SECONDS", 0.2)
    page = made_page()
    with serving_page(page) as address:
        reader = Reader(address)
        number = reader.upload(noise_png()).json()["upload"]
        time.sleep(0.5)
        assert page.uploads._waiting == {}
        assert "not here any more" in str(reader.claim(number))


def test_an_upload_counts_from_its_first_byte(address: str) -> None:
    reader, release = Reader(address), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"x"
        release.wait(5)

    sending = [threading.Thread(target=lambda: reader.post("/upload", content=slowly())) for _ in range(2)]
    for thread in sending:
        thread.start()
    time.sleep(0.5)
    assert reader.upload(b"y").status_code == 429
    release.set()
    for thread in sending:
        thread.join()


def test_limits_of_time(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(address)
    release = threading.Event()
    monkeypatch.setattr(page_uploads, "OPEN_SECONDS", 0.2)
    monkeypatch.setattr(page_uploads, "open_image", lambda *_, **__: release.wait(5))
    started = time.monotonic()
    answers: list[httpx.Response] = []
    opening = threading.Thread(target=lambda: answers.append(reader.upload(noise_png())))
    opening.start()
    assert Reader(address).page.status_code == 200  # nobody else waits meanwhile
    opening.join()
    assert answers[0].status_code == 503
    assert time.monotonic() - started < 4
    release.set()


def test_only_the_session_that_sent_an_image_gets_it_and_once(address: str) -> None:
    owner, other = Reader(address), Reader(address)
    number = owner.upload(noise_png()).json()["upload"]

    def claim(reader: Reader, details: Any) -> str:
        reader.event(reader.number_of("upload", "xg-viewer"), details=details, queue=True)
        return str(reader.listen())

    assert "data:image" not in claim(other, {"upload": number})
    assert "not here any more" in claim(owner, {"upload": number + 1})
    assert "data:image" in claim(owner, {"upload": number})
    assert "data:image" not in claim(owner, {"upload": number})


def test_nothing_of_a_session_stays_after_logout(monkeypatch: pytest.MonkeyPatch) -> None:
    page = made_page()
    opening, release = threading.Event(), threading.Event()
    with serving_page(page, login=LOGIN) as address:
        reader = Reader(address, "anna")
        reader.open()
        reader.upload(noise_png())

        def open_late(*_: Any, **__: Any) -> Image.Image:
            opening.set()
            release.wait(5)
            return Image.new("L", (100, 100))

        monkeypatch.setattr(page_uploads, "open_image", open_late)
        late: list[httpx.Response] = []
        sending = threading.Thread(target=lambda: late.append(reader.upload(noise_png())))
        sending.start()
        assert opening.wait(5)
        assert httpx.post(f"{address}/logout", cookies=dict(reader.cookies)).status_code == 303
        release.set()
        sending.join()
        assert late[0].status_code == 401
        assert page.uploads._waiting == {}
        assert len(page.workspaces) == 0
