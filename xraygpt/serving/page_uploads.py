"""Images on their way from a browser into a conversation.

The browser sends the bytes of a file to one route and gets a number, by which the page's next event claims the image. The file itself
is never written to disk, and no client can name a path: gradio's own upload field, which does both, is not used. How large a file may
be, and how slowly it may come, is checked before (`http_limits`).
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import unquote

from anyio import CapacityLimiter, to_thread
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse

from xraygpt.common.errors import DataError
from xraygpt.processors import open_image
from xraygpt.serving.body_memory import BodyMemory
from xraygpt.serving.http_limits import MAX_UPLOAD_BYTES
from xraygpt.serving.page_sessions import Session

MAX_PIXELS = 40_000_000
"""Of an image. The largest radiographs have about 20 million."""

MAX_UPLOADS = 8
"""Being opened or waiting to be claimed at a time, of all sessions together."""

MAX_UPLOADS_OF_SESSION, MAX_UPLOADS_OF_LOGIN = 2, 4
"""Being received or opened at a time; of a login also those that wait to be claimed."""

OPEN_SECONDS = 60.0
"""For an image to be decoded; the largest take about 5."""

CLAIM_SECONDS = 60.0
"""After which an upload that no event has claimed is dropped; the page claims it at once."""

_MAX_NAME = 120


class UploadError(Exception):
    """An upload that is refused.

    Args:
        status: of the HTTP response.
        message: for the reader.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, eq=False)
class _Upload:
    session: Session
    image: Image.Image
    name: str


class Uploads:
    """The images that are received, and those that wait to be claimed. Called in the event loop, but for `claim`."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Upload] = {}
        self._numbers = itertools.count(1)
        self._num_opening = 0
        self._of_login: Counter[str] = Counter()
        self._memory = BodyMemory(num_bodies=MAX_UPLOADS, max_body_bytes=MAX_UPLOAD_BYTES)
        self._decoding = CapacityLimiter(2)

    async def receive(self, request: Request, session: Session) -> JSONResponse:
        """Answer a browser that sends the file as the body, and its name, percent-encoded, in `X-File-Name`.

        Returns:
            `{"upload": number}`, or `{"error": message}`, with a status of 4xx or 503 if a limit was reached.
        """
        try:
            with self._receiving(session), self._counted(session.login):
                with self._memory.share() as share:
                    content = bytearray()
                    async for block in request.stream():
                        await share.grow(len(block))
                        content += block
                    with self._opening():
                        image = await self._open(content)
                number = self._keep(_Upload(session, image, _file_name(request)))
        except asyncio.TimeoutError:
            return _refusal(UploadError(503, "The file took too long to open. Try again, or a smaller one."))
        except UploadError as error:
            return _refusal(error)
        return JSONResponse({"upload": number})

    def claim(self, session: Session, number: int) -> tuple[Image.Image, str]:
        """An image that this session has uploaded, and its file's name. It can be claimed once.

        Raises:
            DataError: this session has no such upload.
        """
        upload = self._waiting.get(number)
        if upload is None or upload.session is not session:
            raise DataError("This upload is not here any more. Choose the file again.")
        self._waiting.pop(number, None)
        return upload.image, upload.name

    def forget(self, session: Session) -> None:
        """Drop what a session has not claimed."""
        for number in [number for number, upload in list(self._waiting.items()) if upload.session is session]:
            self._waiting.pop(number, None)

    @contextmanager
    def _receiving(self, session: Session) -> Iterator[None]:
        if session.num_uploads >= MAX_UPLOADS_OF_SESSION:
            raise UploadError(429, "Another file is still being opened. Wait until it is there, then choose this one again.")
        self.forget(session)  # an image that was not claimed is in the place of this one, or of none
        session.num_uploads += 1
        try:
            yield
        finally:
            session.num_uploads -= 1

    @contextmanager
    def _counted(self, login: str) -> Iterator[None]:
        waiting = sum(upload.session.login == login for upload in list(self._waiting.values()))
        if self._of_login[login] + waiting >= MAX_UPLOADS_OF_LOGIN:
            raise UploadError(429, "Other files are still being opened under this login. Try again in a minute.")
        self._of_login[login] += 1
        try:
            yield
        finally:
            self._of_login[login] -= 1
            self._of_login += Counter()  # drops what is at 0

    @contextmanager
    def _opening(self) -> Iterator[None]:
        if self._num_opening + len(self._waiting) >= MAX_UPLOADS:
            raise UploadError(503, "The server is busy with other files. Try again in a minute.")
        self._num_opening += 1
        try:
            yield
        finally:
            self._num_opening -= 1

    def _keep(self, upload: _Upload) -> int:
        """Keep an upload until it is claimed, for `CLAIM_SECONDS` at most; returns its number."""
        if upload.session.has_ended:  # meanwhile
            raise UploadError(401, "Not logged in. Reload the page.")
        number = next(self._numbers)
        self._waiting[number] = upload
        asyncio.get_running_loop().call_later(CLAIM_SECONDS, self._waiting.pop, number, None)
        return number

    async def _open(self, content: bytearray) -> Image.Image:
        stream = BytesIO(content)
        stream.name = "The file"  # what errors and the log call it: its own name may be that of a patient

        def decode() -> Image.Image:
            return open_image(stream, max_pixels=MAX_PIXELS)

        try:  # a thread cannot be ended; one that is late is left to the limits of `open_image`
            decoding = to_thread.run_sync(decode, limiter=self._decoding, abandon_on_cancel=True)
            return await asyncio.wait_for(decoding, OPEN_SECONDS)
        except DataError as error:  # an ordinary answer to the reader; browsers log other statuses as faults of the page
            raise UploadError(200, str(error)) from None


def _file_name(request: Request) -> str:
    """The file's own name, without folders and what cannot be printed."""
    name = unquote(request.headers.get("x-file-name", ""), errors="replace").replace("\\", "/").rpartition("/")[2]
    return "".join(filter(str.isprintable, name))[:_MAX_NAME].strip() or "image"


def _refusal(error: UploadError) -> JSONResponse:
    return JSONResponse({"error": error.message}, status_code=error.status)
