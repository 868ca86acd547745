"""Reports for many images: files are opened and checked while the model writes about the batch before."""

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from xraygpt.common.errors import DataError
from xraygpt.common.printable import printable_line, utf8_name
from xraygpt.common.seed import stateless_seed
from xraygpt.models.generation import GeneratedText
from xraygpt.processors import Concern, check_image, open_image, refusal
from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.safety import find_flags
from xraygpt.serving.sentences import as_rows, geometric_mean, read_sentences

Images = Sequence[tuple[str, Path]]
"""(identifier, file) of each image."""
Row = dict[str, Any]
"""One image and its report, or its error; see `xraygpt.serving.report_files`."""


@dataclass
class Film:
    """An image file as far as it could be used.

    Attributes:
        pixels: float32 [3, S, S].
        queries: [Q, D_q], what the model's query tokens read.
        concerns: what speaks against it.
        error: why it gets no report; "" if it gets one.
        name: of its row in the feature cache.
    """

    pixels: Tensor | None = None
    queries: Tensor | None = None
    concerns: list[Concern] = field(default_factory=list)
    error: str = ""
    name: bytes = b""


def load_film(pipeline: ReportPipeline, path: Path) -> Film:
    """Open an image and ask the input gate about it; find what the model reads in it in the feature cache, if there is one."""
    try:
        image = open_image(path)
        name = pipeline.cache.name_of(path) if pipeline.cache else b""
        queries = pipeline.cache.find(name) if pipeline.cache else None
        return Film(pipeline.load_image(image), queries, check_image(image), name=name)
    except DataError as error:
        return Film(error=printable_line(error))


def load_ahead(pipeline: ReportPipeline, batches: Sequence[Images]) -> Iterator[list[Film]]:
    """The films of each batch in order; one batch is loaded ahead, in threads."""
    with ThreadPoolExecutor() as pool:
        loading: deque[Any] = deque()
        for batch in batches:
            loading.append([pool.submit(load_film, pipeline, path) for _, path in batch])
            if len(loading) > 1:
                yield [film.result() for film in loading.popleft()]
        while loading:
            yield [film.result() for film in loading.popleft()]


def write_batches(pipeline: ReportPipeline, batches: Sequence[Images], *, seed: int, strict: bool = False) -> Iterator[list[Row]]:
    """Write a report for each image.

    Args:
        batches: images that are written about together. All have the same prompt, so no order of theirs saves padding.
        seed: of sampling; with the identifier of an image it decides what is drawn for it, whatever its batch.
        strict: an image that anything speaks against gets no report.

    Yields:
        The rows of each batch, in order. An image that cannot be used has an "error" in place of a report.
    """
    for batch, films in zip(batches, load_ahead(pipeline, batches), strict=True):
        if strict:
            _refuse_doubted(batch, films)  # which need not be read
        _read_images(pipeline, films)
        if strict:
            _refuse_doubted(batch, films)
        usable = [
            (image_id, film.queries)
            for (image_id, _), film in zip(batch, films, strict=True)
            if film.queries is not None and not film.error
        ]
        seeds = [stateless_seed(seed, zlib.crc32(image_id.encode())) for image_id, _ in usable]
        written = iter(pipeline.write_reports_from([queries for _, queries in usable], seed=seeds))
        rows = []
        for (image_id, path), film in zip(batch, films, strict=True):
            row: Row = {"id": image_id, "image": utf8_name(path.as_posix())}
            row |= {"error": film.error} if film.error else _report_fields(pipeline.model.llama_tokenizer, next(written))
            rows.append(row | {"concerns": [asdict(concern) for concern in film.concerns]})
        yield rows


def _refuse_doubted(batch: Images, films: Sequence[Film]) -> None:
    for (_, path), film in zip(batch, films, strict=True):
        film.error = printable_line(refusal(str(path), film.concerns)) if film.concerns else film.error


def _read_images(pipeline: ReportPipeline, films: Sequence[Film]) -> None:
    """Let the model look at the films that could be opened, together; those unlike its training images are doubted."""
    opened = [film for film in films if film.pixels is not None and not film.error]
    new = [film for film in opened if film.queries is None]
    for film, queries in zip(new, pipeline.read_images([film.pixels for film in new if film.pixels is not None]), strict=True):
        film.queries = queries
    if pipeline.cache and new:
        pipeline.cache.keep([film.name for film in new], [film.queries for film in new if film.queries is not None])
    for film in opened:
        film.concerns += pipeline.unfamiliar(film.queries)  # type: ignore[arg-type]


def _report_fields(tokenizer: Any, written: GeneratedText) -> Row:
    return {
        "report": written.text,
        "flags": find_flags(written.text, truncated=written.truncated, repeated=written.repeated),
        "confidence": round(geometric_mean(written.log_probs), 4),
        "sentences": as_rows(read_sentences(tokenizer, written.text, written.token_ids, written.log_probs)),
        "truncated": written.truncated,
        "repeated": written.repeated,
    }
