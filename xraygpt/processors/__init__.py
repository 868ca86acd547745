"""Processors: what turns an image file into a tensor and a report into training text.

    base_processor    what every processor is
    blip_processors   image: blip2_image_train, blip2_image_eval; text: blip_caption, report_text
    image_io          open_image: the one place that opens an image file (PNG, JPEG; DICOM through dicom_io)
    input_gate        check_image: does an image look like an upright frontal chest film?
    image_container   what of a PNG or JPEG is pixels
    jpeg_*            jpeg_streams, jpeg_2000_streams: what compressed images say of themselves, checked before a decoder is called
    dicom_*           io: what is accepted; header: the elements that are read; pixels: decoding; display: stored values → grey

Importing this package registers them. `load_processor` builds one from its name and its part of the YAML.
"""

import inspect
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, get_origin, get_type_hints

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry, suggest
from xraygpt.processors.base_processor import BaseProcessor
from xraygpt.processors.blip_processors import (
    Blip2ImageEvalProcessor,
    Blip2ImageTrainProcessor,
    BlipCaptionProcessor,
    ReportTextProcessor,
)
from xraygpt.processors.image_io import open_image
from xraygpt.processors.input_gate import Concern, check_image, invert, refusal

__all__ = [
    "BaseProcessor",
    "Blip2ImageEvalProcessor",
    "Blip2ImageTrainProcessor",
    "BlipCaptionProcessor",
    "Concern",
    "ReportTextProcessor",
    "check_image",
    "invert",
    "load_processor",
    "open_image",
    "refusal",
]


def load_processor(name: str, cfg: Mapping[str, Any] | None = None) -> BaseProcessor:
    """Build the processor registered as `name`.

    Args:
        name: a registered name, such as "blip2_image_eval".
        cfg: its keyword arguments, as they stand in the YAML; a key `name` beside them is the name itself and is left out.

    Raises:
        RegistryError: no processor has this name.
        ConfigError: a key that the processor does not take, or a value of the wrong type; all of them in one message.
    """
    processor_class = registry.get_processor_class(name)
    arguments = {str(key): value for key, value in (cfg or {}).items() if key != "name"}
    if problems := _argument_problems(processor_class, arguments):
        raise ConfigError(f"The configuration of the processor {name!r} is not well-formed: {' '.join(problems)}")
    processor = processor_class(**arguments)
    defaults = {key: parameter.default for key, parameter in inspect.signature(processor_class).parameters.items()}
    processor.settings = {"name": name, **defaults, **arguments}
    return processor


def _argument_problems(processor_class: type, arguments: dict[str, Any]) -> list[str]:
    """One sentence for each argument that the constructor does not take or that has the wrong type."""
    parameters = set(inspect.signature(processor_class).parameters)
    types = get_type_hints(processor_class.__init__)  # type: ignore[misc]  # read only, nothing is called
    problems = []
    for key, value in arguments.items():
        if key not in parameters:
            problems.append(f"unknown key {key!r}.{suggest(key, parameters)}")
        elif key in types and not _fits(value, types[key]):
            problems.append(f"{key} must be {_readable(types[key])}, not {value!r}.")
    return problems


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a YAML value is of an annotated type. Types that YAML cannot write are for the constructor to judge."""
    if wanted is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted in (str, bool):
        return isinstance(value, wanted)
    if get_origin(wanted) is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(item, float) for item in value)
    return True


def _readable(wanted: Any) -> str:
    return "a list of numbers" if get_origin(wanted) is Sequence else f"of type {wanted.__name__}"
