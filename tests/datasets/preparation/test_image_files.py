"""Images in their place: linked, copied, made smaller, converted; in parallel, resumable, whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.datasets.preparation.made_source import write_noise
from xraygpt.common.errors import DataError
from xraygpt.common.files import sha256_file
from xraygpt.datasets.preparation import disk_space, image_files
from xraygpt.datasets.preparation.image_files import ImageOptions, PlacedImage, Unreadable, place_images, walk_files
from xraygpt.datasets.preparation.study import StudyImage

Place = Callable[..., dict[str, Any]]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A function that places files of tmp_path/source into tmp_path/out, under their stems."""

    def place_files(*paths: Path, workers: int = 1, stop_at_error: bool = False, **options: Any) -> dict[str, Any]:
        images = [StudyImage(image_id=path.stem, path=path) for path in paths]
        return place_images(images, tmp_path / "out", ImageOptions(**options), workers=workers, stop_at_error=stop_at_error)

    (tmp_path / "out").mkdir()
    return place_files


def write_dicom(path: Path, **elements: Any) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Doe^Jane", "SECRET-17", "DX"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = "MONOCHROME2", 1, 0
    dataset.Rows, dataset.Columns = 30, 40
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = np.random.default_rng(0).integers(0, 4096, (30, 40), dtype=np.uint16).tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)
    return path


def test_an_image_that_fits_is_linked_unchanged(place: Place, tmp_path: Path) -> None:
    path = write_noise(tmp_path / "source/a.png", seed=0)
    placed = place(path)["a"]
    target = tmp_path / "out/image/a.png"
    assert target.samefile(path)
    assert placed == PlacedImage(
        image_id="a",
        name="a.png",
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        prepared_bytes=path.stat().st_size,
        prepared_sha256=sha256_file(path),
        mtime_ns=path.stat().st_mtime_ns,
    )


