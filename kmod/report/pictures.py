"""Images of the data as small PNG files inside of a page."""

import base64
import struct
import zlib

import numpy as np

from kmod.analysis.explanation import colours_of

MOST_PIXELS = 96  # Of a side.
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # By number of channels.


def picture_source(
    image: np.ndarray,
    value_range: tuple[float, float],
    most_pixels: int = MOST_PIXELS,
) -> str:
    """Returns an image as a data URI, made smaller if it is large.

    Args:
        image: Array `(height, width, channels)`; of other than 1, 3 or 4
            channels the first is shown.
        value_range: Smallest and largest value of a pixel.
        most_pixels: Integer, how long a side may be.
    """
    low, high = value_range
    small = _small(image.astype("float32"), most_pixels)
    pixels = (small - low) / (high - low)
    if pixels.shape[2] not in _COLOUR_TYPES:
        pixels = pixels[..., :1]
    return _data_uri(np.rint(255 * np.clip(pixels, 0, 1)).astype("uint8"))


def map_source(values: np.ndarray, largest: float) -> str:
    """Returns a map as the data URI of an image that can be seen through.

    Args:
        values: Float array `(height, width)`; see `colours_of`.
        largest: Positive number, what is densest.
    """
    return _data_uri(np.rint(colours_of(values, largest)).astype("uint8"))


def _data_uri(pixels):
    content = base64.b64encode(to_png(pixels)).decode()
    return f"data:image/png;base64,{content}"


def _small(image, most_pixels):
    """Averages blocks of pixels, so that no side is too long."""
    step = -(-max(image.shape[:2]) // most_pixels)
    if step == 1:
        return image
    height, width = (max(size // step, 1) for size in image.shape[:2])
    if min(image.shape[:2]) < step:
        return image[::step, ::step]
    cut = image[: height * step, : width * step]
    return cut.reshape(height, step, width, step, -1).mean(axis=(1, 3))


def to_png(pixels: np.ndarray) -> bytes:
    """Returns the content of a PNG file.

    Args:
        pixels: uint8 array `(height, width, channels)` of 1, 3 or 4 channels.

    Reference:

    - [PNG specification](https://www.w3.org/TR/png-3/), sections 5 and 11.
    """
    height, width, channels = pixels.shape
    header = struct.pack(
        ">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0
    )
    no_filter = np.zeros((height, 1), "uint8")
    rows = np.concatenate([no_filter, pixels.reshape(height, -1)], axis=1)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content)
        for kind, content in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def _chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum
