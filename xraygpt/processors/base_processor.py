"""What every image and text processor is."""

from typing import Any

from xraygpt.common.registry import registry


class BaseProcessor:
    """Turns one raw input (an image, a text) into what the model eats.

    A subclass takes keyword-only arguments; the YAML's keys are passed to it as they are, so its signature is its schema.

    Attributes:
        min_image_side: of an image processor: the shorter side, in pixels, below which what it makes of an image would change. Larger
            images may be handed to it scaled down to this; None, the default, asks for all their pixels.
        settings: its registered name and all its arguments, where `load_processor` built it.
    """

    min_image_side: int | None = None
    settings: dict[str, Any] | None = None

    def __call__(self, item: Any) -> Any:
        """Process one item."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to process an item.")


registry.declare_base("processor", BaseProcessor)
