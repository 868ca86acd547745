"""The image in a data URI → a Pillow image, in memory alone. No address is ever fetched."""

import base64
import binascii
from io import BytesIO

from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.processors import open_image
from xraygpt.serving.api_limits import invalid


def open_data_uri(uri: str, *, param: str, max_pixels: int) -> Image.Image:
    """Decode `data:image/png;base64,…`, with the bytes of a PNG, JPEG or DICOM file; what they are is read from the bytes.

    Args:
        param: which part of the request this is, for errors.
        max_pixels: checked before decoding.

    Raises:
        ApiError: it is another kind of address, no base64, or no image that can be used.
    """
    head, comma, data = uri.partition(",")
    if head[:5].lower() != "data:":
        message = "Only images in the request itself are read, as data:image/png;base64,…: this server fetches no addresses."
        raise invalid(message, param=param, code="invalid_image_url")
    if not (comma and head.lower().endswith(";base64")):
        raise invalid("The data URI must be in base64: data:image/png;base64,…", param=param, code="invalid_image_url")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("The data URI is damaged: what follows the comma is not base64.", param=param, code="invalid_image_url") from None
    try:
        stream = BytesIO(content)
        stream.name = param  # what errors call it
        return open_image(stream, max_pixels=max_pixels)
    except DataError as error:
        raise invalid(str(error), param=param, code="invalid_image") from None