def test_without_hard_links_it_is_copied(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    path = write_noise(tmp_path / "source/a.jpg", seed=0)
    place(path)
    target = tmp_path / "out/image/a.jpg"
    assert not target.samefile(path)
    assert target.read_bytes() == path.read_bytes()


def test_copies_that_cannot_fit_are_refused_before_the_first(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_can_link", lambda *args: False)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"bytes are needed for copies.*--resize 512.*100 are free"):
        place(write_noise(tmp_path / "source/a.png", seed=0))
    assert not list((tmp_path / "out/image").iterdir())


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
@pytest.mark.parametrize(
    ("size", "resized"),
    [((300, 200), (96, 64)), ((200, 300), (64, 96)), ((64, 64), (64, 64)), ((40, 500), (40, 500)), ((65, 65), (64, 64))],
)
def test_resize_shortens_the_shorter_side(
    place: Place, tmp_path: Path, size: tuple[int, int], resized: tuple[int, int], image_format: str
) -> None:
    placed = place(write_noise(tmp_path / "source/a.jpg", seed=0, size=size), resize=64, format=image_format)["a"]
    with Image.open(tmp_path / "out/image" / placed.name) as image:
        assert (image.size, image.mode) == (resized, "L")


def test_a_resized_image_is_the_original_made_smaller(place: Place, tmp_path: Path) -> None:
    ramp = Image.fromarray(np.linspace(0, 255, 640, dtype=np.uint8)[None].repeat(480, axis=0))
    (tmp_path / "source").mkdir()
    ramp.save(tmp_path / "source/a.png")
    place(tmp_path / "source/a.png", resize=120, format="png")
    expected = np.asarray(ramp.resize((160, 120), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(np.asarray(Image.open(tmp_path / "out/image/a.png"), dtype=float) - expected).max() <= 1


def test_colour_is_kept(place: Place, tmp_path: Path) -> None:
    placed = place(write_noise(tmp_path / "source/a.png", seed=0, size=(100, 90), mode="RGB"), resize=64)["a"]
    assert Image.open(tmp_path / "out/image" / placed.name).mode == "RGB"


def test_a_dicom_file_becomes_an_image_without_a_tag(place: Place, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "source/a.dcm", BurnedInAnnotation="YES", ImageComments="SECRET comment")
    placed = place(path, format="png")["a"]
    content = (tmp_path / "out/image" / placed.name).read_bytes()
    assert placed.burned_in
    assert placed.name == "a.png"
    assert not any(secret in content for secret in (b"SECRET", b"Doe", b"Jane"))
    with Image.open(tmp_path / "out/image/a.png") as image:
        assert (image.mode, image.size, image.info) == ("L", (40, 30), {})


def test_a_dicom_file_under_another_suffix_is_converted_too(place: Place, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "source/a.png")
    assert place(path)["a"].name == "a.jpg"
    assert b"SECRET" not in (tmp_path / "out/image/a.jpg").read_bytes()


def test_force_modality(place: Place, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "source/a.dcm", Modality="CT")
    assert "modality CT" in place(path)["a"].message
    assert isinstance(place(path, force_modality=True)["a"], PlacedImage)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"GIF89a", "not a PNG, JPEG or DICOM"), (b"\x89PNG\r\n\x1a\n" + bytes(50), "damaged|not a PNG")],
    ids=["empty", "gif", "damaged"],
)
def test_what_cannot_be_read_is_named(place: Place, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "source").mkdir()
    bad, good = tmp_path / "source/bad.png", write_noise(tmp_path / "source/good.png", seed=0)
    bad.write_bytes(content)
    results = place(bad, good)
    assert isinstance(results["bad"], Unreadable)
    assert results["bad"].message.startswith(f"{bad}: ")
    assert isinstance(results["good"], PlacedImage)
    assert [path.name for path in (tmp_path / "out/image").iterdir()] == ["good.png"]
    with pytest.raises(DataError, match=reason):
        place(bad, good, stop_at_error=True)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_image_is_found_although_it_is_only_verified(place: Place, tmp_path: Path, suffix: str) -> None:
    path = write_noise(tmp_path / f"source/a{suffix}", seed=0, size=(400, 300))
    path.write_bytes(path.read_bytes()[:-2000])
    assert "damaged or cut short" in place(path)["a"].message


def test_a_folder_or_a_pipe_is_no_image(place: Place, tmp_path: Path) -> None:
    (tmp_path / "source/folder.png").mkdir(parents=True)
    os.mkfifo(tmp_path / "source/pipe.png")
    results = place(tmp_path / "source/folder.png", tmp_path / "source/pipe.png")
    assert {result.message.split(": ")[1] for result in results.values()} == {"a directory, pipe or device, not an image file."}


def test_processes_change_nothing(place: Place, tmp_path: Path) -> None:
    paths = [write_noise(tmp_path / f"source/{i}.png", seed=i, size=(80, 90)) for i in range(40)]
    one = place(*paths, resize=64)
    (tmp_path / "out/images.jsonl").unlink()
    assert place(*paths, resize=64, workers=2) == one


def test_finished_images_are_not_made_again(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_noise(tmp_path / f"source/{i}.png", seed=i) for i in range(6)]
    first = place(*paths[:4])
    made: list[str] = []
    real = image_files._place
    monkeypatch.setattr(image_files, "_place", lambda image, *args: made.append(image.image_id) or real(image, *args))
    write_noise(paths[1], seed=77)  # the source changed
    (tmp_path / "out/image/2.png").unlink()
    with open(tmp_path / "out/images.jsonl", "a") as journal:
        journal.write('{"image_id": "5", "na')  # what a kill leaves
    second = place(*paths)
    assert sorted(made) == ["1", "2", "4", "5"]
    assert list(second) and second["0"] == first["0"]
    assert second["1"] != first["1"]


def test_a_full_disk_stops_with_the_reason(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, mode: str, **options: Any) -> Any:
        if "x" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, mode, **options)

    path = write_noise(tmp_path / "source/a.png", seed=0, size=(100, 100))
    monkeypatch.setattr(image_files, "open", full, raising=False)
    with pytest.raises(DataError, match=r"a\.jpg: cannot be written \(No space left on device.*the same command goes on"):
        place(path, resize=64)


def test_a_worker_that_dies_is_reported(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_noise(tmp_path / f"source/{i}.png", seed=i) for i in range(3)]
    monkeypatch.setattr(image_files, "_place", lambda *args: os._exit(9))
    with pytest.raises(DataError, match="A worker process died"):
        place(*paths, workers=2)


@pytest.mark.parametrize(("options", "reason"), [({"resize": 8}, "32 to 8192"), ({"format": "gif"}, "jpeg, png, not 'gif'")])
def test_options_that_cannot_work(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        ImageOptions(**options)


def test_a_file_gets_the_suffix_of_its_content(place: Place, tmp_path: Path) -> None:
    for suffix in (".jpg", ".png"):
        write_noise(tmp_path / f"source/{suffix[1:]}{suffix}", seed=0).rename(tmp_path / f"source/{suffix[1:]}")
    placed = place(tmp_path / "source/jpg", tmp_path / "source/png")
    assert {image.name for image in placed.values()} == {"jpg.jpg", "png.png"}


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="the folder cannot be listed"):
        list(walk_files(tmp_path))


def test_walking_enters_each_folder_once(tmp_path: Path) -> None:
    write_noise(tmp_path / "b/2.png", seed=0)
    write_noise(tmp_path / "a/1.png", seed=0)
    (tmp_path / "a/back").symlink_to(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/3.png").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in walk_files(tmp_path)] == ["a/1.png", "b/2.png"]


def test_pydicom_reads_what_this_file_writes(tmp_path: Path) -> None:
    assert pydicom.dcmread(write_dicom(tmp_path / "a.dcm")).PatientID == "SECRET-17"
