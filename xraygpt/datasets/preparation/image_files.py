"""Puts the images of a source into a prepared folder: verified, converted where need be, in parallel, resumable.

    PNG or JPEG, no --resize         a hard link to the source, or a copy where links are not possible; every file is decoded once
    larger than --resize             decoded (JPEG at a reduced scale), made smaller, written anew in grey or colour as it was
    DICOM                            always written anew: 8-bit display values without any tag

Each finished image is a line of `images.jsonl` in the unfinished folder. A preparation that was interrupted reads it and does the rest.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from xraygpt.common.errors import DataError
from xraygpt.common.files import make_folder, private
from xraygpt.common.printable import printable_line
from xraygpt.datasets.preparation.disk_space import require_space
from xraygpt.datasets.preparation.study import StudyImage
from xraygpt.processors.dicom_io import BURNED_IN_ANNOTATION, DicomOptions, is_dicom
from xraygpt.processors.image_io import open_image, read_content

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
FORMATS = ("jpeg", "png")
JPEG_QUALITY = 95
"""What MIMIC-CXR-JPG was written with."""
VERIFY_SIDE = 64
"""JPEGs that are only verified are decoded at the smallest scale: every byte is read, an eighth of the pixels made."""

_JOURNAL = "images.jsonl"
_WRITING = ".writing"
_JPEG_START = b"\xff\xd8"
_CHUNK = 8  # images a task: large enough that the queue costs nothing, small enough that little is lost by an interruption

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are written; part of what makes two preparations equal.

    Attributes:
        resize: the shorter side of larger images becomes this many pixels, the aspect ratio is kept; 0 keeps every size.
        format: "jpeg" or "png", of images that are written anew.
        window: which window of a DICOM file, by number from 0 or by explanation.
        force_modality: also take DICOM files that are no radiographs.
    """

    resize: int = 0
    format: str = "jpeg"
    window: int | str = 0
    force_modality: bool = False

    def __post_init__(self) -> None:
        if self.resize and not 32 <= self.resize <= 8192:
            raise DataError(f"--resize must be 32 to 8192 pixels, or 0 to keep every size; got {self.resize}.")
        if self.format not in FORMATS:
            raise DataError(f"The image format must be one of {', '.join(FORMATS)}, not {self.format!r}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedImage:
    """An image in the prepared folder.

    Attributes:
        image_id: its name without suffix.
        name: its file below `image/`.
        bytes: size of the source file.
        sha256: of the source file.
        prepared_bytes: size of the file in the prepared folder.
        prepared_sha256: of the file in the prepared folder.
        mtime_ns: time of the source file's last change.
        burned_in: the DICOM file says that text is burned into its pixels.
    """

    image_id: str
    name: str
    bytes: int
    sha256: str
    prepared_bytes: int
    prepared_sha256: str
    mtime_ns: int
    burned_in: bool = False


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that could not be placed, and why."""

    image_id: str
    message: str


Result = PlacedImage | Unreadable


def place_images(
    images: Sequence[StudyImage], folder: Path, options: ImageOptions, *, workers: int, stop_at_error: bool = False
) -> dict[str, Result]:
    """Place every image, but those that an earlier, interrupted call has placed already.

    Args:
        images: with distinct image_ids, whose files exist.
        folder: the unfinished prepared folder; images go below `folder/image`.
        options: how to write them.
        workers: processes; they do not change the result.
        stop_at_error: raise at the first image that cannot be read.

    Returns:
        image_id → what became of it.

    Raises:
        DataError: the disk is full or cannot be written, a worker process died, or an image cannot be read and `stop_at_error` is on.
    """
    make_folder(folder / "image")
    results: dict[str, Result] = dict(_read_journal(folder, images))
    if results:
        logger.info("%d of %d images are there from an interrupted preparation.", len(results), len(images))
    todo = [image for image in images if image.image_id not in results]
    copies = _require_space(todo, folder, options)
    place = partial(_place_chunk, folder=folder, options=options, link=not copies)
    progress = tqdm(total=len(images), initial=len(results), desc="images", unit="image", disable=None)
    with progress, open(folder / _JOURNAL, "a", encoding="utf-8", opener=private) as journal:
        for result in _in_processes(place, todo, workers=workers):
            if isinstance(result, PlacedImage):
                journal.write(json.dumps(asdict(result)) + "\n")
                journal.flush()
            elif stop_at_error:
                raise DataError(f"{printable_line(result.message)} (Leave such images out, and have them listed, with --on-error skip.)")
            results[result.image_id] = result
            progress.update()
    return results


def walk_files(folder: Path) -> Iterator[Path]:
    """All files in a folder and below it, sorted, without hidden ones. Links to folders are followed, each folder is entered once.

    Raises:
        DataError: a folder cannot be listed: what is in it would be missing without a word.
    """

    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be listed ({error.strerror}).") from error

    entered: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in entered:  # a link that leads back
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove what only an unfinished folder needs, and every image but those named: a preparation with other options may have left some.

    Args:
        folder: the unfinished folder.
        names: files below `folder/image`, as `PlacedImage.name`.
    """
    (folder / _JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(folder / _WRITING, ignore_errors=True)
    images = folder / "image"
    for root, _, files in os.walk(images, topdown=False):
        for file in files:
            path = Path(root, file)
            if path.relative_to(images).as_posix() not in names:
                path.unlink()
        if not os.listdir(root):
            os.rmdir(root)


def _read_journal(folder: Path, images: Iterable[StudyImage]) -> Iterator[tuple[str, PlacedImage]]:
    """The images that are complete in an unfinished folder and whose source has not changed since."""
    try:
        lines = (folder / _JOURNAL).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    done: dict[str, PlacedImage] = {}
    for line in lines:
        with suppress(ValueError, TypeError, RecursionError):  # the line that a kill cut short: its image is placed again
            placed = PlacedImage(**json.loads(line))
            done[placed.image_id] = placed
    for image in images:
        earlier = done.get(image.image_id)
        if earlier and _is_current(earlier, image, folder):
            yield image.image_id, earlier


def _is_current(placed: PlacedImage, image: StudyImage, folder: Path) -> bool:
    source, target = image.path.stat(), folder / "image" / placed.name
    unchanged = (source.st_size, source.st_mtime_ns) == (placed.bytes, placed.mtime_ns)
    return unchanged and target.is_file() and target.stat().st_size == placed.prepared_bytes


def _require_space(images: Sequence[StudyImage], folder: Path, options: ImageOptions) -> bool:
    """Whether files must be copied because hard links to the source are not possible; DataError if the copies cannot fit."""
    if not images or options.resize or _can_link(images[0].path, folder):
        return False
    needed = sum(image.path.stat().st_size for image in images)
    require_space(
        folder, needed, "for copies, because hard links to the source are not possible from there (--resize 512 writes smaller ones)"
    )
    logger.info("Images are copied (%s bytes): hard links to the source are not possible from %s.", f"{needed:,}", folder.parent)
    return True


def _can_link(source: Path, folder: Path) -> bool:
    target = folder / f".link.{os.getpid()}"
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, one without hard links, or a file of another owner
        return False
    target.unlink()
    return True


# In the worker processes ------------------------------------------------------------------------------------------------


def _place_chunk(images: Sequence[StudyImage], *, folder: Path, options: ImageOptions, link: bool) -> list[Result]:
    return [_place(image, folder, options, link) for image in images]


def _place(image: StudyImage, folder: Path, options: ImageOptions, link: bool) -> Result:
    try:
        content = read_content(image.path, str(image.path))
        changed = image.path.stat().st_mtime_ns
        suffix, written, burned_in = _prepare(content, image.path, options)
    except DataError as error:
        return Unreadable(image.image_id, str(error))
    name = image.image_id + suffix
    _write(folder / "image" / name, written, image.path, folder=folder, link=link and written is content)
    digest = hashlib.sha256(content).hexdigest()
    return PlacedImage(
        image_id=image.image_id,
        name=name,
        bytes=len(content),
        sha256=digest,
        prepared_bytes=len(written),
        prepared_sha256=digest if written is content else hashlib.sha256(written).hexdigest(),
        mtime_ns=changed,
        burned_in=burned_in,
    )


def _prepare(content: bytes, path: Path, options: ImageOptions) -> tuple[str, bytes, bool]:
    """Decode an image; return the suffix and content of its prepared file, and the burned-in flag. Unchanged content is the same object."""
    stream = BytesIO(content)
    stream.name = str(path)  # what an error calls it
    dicom = DicomOptions(window=options.window, force_modality=options.force_modality)
    min_side = 2 * options.resize if options.resize else VERIFY_SIDE
    image = open_image(stream, min_side=min_side, dicom=dicom)
    is_large = options.resize and min(image.size) > options.resize
    if not is_large and not is_dicom(content[:132]):
        return ".jpg" if content.startswith(_JPEG_START) else ".png", content, False
    burned_in = bool(image.info.get(BURNED_IN_ANNOTATION))
    if is_large:
        scale = options.resize / min(image.size)
        image = image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.BICUBIC)  # type: ignore[arg-type]
    return *_encode(image, options.format), burned_in


def _encode(image: Image.Image, image_format: str) -> tuple[str, bytes]:
    buffer = BytesIO()
    if image_format == "png":
        image.save(buffer, "PNG")
        return ".png", buffer.getvalue()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return ".jpg", buffer.getvalue()


def _write(target: Path, content: bytes, source: Path, *, folder: Path, link: bool) -> None:
    """Put a file in its place, whole or not at all."""
    try:
        temporary = folder / _WRITING / hashlib.sha256(os.fsencode(target)).hexdigest()
        make_folder(temporary.parent)
        make_folder(target.parent)
        temporary.unlink(missing_ok=True)
        if link:
            os.link(source.resolve(), temporary)  # which has the mode of its source; the folder around it is private
        else:
            with open(temporary, "xb", opener=private) as handle:
                handle.write(content)
        os.replace(temporary, target)
    except OSError as error:
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"{target}: cannot be written ({error.strerror}; {free / 1e6:,.1f} MB are free). "
            "What is finished is kept: make room, and the same command goes on from there."
        ) from error


# The processes ----------------------------------------------------------------------------------------------------------


def _in_processes(place: Callable[[Sequence[StudyImage]], list[Result]], images: Sequence[StudyImage], *, workers: int) -> Iterator[Result]:
    """The results as they come. Only a few chunks are under way at a time, so memory does not grow with the number of images."""
    chunks = (images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK))
    if workers <= 1:
        for chunk in chunks:
            yield from place(chunk)
        return
    with ProcessPoolExecutor(workers, initializer=_ignore_interrupts, mp_context=_context()) as pool:
        running: set[Future[list[Result]]] = {pool.submit(place, chunk) for chunk in islice(chunks, 3 * workers)}
        try:
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(place, chunk) for chunk in islice(chunks, len(finished))}
                for future in finished:
                    yield from future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "A worker process died, most often for lack of memory. Lower --workers; finished images are kept, and the same "
                "command goes on from there."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides, the chunk under way is finished


def _context() -> Any:
    """Forked workers have the libraries loaded already; other systems than Linux have reasons for another way."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else None)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
