"""From a source to a prepared folder. Every source goes the same way:

studies → one text each → images of the wanted views → (rewriting) → image files in place → annotations → account
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import write_text
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.datasheet import datasheet
from xraygpt.datasets.preparation.image_files import ImageOptions, PlacedImage, keep_only, num_cores, place_images
from xraygpt.datasets.preparation.prepared_folder import (
    DATASHEET_NAME,
    DROPPED_NAME,
    SOURCES_NAME,
    unfinished_folder,
    write_annotations,
    write_csv,
    write_manifest,
)
from xraygpt.datasets.preparation.rewriting import CACHED, Draft, RewriteOptions, rewrite
from xraygpt.datasets.preparation.splits import require_no_leakage, split_of
from xraygpt.datasets.preparation.study import Source, Study, StudyImage
from xraygpt.datasets.preparation.texts import build_text

VIEWS = ("frontal", "lateral", "PA", "AP", "LATERAL", "LL", "all")

ReadStatuses = Callable[[str], Mapping[str, str]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How any source is prepared.

    Attributes:
        out: the folder to write.
        text: "summary": filtered and cleaned as the paper describes; "as-is": the source's text; "none": images alone.
        views: images kept: "frontal", "lateral", single view positions such as "PA", or "all", which also keeps unknown views.
        min_findings_words: reports with shorter findings are dropped (the paper's number).
        min_impression_words: reports with a shorter impression are dropped (the paper's number).
        images: how images are written.
        rewriter: a language model that rewrites the summaries; None keeps the rules' text.
        on_error: "skip" lists what cannot be read, "stop" ends with the first of it.
        workers: processes for the images; they do not change the result.
        overwrite: replace a prepared folder that is there already.
    """

    out: Path
    text: str = "summary"
    views: tuple[str, ...] = ("frontal",)
    min_findings_words: int = 10
    min_impression_words: int = 2
    images: ImageOptions = field(default_factory=ImageOptions)
    rewriter: RewriteOptions | None = None
    on_error: str = "skip"
    workers: int = field(default_factory=num_cores)
    overwrite: bool = False

    def content(self) -> dict[str, Any]:
        """What shapes the result, for the manifest: no paths of this machine, no number of processes."""
        words = {"min_findings_words": self.min_findings_words, "min_impression_words": self.min_impression_words}
        return {
            "text": self.text,
            **(words if self.text == "summary" else {}),
            **({"rewriter": _rewriter_content(self.rewriter)} if self.rewriter else {}),
            "views": list(self.views),
            "images": asdict(self.images),
        }


