"""Image and caption processors of the BLIP-2 family.

Image processors: Pillow image, mode "L" or "RGB", any size → float32 tensor [3, S, S], normalised with the constants below.
Text processors: str → str.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.registry import registry
from xraygpt.processors.base_processor import BaseProcessor

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel statistics of CLIP's training images, values 0..1: what the frozen image encoder was trained with."""

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Width : height of a random crop, smallest and largest: torchvision's, which the original trained with."""
_CROP_ATTEMPTS = 10

Geometry = Callable[[Image.Image], Image.Image]

# Both are what torchvision.transforms.v2 has as RandomResizedCrop and Resize: the same random draws and the same pixels, as a test checks.
# Importing torchvision brings torch's compiler with it, which every data worker and every command that reads an image would wait for.


class RandomResizedCrop:
    """A random part of an image, resized to a square, bicubically. Draws from torch's global random generator.

    Args:
        size: side of the result, pixels.
        scale: smallest and largest part of the image's area.
    """

    def __init__(self, size: int, *, scale: tuple[float, float]) -> None:
        self.size, self.scale = size, scale
        self._log_ratios = torch.log(torch.tensor(ASPECT_RATIOS)).tolist()

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the crop, S x S."""
        return resize(image.crop(self.draw_box(*image.size)), self.size)

    def draw_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Draw a part of an image: left, upper, right and lower edge, in pixels.

        Area and logarithm of the aspect ratio are uniform; the first of ten draws that fits in the image is taken. If none does, it is
        the largest part in the middle whose aspect ratio is allowed.
        """
        for _ in range(_CROP_ATTEMPTS):
            area = width * height * torch.empty(1).uniform_(*self.scale).item()
            ratio = torch.exp(torch.empty(1).uniform_(*self._log_ratios)).item()
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int(torch.randint(0, height - h + 1, size=(1,)))
                left = int(torch.randint(0, width - w + 1, size=(1,)))
                return left, top, left + w, top + h
        w = min(width, round(height * max(ASPECT_RATIOS)))
        h = min(height, round(width / min(ASPECT_RATIOS)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


def resize(image: Image.Image, size: int) -> Image.Image:
    """The whole image as a square of `size` pixels, bicubically."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


class BlipImageProcessor(BaseProcessor):
    """Geometry of a subclass, then scaling to 0..1 and normalisation.

    A grey image stays one channel through the crop and the resize and becomes three at the end: the same numbers as converting it to RGB
    first, for a third of the work.
    """

    def __init__(self, *, geometry: Geometry, mean: Sequence[float], std: Sequence[float]) -> None:
        """
        Args:
            geometry: crop and resize, Pillow image → Pillow image of S x S.
            mean: three numbers subtracted from red, green and blue (values 0..1).
            std: three positive numbers that they are then divided by.
        """
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(f"mean and std need three numbers each, those of std above 0; got mean={tuple(mean)}, std={tuple(std)}.")
        self.geometry = geometry
        self._mean, self._std = (torch.tensor([float(value) for value in values])[:, None, None] for values in (mean, std))

    def __call__(self, item: Image.Image) -> torch.Tensor:
        """Return the float32 tensor [3, S, S] of one image."""
        if item.mode not in ("L", "RGB"):
            raise DataError(f"An image of mode L or RGB was expected, not {item.mode}. Open image files with processors.open_image.")
        pixels = torch.from_numpy(np.atleast_3d(np.array(self.geometry(item))))  # [S, S, 1 or 3]
        values = pixels.permute(2, 0, 1).to(torch.float32).mul_(1 / 255)
        return values.expand(3, -1, -1).sub(self._mean).div_(self._std)


@registry.register_processor("blip2_image_train")
class Blip2ImageTrainProcessor(BlipImageProcessor):
    """A random part of the image, resized. No flip: it would swap left and right, which reports name.

    Draws from torch's global random generator. `min_image_side` is such that the smallest crop, of the area share `min_scale` and the
    aspect 3/4, still has twice the output's side.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        mean: Sequence[float] = IMAGE_MEAN,
        std: Sequence[float] = IMAGE_STD,
        min_scale: float = 0.5,
        max_scale: float = 1.0,
    ) -> None:
        """
        Args:
            image_size: side S of the result, pixels.
            mean: see `BlipImageProcessor`.
            std: see `BlipImageProcessor`.
            min_scale: smallest part of the image's area that is kept.
            max_scale: largest part.
        """
        _require_size(image_size)
        if not 0 < min_scale <= max_scale <= 1:
            raise ConfigError(f"0 < min_scale <= max_scale <= 1 was expected; got min_scale={min_scale}, max_scale={max_scale}.")
        super().__init__(geometry=RandomResizedCrop(image_size, scale=(min_scale, max_scale)), mean=mean, std=std)
        self.min_image_side = math.ceil(2 * image_size / math.sqrt(0.75 * min_scale))


@registry.register_processor("blip2_image_eval")
class Blip2ImageEvalProcessor(BlipImageProcessor):
    """The whole image, resized to a square; the aspect ratio is not kept, as in the original.

    `min_image_side` is twice the output's side: a resize by 2 or more hides how the image was scaled before it.
    """

    def __init__(self, *, image_size: int = 224, mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD) -> None:
        """
        Args:
            image_size: side S of the result, pixels.
            mean: see `BlipImageProcessor`.
            std: see `BlipImageProcessor`.
        """
        _require_size(image_size)
        super().__init__(geometry=functools.partial(resize, size=image_size), mean=mean, std=std)
        self.min_image_side = 2 * image_size


@registry.register_processor("blip_caption")
class BlipCaptionProcessor(BaseProcessor):
    """BLIP's caption: lower case, without `. ! " ( ) * # : ; ~`, at most `max_words` words, after a prompt.

    Reports lose their sentences by it; `report_text` keeps them.
    """

    def __init__(self, *, prompt: str = "", max_words: int = 50) -> None:
        """
        Args:
            prompt: put before the caption as it is.
            max_words: words kept, at least 1.
        """
        if max_words < 1:
            raise ConfigError(f"max_words of blip_caption must be at least 1, not {max_words}.")
        self.prompt = prompt
        self.max_words = max_words

    def __call__(self, item: str) -> str:
        """Return the prompt and the processed caption."""
        text = re.sub(r'[.!"()*#:;~]', " ", item.lower())
        text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
        return self.prompt + " ".join(text.split(" ")[: self.max_words])


@registry.register_processor("report_text")
class ReportTextProcessor(BaseProcessor):
    """A report as it was written, case and punctuation kept; runs of white space become one space."""

    def __init__(self, *, max_words: int = 0) -> None:
        """
        Args:
            max_words: words kept; 0 keeps all.
        """
        if max_words < 0:
            raise ConfigError(f"max_words of report_text must be 0 (all) or more, not {max_words}.")
        self.max_words = max_words

    def __call__(self, item: str) -> str:
        """Return the text on one line."""
        words = item.split()
        return " ".join(words[: self.max_words] if self.max_words else words)


def _require_size(image_size: int) -> None:
    if image_size < 1:
        raise ConfigError(f"image_size must be at least 1 pixel, not {image_size}.")
