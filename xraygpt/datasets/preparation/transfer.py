"""Downloading one large file over HTTP, in as many pieces as the connection makes necessary.

    <name>.part         the bytes that have arrived
    <name>.part.json    which file they are the beginning of: url, bytes, etag, last_modified

A broken transfer goes on where it ended, at once and in a later call. The server is asked for the rest only of the very file that was
begun (If-Range); if it has changed, or the server cannot send parts, the download begins anew.
"""

import http.client
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

import xraygpt
from xraygpt.common.errors import DataError
from xraygpt.common.files import private, write_json
from xraygpt.common.printable import printable_line
from xraygpt.datasets.preparation.disk_space import require_space, write_error

TIMEOUT = 60.0
"""Seconds to wait for a connection, and for the next bytes."""
WAITS = (1.0, 5.0, 20.0, 60.0)
"""Seconds before each new attempt. The count begins again whenever the download has got further."""

_BLOCK = 1 << 20
_NETWORK_ERRORS = (OSError, http.client.HTTPException)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as the server describes it."""

    url: str
    bytes: int
    etag: str = ""
    last_modified: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(getattr(self, field.name)) is not field.type:
                raise TypeError(f"{field.name} is {getattr(self, field.name)!r}")

    @property
    def validator(self) -> str:
        """What If-Range may name: a strong ETag, else the date; "" where the server states neither."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


