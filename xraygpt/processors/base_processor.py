"""What every image and text processor is."""

from typing import Any

from xraygpt.common.registry import registry


class BaseProcessor:
    """Turns one raw input (an image, a text) into what the model eats.

    A subclass takes keyword-only arguments; the YAML's keys are passed to it as they are, so its signature is its schema.
    """

    def __call__(self, item: Any) -> Any:
        """Process one item."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to process an item.")


registry.declare_base("processor", BaseProcessor)