def _rewriter_content(options: RewriteOptions) -> dict[str, Any]:
    return {"model": options.model, "prompt_sha256": hashlib.sha256(options.prompt.encode()).hexdigest(), "max_tokens": options.max_tokens}


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A study that is kept, its text, and its images of the wanted views. Only a rewriter still needs the report itself."""

    study: Study
    caption: str
    images: tuple[StudyImage, ...]


def prepare(source: Source, options: PrepareOptions, *, read_statuses: ReadStatuses | None = None) -> dict[str, Any]:
    """Write the prepared folder and return its manifest.

    Args:
        source: where the studies come from.
        options: how they are prepared.
        read_statuses: findings reader (text → {finding: "present", "absent" or "uncertain"}) that audits a rewriter.

    Raises:
        DataError: the source is unusable, a group stands in two splits, nothing is left, `out` exists, or the disk is full.
    """
    account = Account(roots=source.roots, on_error=options.on_error)
    with unfinished_folder(options.out, {"source": source.name, **asdict(options.images)}, overwrite=options.overwrite) as folder:
        chosen = list(_choose(source, options, account))
        captions = _captions(chosen, options, account, read_statuses)
        placed = _place(chosen, folder, options, account)
        annotations = list(_annotate(chosen, captions, placed, account))
        account.count("images kept", len(annotations))
        if not annotations:
            raise DataError(_nothing_left(source, account))
        require_no_leakage(annotations, source.name)
        keep_only(folder, {image.name for image in placed.values()})
        write_annotations(folder, annotations)
        return _write_account(folder, annotations, placed, source, options, account)


# Choosing ---------------------------------------------------------------------------------------------------------------


def _choose(source: Source, options: PrepareOptions, account: Account) -> Iterator[_Chosen]:
    """The studies with a text and an image of a wanted view; the account gets what falls away."""
    text = build_text(options.text, min_findings_words=options.min_findings_words, min_impression_words=options.min_impression_words)
    account.declare([source.unit, *source.filters, *text.reasons, "without images", *_unwanted_views(options.views)])
    for study in source.studies(account):
        account.count(source.unit)
        caption, reason = text.write(study)
        if not reason and not study.images:
            reason = "without images"
        if reason:
            account.drop(reason, kind="report", id=study.study_id, where=study.where)
            continue
        if images := tuple(_of_wanted_view(study.images, options.views, account)):
            yield _Chosen(study if options.rewriter else replace(study, findings="", impression="", text=""), caption, images)


def _unwanted_views(views: Sequence[str]) -> list[str]:
    return [] if "all" in views else [_view_count(view) for view in ("frontal", "lateral", "") if view not in views]


def _view_count(view: str) -> str:
    return f"images of {view or 'unknown'} view"


def _of_wanted_view(images: Sequence[StudyImage], views: Sequence[str], account: Account) -> Iterator[StudyImage]:
    for image in images:
        if "all" in views or image.view in views or image.view_position in views:
            yield image
        else:
            account.drop(_view_count(image.view), kind="image", id=image.image_id, where=image.where)


def _captions(chosen: Sequence[_Chosen], options: PrepareOptions, account: Account, read_statuses: ReadStatuses | None) -> dict[str, str]:
    """study_id → text: that of the rules, or of the rewriter where it passes the audit."""
    if options.rewriter is None:
        return {item.study.study_id: item.caption for item in chosen}
    assert read_statuses is not None, "a rewriter needs a findings reader that audits it"
    drafts = (
        Draft(study_id=item.study.study_id, findings=item.study.findings, impression=item.study.impression, caption=item.caption)
        for item in chosen
    )
    captions, counts = rewrite(drafts, options=options.rewriter, read_statuses=read_statuses)
    for name, number in counts.items():
        if name != CACHED:  # how a run went, not what came of it
            account.count(name, number)
    return captions


# Images and annotations -------------------------------------------------------------------------------------------------


def _place(chosen: Sequence[_Chosen], folder: Path, options: PrepareOptions, account: Account) -> dict[str, PlacedImage]:
    """image_id → file, for the images that are there, can be read, and are no copy of another."""
    account.declare(["image named twice", "images missing", "images unreadable", "copies of another image"])
    images: dict[str, StudyImage] = {}
    for image in (image for item in chosen for image in item.images):
        about = {"kind": "image", "id": image.image_id, "where": image.where}
        if image.image_id in images:
            other = images[image.image_id].where
            account.problem("image named twice", f"{image.where}: the image {image.image_id!r} stands in {other} already.", **about)
        elif not os.path.exists(image.path):  # False, too, where a folder above may not be entered
            account.problem("images missing", f"{image.where or image.image_id}: there is no image {image.path}.", **about)
        else:
            images[image.image_id] = image
    started = time.monotonic()
    results = place_images(list(images.values()), folder, options.images, workers=options.workers, stop_at_error=options.on_error == "stop")
    logger.info("%d images in %.0f s.", len(results), time.monotonic() - started)
    placed: dict[str, PlacedImage] = {}
    first: dict[str, str] = {}
    for image_id, image in images.items():
        result = results[image_id]
        if not isinstance(result, PlacedImage):
            account.problem("images unreadable", result.message, kind="image", id=image_id, where=image.where)
            continue
        account.source_file("image", image_id, image.path, bytes=result.bytes, sha256=result.sha256)
        if result.burned_in:
            account.note("burned-in annotation", f"{image.path}: the DICOM file says that text is burned into the image.")
        if first.setdefault(result.sha256, image_id) != image_id:
            reason = f"{image.path}: the same file as the image {first[result.sha256]!r}."
            account.problem("copies of another image", reason, kind="image", id=image_id, where=image.where)
        else:
            placed[image_id] = result
    return placed


def _annotate(
    chosen: Sequence[_Chosen], captions: Mapping[str, str], placed: Mapping[str, PlacedImage], account: Account
) -> Iterator[dict[str, Any]]:
    """One annotation for each image in the folder. Images without a text have no split: they are for generation."""
    used: set[str] = set()
    for item in chosen:
        study = item.study
        for image in item.images:
            if image.image_id not in placed or image.image_id in used:
                continue
            used.add(image.image_id)
            caption = captions[study.study_id]
            row: dict[str, Any] = {"image_id": image.image_id}
            row |= {"caption": caption} if caption else {}
            row |= {"study_id": study.study_id}
            row |= {"subject_id": study.subject_id} if study.subject_id else {}
            row |= {"split": study.split or split_of(study.group_id)} if caption else {}
            row |= {"view": image.view} if image.view else {}
            row |= {"view_position": image.view_position} if image.view_position else {}
            yield row | dict(study.extra)


def _nothing_left(source: Source, account: Account) -> str:
    told = "; ".join(f"{name}: {count}" for name, count in account.counts.items())
    unknown = account.counts.get(_view_count(""), 0)
    hint = (
        " The views of images are not known: give a table of views (see --help), or keep every image with --views all." if unknown else ""
    )
    first = f" The first problem: {account.problems[0].reason}" if account.problems else ""
    return f"No image of {', '.join(map(str, source.roots))} is left ({told}).{hint}{first}"


# The account ------------------------------------------------------------------------------------------------------------


def _write_account(
    folder: Path,
    annotations: Sequence[Mapping[str, Any]],
    placed: Mapping[str, PlacedImage],
    source: Source,
    options: PrepareOptions,
    account: Account,
) -> dict[str, Any]:
    """Write sources.csv, dropped.csv, manifest.json and the datasheet; return the manifest."""
    files = sorted(account.source_files, key=lambda file: (file.kind, file.file))
    write_csv(folder / SOURCES_NAME, ("kind", "id", "file", "bytes", "sha256"), ((f.kind, f.id, f.file, f.bytes, f.sha256) for f in files))
    out = [*account.dropped, *account.problems]
    write_csv(folder / DROPPED_NAME, ("kind", "id", "reason", "where"), ((d.kind, d.id, d.reason, d.where) for d in out))
    manifest = {
        "dataset": source.name,
        "versions": {name: version(name) for name in ("xraygpt", "pillow", "pydicom")},
        "options": {**source.options, **options.content()},
        "sources": account.fingerprints(),
        "counts": account.counts,
        "notes": dict(account.notes),
        "skipped": [{"kind": d.kind, "id": d.id, "reason": d.reason} for d in account.problems],
    }
    images = ((image_id, image.prepared_sha256) for image_id, image in placed.items())
    manifest = write_manifest(folder, manifest, annotations, images)
    write_text(folder / DATASHEET_NAME, datasheet(manifest, source.about, annotations))
    return manifest
