"""The Python interface, in five lines:

from xraygpt import load_model
model = load_model("output/quickstart/stage2/checkpoint_best.pth")     # or a YAML of eval_configs
print(model.report("x.png"))
chat = model.chat("x.png")
print(chat.ask("Is there an effusion?"))
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.config import Config
from xraygpt.common.errors import CheckpointError, ConfigError, DataError, first_line
from xraygpt.models.generation import GeneratedText
from xraygpt.processors import Concern, open_image, refusal
from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.safety import RESEARCH_NOTICE, find_flags, with_notice
from xraygpt.serving.saved_chat import chat_record, save_chat
from xraygpt.serving.sentences import AnswerSentence, read_sentences
from xraygpt.serving.session import Answer, ChatSession

YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Report:
    """What the model wrote about an image. `str()` of it has the notes and the research notice below the text.

    Attributes:
        text: the words of the model alone.
        flags: names of `xraygpt.serving.safety.FLAGS`, why the text deserves doubt.
        sentences: all of the text, each with its `confidence`, in (0, 1].
        concerns: what the input gate says about the image.
        notice: the research notice.
    """

    text: str
    flags: tuple[str, ...] = ()
    sentences: tuple[AnswerSentence, ...] = ()
    concerns: tuple[Concern, ...] = ()
    notice: str = RESEARCH_NOTICE

    def __str__(self) -> str:
        return with_notice(self.text, flags=self.flags, concerns=[concern.message for concern in self.concerns])


class ReportModel:
    """A trained model, ready to write; made by `load_model`."""

    def __init__(self, pipeline: ReportPipeline) -> None:
        self.pipeline = pipeline

    def report(self, image: str | Path | Image.Image, *, strict: bool = False, **settings: Any) -> Report:
        """Write the report of one image.

        Args:
            image: a PNG, JPEG or DICOM file, or a Pillow image of mode "L" or "RGB".
            strict: refuse an image that the input gate has a concern about, instead of noting it in the report.
            settings: keys of `run.generation`, in place of the model's: `num_beams=4`.

        Raises:
            DataError: the image cannot be used.
        """
        return self.reports([image], strict=strict, **settings)[0]

    def reports(self, images: Sequence[str | Path | Image.Image], *, strict: bool = False, **settings: Any) -> list[Report]:
        """`report` for several images at once, in one batch."""
        films = [image if isinstance(image, Image.Image) else open_image(image) for image in images]
        pixels = [self.pipeline.load_image(film) for film in films]
        queries = self.pipeline.read_images(pixels)
        concerns = [tuple(self.pipeline.doubts(*each)) for each in zip(films, pixels, queries, strict=True)]
        for image, doubts in zip(images, concerns, strict=True):
            _refuse(image, doubts if strict else ())
        written = self.pipeline.write_reports_from(queries, **settings)
        return [self._report(text, doubts) for text, doubts in zip(written, concerns, strict=True)]

    def _report(self, written: GeneratedText, concerns: tuple[Concern, ...]) -> Report:
        flags = find_flags(written.text, truncated=written.truncated, repeated=written.repeated)
        sentences = read_sentences(self.pipeline.model.llama_tokenizer, written.text, written.token_ids, written.log_probs)
        return Report(written.text, tuple(flags), tuple(sentences), concerns)

    def chat(self, image: str | Path | Image.Image, *, strict: bool = False, **settings: Any) -> "ImageChat":
        """Start a conversation about one image; the arguments are those of `report`."""
        chat = ImageChat(self.pipeline, image, settings)
        _refuse(image, chat.concerns if strict else ())
        return chat


class ImageChat:
    """A conversation about one image; made by `ReportModel.chat`.

    Attributes:
        session: the conversation itself, with `turns`, `undo()` and `reset()`.
        concerns: what speaks against the image.
    """

    def __init__(self, pipeline: ReportPipeline, image: str | Path | Image.Image, settings: dict[str, Any]) -> None:
        self.session = ChatSession(pipeline)
        self.concerns = tuple(self.session.open_image(Path(image) if isinstance(image, str) else image))
        self.name = "" if isinstance(image, Image.Image) else Path(image).name
        self.settings = settings
        self.decoding = pipeline.settings | settings

    def ask(self, question: str = "") -> Report:
        """Ask about the image; no question asks for the report.

        Raises:
            DataError: the question is too long, or nothing but markup.
        """
        for _ in self.stream(question):
            pass
        answer: Answer = self.session.turns[-1].answer
        return Report(answer.text, tuple(answer.flags), tuple(answer.sentences), self.concerns)

    def stream(self, question: str = "") -> Iterator[str]:
        """`ask`, in pieces as they are written. Show `xraygpt.serving.RESEARCH_NOTICE` with them."""
        return self.session.stream(question, settings=self.settings)

    def save(self, path: str | Path) -> None:
        """Write the conversation to a .md or .json file that does not exist yet."""
        save_chat(Path(path), chat_record(self.session.turns, image=self.name, about={"decoding": self.decoding}))


def load_model(path: str | Path, *, device: str = "auto", options: Sequence[str] = ()) -> ReportModel:
    """Load a trained model.

    Args:
        path: a YAML such as those of eval_configs; or a checkpoint of this project, which brings the configuration that it was trained
            with. That names other files (language model, earlier checkpoints, prompts), relative to the folder of the training.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N".
        options: override values of the configuration, as after `--options`: ["model.llama_model=weights/vicuna"].

    Raises:
        ConfigError: the configuration is not well-formed, or names files that are not there; all of them are listed.
        CheckpointError: the checkpoint cannot be read, brings no configuration, or does not fit.
    """
    path = Path(path).expanduser()
    words = [*options, f"run.device={device}"]
    cfg = _read_yaml(path, words) if path.suffix.lower() in YAML_SUFFIXES else _read_stored(path, words)
    return ReportModel(ReportPipeline.from_config(cfg))


def _read_yaml(path: Path, options: Sequence[str]) -> Config:
    return Config(argparse.Namespace(cfg_path=path, options=list(options)), needs=("model",))


def _read_stored(path: Path, options: Sequence[str]) -> Config:
    """The configuration in a checkpoint, with the checkpoint itself loaded after those that it was trained from."""
    stored = load_checkpoint(path).get("config")
    if not (isinstance(stored, dict) and isinstance(stored.get("model"), dict) and isinstance(stored.get("run", {}), dict)):
        raise CheckpointError(
            f"{path} holds weights but no configuration, so that the model around them is not known. Give a YAML that names the file: "
            f"load_model('eval_configs/xraygpt.yaml', options=['model.ckpt={path}'])."
        )
    _refuse_stored_imports(stored, path, options)
    earlier = stored["model"].get("ckpt") or []
    files = [*(earlier if isinstance(earlier, list) else [earlier]), str(path)]
    stored = {**stored, "model": {**stored["model"], "ckpt": files}}
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "config.yaml"
        try:
            OmegaConf.save(OmegaConf.create(stored), written)
        except OmegaConfBaseException as error:
            raise CheckpointError(f"The configuration in {path} is damaged: {first_line(error)}") from error
        try:
            cfg = _read_yaml(written, options)
        except ConfigError as error:
            problems = str(error).partition("\n")[2] or str(error)
            raise ConfigError(
                f"The configuration in {path} cannot be used here. Its paths are relative to the folder of the training: start Python "
                f"there, or give others with options=['KEY=VALUE', …].\n{problems}"
            ) from None
    cfg.cfg_path = str(path)
    return cfg


def _refuse_stored_imports(stored: dict[str, Any], path: Path, options: Sequence[str]) -> None:
    """A file of weights must not decide which code is run: the modules that its training imported are named again by the user."""
    modules = stored.get("run", {}).get("imports")
    if modules and not any(option.startswith("run.imports") for option in options):
        raise ConfigError(
            f"{path} asks for the modules {modules}, and importing them runs their code. If you know and trust them, name them: "
            f"load_model(…, options=['run.imports={modules}'])."
        )


def _refuse(image: str | Path | Image.Image, concerns: Sequence[Concern]) -> None:
    if concerns:
        raise DataError(refusal("the image" if isinstance(image, Image.Image) else str(image), concerns))
