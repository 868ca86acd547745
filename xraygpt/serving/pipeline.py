"""Model, image processor and generation settings of a configuration, put together for use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

import xraygpt.models  # noqa: F401  registers the models that a configuration names
from xraygpt.common.config import Config
from xraygpt.common.dist_utils import resolve_device
from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry, suggest
from xraygpt.conversation import Chat
from xraygpt.datasets.feature_cache import FeatureCache
from xraygpt.datasets.image_features import FilmFeatures
from xraygpt.models.generation import GeneratedText
from xraygpt.models.known_images import KnownImages, probe_image
from xraygpt.processors import Concern, check_image, load_processor, open_image

UNFAMILIAR = "To the model this image is unlike those that it was trained with. Its report deserves no trust."


class ReportPipeline:
    """Writes reports for images.

    Args:
        model: has `generate_reports` and `report_prompt`, and what `Chat` needs.
        vis_processor: Pillow image → float32 tensor [3, S, S].
        prompt: the question that asks for a report; "" takes the model's first training prompt.
        settings: the fields of `run.generation` but the prompt.
        known: what training images look like to the model; None: not known.
        cache: what the model read in image files before; None: nothing is kept.
    """

    def __init__(
        self,
        *,
        model: Any,
        vis_processor: Callable[[Image.Image], Tensor],
        prompt: str,
        settings: dict[str, Any],
        known: KnownImages | None = None,
        cache: FilmFeatures | None = None,
    ) -> None:
        self.model = model.eval()
        self.vis_processor = vis_processor
        self.prompt = prompt
        self.settings = settings
        self.known = known
        self.cache = cache

    @classmethod
    def from_config(cls, cfg: Config, *, cache: FeatureCache | None = None) -> "ReportPipeline":
        """The model on its device, and the evaluation processor of the first dataset.

        Args:
            cache: of the model's vision parts, for files that are read in batches; the parts are loaded for what is not in it.

        Raises:
            ConfigError: the configuration names no image processor, or one for images of another size than the model's.
        """
        vis_processor = _eval_processor(cfg)
        model_class = registry.get_model_class(cfg.model_cfg.arch)
        films = FilmFeatures(cache, vis_processor) if cache is not None else None
        given = {"vision_key": films.key} if films else {}
        model = model_class.from_config(cfg.model_cfg, **given).place(resolve_device(cfg.run_cfg.device))
        settings: Any = OmegaConf.to_container(cfg.run_cfg.generation)
        known = None
        if cfg.run_cfg.known_images:
            probe = model.eval().image_features(probe_image(cfg.model_cfg.image_size)).cpu().numpy()[0]
            known = KnownImages.load(Path(cfg.run_cfg.known_images).expanduser(), probe)
        return cls(model=model, vis_processor=vis_processor, prompt=settings.pop("prompt"), settings=settings, known=known, cache=films)

    @property
    def full_prompt(self) -> str:
        """The prompt that asks for a report, as the model reads it."""
        return self.model.report_prompt(self.prompt)

    def load_image(self, image: Path | str | Image.Image) -> Tensor:
        """An image, or a file with one → float32 tensor [3, S, S].

        Raises:
            DataError: the file cannot be used.
        """
        return self.vis_processor(image if isinstance(image, Image.Image) else open_image(image))

    def doubts(self, film: Image.Image, pixels: Tensor, queries: Tensor | None = None) -> list[Concern]:
        """What speaks against an image: the input gate's concerns, and that the model knows no image like it.

        Args:
            film: mode "L" or "RGB", as `open_image` returns it.
            pixels: float32 [3, S, S], `load_image` of it.
            queries: [Q, D_q], where `read_images` has read it already.
        """
        concerns = check_image(film)
        if self.known is not None:
            concerns += self.unfamiliar(self.model.read_once(pixels[None])[0] if queries is None else queries)
        return concerns

    def unfamiliar(self, queries: Tensor) -> list[Concern]:
        """The concern that an image, of which the query tokens read [Q, D_q], is unlike the training images; or nothing."""
        if self.known is None:
            return []
        (distance,) = self.known.distances(queries.float().mean(0).cpu().numpy()[None])
        return [Concern("unfamiliar", UNFAMILIAR, float(distance))] if distance > 1 else []

    def read_images(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """What the model's query tokens read in each of some images of `load_image`, [Q, D_q] each, looked at together."""
        return list(self.model.read_images(torch.stack(list(pixels)))) if pixels else []

    def write_reports_from(self, queries: Sequence[Tensor], **settings: Any) -> list[GeneratedText]:
        """One report for each image that was read by `read_images`, in one batch; `settings` take the place of the pipeline's own."""
        if not queries:
            return []
        return self.model.write_reports_from(torch.stack(list(queries)), prompt=self.prompt, **self.settings | settings)

    def generate_reports(self, images: Sequence[Path | str | Image.Image | Tensor], **settings: Any) -> list[GeneratedText]:
        """One report for each image with what is known of its writing, in one batch.

        Args:
            images: files, images, or tensors as `load_image` returns them.
            settings: take the place of the pipeline's own.
        """
        pixels = [image if isinstance(image, Tensor) else self.load_image(image) for image in images]
        return self.write_reports_from(self.read_images(pixels), **settings)

    def write_reports(self, images: Sequence[Path | str | Image.Image | Tensor]) -> list[str]:
        """The texts of `generate_reports`."""
        return [written.text for written in self.generate_reports(images)]

    def new_chat(self) -> Chat:
        """A chat with the model, whose images may be files."""
        return Chat(self.model, self.vis_processor, device=self.model.device, open_image=open_image)


def _eval_processor(cfg: Config) -> Any:
    if not cfg.datasets_cfg:
        raise ConfigError(f"{cfg.cfg_path}: name a dataset under datasets:, whose vis_processor.eval prepares the images.")
    name, dataset = next(iter(cfg.datasets_cfg.items()))
    arguments = dict(dataset.vis_processor.eval)
    where = f"datasets.{name!s}.vis_processor.eval"
    if "name" not in arguments:
        raise ConfigError(f"{where} needs a name.{suggest('', registry.list_processors())}")
    expected, size = cfg.model_cfg.get("image_size"), arguments.get("image_size")
    if expected and size and expected != size:
        raise ConfigError(f"{where}.image_size is {size}, but model.image_size is {expected}: they must be equal.")
    return load_processor(arguments.pop("name"), arguments)