def check_web_address(url: str) -> None:
    """Refuse what is no http or https address."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        usable = parts.scheme in ("http", "https") and host and parts.port != 0 and re.fullmatch("[!-~]+", url)
    except ValueError:  # no port number, or no host name
        usable = False
    if not usable:
        raise DataError(f"{url!r}: an address that begins with https:// or http:// was expected.")


def download_file(url: str, path: Path, *, timeout: float = TIMEOUT, waits: Sequence[float] = WAITS) -> RemoteFile:
    """Download `url` to `path`, going on from `<path>.part` where an earlier call left one.

    Raises:
        DataError: the address or the answer of the server cannot be used, the connection broke off more often than `waits` allows,
            or the disk is full. What has arrived is kept in the `.part`, as it is after Ctrl-C.
        OSError: the folder of `path` cannot be written.
    """
    check_web_address(url)
    part = _Part(path)
    furthest, delays = part.size, iter(waits)
    while True:
        try:
            remote = _attempt(url, part, timeout)
            break
        except _BrokenOffError as error:
            if part.size > furthest:
                furthest, delays = part.size, iter(waits)
            delay = next(delays, None)
            if delay is None:
                raise DataError(f"{url}: {error}. The same command goes on from byte {part.resumable:,}.") from error
            logger.warning("%s: %s; going on from byte %d in %g s", url, error, part.resumable, delay)
            time.sleep(delay)
    part.finish(path)
    return remote


class _BrokenOffError(Exception):
    """The network failed; another attempt may succeed."""


class _Part:
    """The unfinished download of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self._state = path.with_name(f"{path.name}.part.json")
        if self.path.is_symlink():
            raise DataError(f"{self.path} is a symbolic link, and a download does not write through one. Delete it.")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def remote(self) -> RemoteFile | None:
        """What this is a part of; None if that is not known."""
        if not self._state.exists():
            return None
        try:
            return RemoteFile(**json.loads(self._state.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            logger.warning("%s cannot be read (%s): the download begins anew", self._state, error)
            return None

    @property
    def resumable(self) -> int:
        """How many bytes need not be asked for again."""
        remote = self.remote
        return self.size if remote and remote.validator and self.size <= remote.bytes else 0

    def begin(self, remote: RemoteFile) -> None:
        """Forget what there is, and expect the bytes of `remote`."""
        self.path.unlink(missing_ok=True)
        write_json(self._state, asdict(remote))

    def finish(self, path: Path) -> None:
        os.replace(self.path, path)
        self._state.unlink()


# One attempt -----------------------------------------------------------------------------------------------------------


def _attempt(url: str, part: _Part, timeout: float) -> RemoteFile:
    """Bring the part to its full size, or raise."""
    begun, offset = part.remote, part.resumable
    if begun and offset == begun.bytes:
        return begun
    headers = {"User-Agent": f"xraygpt/{xraygpt.__version__}"}
    if begun and offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": begun.validator}
    with _open(Request(url, headers=headers), part, timeout) as response:
        if response.status == http.client.PARTIAL_CONTENT and begun and offset:
            remote = begun
            _check_rest(response, part, remote)
        elif response.status == http.client.OK:
            remote = _describe(url, response)
            part.begin(remote)
        else:
            raise DataError(_unexpected(response.url, response.status, response.reason))
        _append(response, part, remote)
    return remote


class _WebRedirects(HTTPRedirectHandler):
    """Follows redirects to http and https; urllib by itself would also go to ftp."""

    def redirect_request(  # the signature is urllib's
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        check_web_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: Request, part: _Part, timeout: float) -> http.client.HTTPResponse:
    try:
        return build_opener(_WebRedirects).open(request, timeout=timeout)
    except HTTPError as error:
        with error:
            hint = ""
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                hint = f" The file there is shorter than {part.path}: delete that, and the same command begins anew."
            raise DataError(_unexpected(error.url, error.code, error.reason) + hint) from error
    except _NETWORK_ERRORS as error:
        raise _BrokenOffError(f"no answer came ({getattr(error, 'reason', error)})") from error


def _unexpected(url: str, status: int, reason: str) -> str:
    return f"{url}: the server answered {status} ({reason}), where 200 or 206 was expected. Check the address, or try again later."


def _describe(url: str, response: http.client.HTTPResponse) -> RemoteFile:
    length = response.headers.get("Content-Length", "")
    if not re.fullmatch(r"[0-9]+", length):
        raise DataError(f"{url}: the server states no Content-Length, so a download could not be checked. Use another mirror.")
    etag, last_modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    return RemoteFile(url=url, bytes=int(length), etag=etag, last_modified=last_modified)


def _check_rest(response: http.client.HTTPResponse, part: _Part, remote: RemoteFile) -> None:
    """Check that a partial answer is the rest of the file that was begun; not every server heeds If-Range."""
    stated = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+)", stated)
    if match is None or int(match[1]) != part.size:
        raise DataError(f"{response.url}: bytes from {part.size} were asked for, and the server sent {stated!r}. Use another mirror.")
    known = {"ETag": remote.etag, "Last-Modified": remote.last_modified}
    if int(match[2]) != remote.bytes or any(response.headers.get(name, value) != value for name, value in known.items()):
        part.path.unlink()
        raise _BrokenOffError("the file on the server has changed")


def _append(response: http.client.HTTPResponse, part: _Part, remote: RemoteFile) -> None:
    offset = part.size
    needed = remote.bytes - offset
    require_space(part.path.parent, needed, f"to download {remote.url}")
    try:
        with (
            open(part.path, "ab", opener=private) as handle,
            tqdm(
                desc=printable_line(part.path.stem), total=remote.bytes, initial=offset, unit="B", unit_scale=True, disable=None
            ) as progress,
        ):
            for block in _receive(response, needed):
                handle.write(block)
                progress.update(len(block))
    except OSError as error:
        still = remote.bytes - part.size
        raise write_error(error, part.path.parent, still, f"{part.path.name} is kept; the same command goes on.") from error


def _receive(response: http.client.HTTPResponse, count: int) -> Iterator[bytes]:
    """Yield `count` bytes as they come."""
    while count:
        try:
            block = response.read1(min(count, _BLOCK))
        except _NETWORK_ERRORS as error:
            raise _BrokenOffError(f"the connection broke off ({error})") from error
        if not block:
            raise _BrokenOffError(f"the connection was closed {count:,} bytes before the end of the file")
        count -= len(block)
        yield block
