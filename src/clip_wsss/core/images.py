"""Images on disk or in memory: RGB in, label masks with the VOC palette and grey maps in and out.

Files are written under another name and then moved into place, so that none is ever half there;
the same array gives the same bytes.
"""

import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import check_file, read_bytes, write_bytes
from clip_wsss.core.memory import TooLargeError, check_memory

Colour = tuple[int, int, int]
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
COLOURS = ("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
DARK = 32  # of 255: below it lies what 12-bit data in 16 bits become
EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # where a PNG may have it
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # their first bytes
MODES = ("1", "L", "LA", "P", "PA", *COLOURS, *GREY16)  # what becomes 8-bit RGB
ORIENTATION, BITS, PHOTOMETRIC = ExifTags.Base.Orientation, 258, 262  # tags of EXIF and TIFF
BIT_DEPTH = "bits of a stored value"  # key of Image.info
SMALLER = "scale it down (with its mask), or leave it out"
START, END, ZEROS = b"\xff\xd8", b"\xff\xd9", 512  # of a JPEG; zeros that are no padding
WHITE = {"L": 255, "I;16": 65535}  # in the two modes of a grey PNG


@cache
def voc_palette() -> np.ndarray:
    """The colours of VOC's masks, (256, 3) uint8.

    The bits of a label, three at a time from the lowest, are the bits of red, green and blue
    from the highest: 1 is (128, 0, 0), 255 is (224, 224, 192).
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


@contextmanager
def open_image(path: str | os.PathLike, stored: bool = False) -> Iterator[Image.Image]:
    """Open an image of one picture whose pixels lie as they are shown; only its header is read.

    Args:
        path: a JPEG, PNG, BMP, WebP, TIFF or GIF, whatever it is called.
        stored: take the pixels as stored where an EXIF orientation says otherwise.

    Raises:
        InputError: it is missing, no such image, has several pictures, an EXIF orientation or a
            mode without a conversion to RGB (docs/datasets.md has the table).
    """
    check_file(path, "no such image; add it or take it out of the list")
    try:
        # Named formats only: others run programs (EPS) or read far more than pictures.
        with Image.open(path, formats=FORMATS) as image:
            _check_picture(image, str(path), stored)
            if reason := _unusable(image):
                raise InputError(f"{path}: {reason}; save it as 8-bit RGB or grey")
            yield image
    except InputError:
        raise
    except MemoryError:
        raise TooLargeError(f"{path}: does not fit into memory; {SMALLER}") from None
    except UnidentifiedImageError:
        with open(path, "rb") as file:
            if file.read(4) in TIFFS:
                raise InputError(
                    f"{path}: a TIFF of a kind that has no conversion to RGB here (floating point, "
                    "other bands than red, green, blue, ...); save it as 8-bit RGB or grey"
                ) from None
        known = "JPEG, PNG, BMP, WebP, TIFF, GIF"
        raise InputError(
            f"{path}: not an image of a known format ({known}); replace it or take it out of the "
            "list"
        ) from None
    except Exception as error:  # Pillow raises whatever its parsers stumble over
        raise InputError(
            f"{path}: not a whole image ({_reason(error)}); replace it or take it out of the list"
        ) from None


def read_rgb(path: str | os.PathLike, stored: bool = False) -> np.ndarray:
    """Read an image whole, (H, W, 3) uint8 RGB; transparency lies on white.

    Raises:
        InputError: it is truncated, or as for `open_image`.
    """
    with open_image(path, stored) as image:
        pixels = image.width * image.height
        check_memory(16 * pixels, f"{path}: an image of {image.width} x {image.height}", SMALLER)
        deep = _deep(image)
        image.load()
        if image.format == "JPEG":
            with open(path, "rb") as file:
                _check_end(file, path)
        if image.format == "PNG":  # whose EXIF may lie behind the pixels
            _check_orientation(image, str(path), stored)
        return _bright_rgb(image, str(path), deep)


def jpeg_damage(path: str | os.PathLike) -> str | None:
    """What libjpeg says of a JPEG's data, which it decodes all the same; None: nothing.

    It says so on the process's standard error, which is read here; so not for use beside threads.

    Raises:
        InputError: the file cannot be read, is truncated or ends in zeros.
    """
    data = read_bytes(path, "no such image")
    if not data.startswith(START):
        return None
    _check_end(io.BytesIO(data), path)
    import cv2

    try:
        own = os.dup(2)
    except OSError:  # there is none
        return None
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        except cv2.error:  # too large for it
            return None
        finally:
            os.dup2(own, 2)
            os.close(own)
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    if small is None:  # cut off, or of a kind that OpenCV does not know
        with open_image(path, True) as image:
            image.load()
    return next((line for line in lines if "JPEG" in line), None)


def _check_end(file: BinaryIO, path: str | os.PathLike) -> None:
    """Refuse a JPEG that ends in zeros, which a decoder takes for pixels."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - ZEROS))
    if file.read() != bytes(ZEROS):
        return
    file.seek(0)
    if not file.read().rstrip(b"\0").endswith(END):  # some cameras fill up behind it
        raise InputError(f"{path}: ends in zeros, as after a power cut; replace the file")


def as_rgb(image: Image.Image, where: str, stored: bool = False) -> np.ndarray:
    """A picture in memory, (H, W, 3) uint8 RGB; transparency lies on white.

    Raises:
        InputError: an EXIF orientation (unless `stored`), or a mode without a conversion to RGB;
            `where` names it.
    """
    _check_orientation(image, where, stored)
    if reason := _unusable(image):
        raise InputError(f"{where}: {reason}; convert it to 8-bit RGB or grey")
    return _bright_rgb(image, where, image.mode in GREY16)


def image_size(path: str | os.PathLike, stored: bool = False) -> tuple[int, int]:
    """Height and width of an image. Raises InputError as `open_image`.

    One of 16 bits is read whole, since no header says whether it uses their range.
    """
    with open_image(path, stored) as image:
        size, deep = (image.height, image.width), _deep(image)
    return read_rgb(path, stored).shape[:2] if deep else size


def _check_picture(image: Image.Image, path: str, stored: bool) -> None:
    if image.format != "PNG" or EXIF & image.info.keys():  # else Pillow would decode it to look
        _check_orientation(image, path, stored)
    # An MPO is a camera's JPEG with a preview behind the picture.
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise InputError(
            f"{path}: holds {frames} pictures ({image.format}); save the one that is meant as a "
            "file of its own"
        )


def _check_orientation(image: Image.Image, path: str, stored: bool) -> None:
    if stored and image.format != "TIFF":  # Pillow turns those by itself
        return
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged block says nothing, and the pixels may be whole
        return
    if orientation in range(2, 9):
        raise InputError(
            f"{path}: EXIF orientation {orientation}, so viewers turn what is stored; rotate the "
            "pixels and remove the tag (for example `mogrify -auto-orient`), or set "
            "dataset.orientation to stored if masks and XML fit the pixels as stored (in "
            "`clip-wsss masks` and `segment`: orientation turned or stored)"
        )


def _unusable(image: Image.Image) -> str | None:
    """Why an image has no defined conversion to 8-bit RGB; None where it has one."""
    mode, tags = image.mode, getattr(image, "tag_v2", {})
    if mode == "F":
        return "floating point, whose white is not defined"
    if mode == "I":
        return "32-bit or signed grey, whose white is not defined"
    if mode in GREY16 and (tags.get(BITS, (16,)) != (16,) or tags.get(PHOTOMETRIC, 1) != 1):
        return "grey whose white is not 65535"
    if mode in GREY16 and image.has_transparency_data:
        return "16-bit grey with a transparent value"
    return None if mode in MODES else f"mode {mode} has no conversion to RGB here"


def _deep(image: Image.Image) -> bool:
    """Whether a file that is open, but not read, has 16 bits a value."""
    tiles: Any = getattr(image, "tile", ())
    arguments = tiles[0].args if tiles else ""
    return ";16" in str(arguments if isinstance(arguments, str) else arguments[0])


def _bright_rgb(image: Image.Image, where: str, deep: bool) -> np.ndarray:
    if image.has_transparency_data:
        extrema: Any = image.convert("RGBA").getextrema()
        if extrema[3][1] == 0:
            raise InputError(
                f"{where}: is transparent all over, which hides its colours; remove the alpha "
                "channel, or replace it"
            )
    rgb = _rgb(image)
    if deep and rgb.max() < DARK:
        raise InputError(
            f"{where}: has 16 bits a value, but none above 1/8 of white, as data of 12 bits have "
            "that were not scaled; scale them to 65535, or save 8 bits"
        )
    if rgb.max() == 1 and image.mode != "1":
        raise InputError(
            f"{where}: holds 0 and 1 only of 255, as numbers from 0 to 1 do when they are saved as "
            "bytes; multiply them by 255 before"
        )
    return rgb


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode in GREY16:
        grey = np.asarray(image).astype(np.uint32)
        grey = ((grey * 2 + 257) // 514).astype(np.uint8)  # 65535 is white: / 257, rounded
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        extrema: Any = rgba.getextrema()  # (least, greatest) of each band
        if extrema[3][0] < 255:
            white = Image.new("RGBA", image.size, "white")
            return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
        image = rgba
    return np.asarray(image.convert("RGB"))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # it is not raised where there is none
        return f"its header says more than {most / 1e6:.0f} million pixels"
    if isinstance(error, UnidentifiedImageError):  # whose text names the buffer
        return "no image format that is known"
    return one_line(error)


def write_label(path: str | os.PathLike, label: np.ndarray) -> None:
    """Write a label mask, (H, W) uint8, as a PNG with the VOC palette."""
    write_bytes(path, encode_label(label))


def encode_label(label: np.ndarray) -> bytes:
    """A label mask, (H, W) uint8, as the bytes of a PNG with the VOC palette."""
    image = Image.fromarray(np.ascontiguousarray(label, dtype=np.uint8))
    image.putpalette(voc_palette().tobytes())
    return _png(image)


def encode_grey(values: np.ndarray) -> bytes:
    """A map, (H, W) uint8, as the bytes of a grey PNG."""
    return _png(Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8)))


def read_label(path: str | os.PathLike, colours: Mapping[Colour, int] | None = None) -> np.ndarray:
    """Read a label mask, (H, W) uint8: the indices of a palette PNG, or the values of a grey one.

    Args:
        path: a PNG.
        colours: colour -> value. With it a palette must not give an index the colour of another
            value, and an RGB PNG is read by its colours.

    Raises:
        InputError: it is missing, truncated, no PNG, or of other colours.
    """
    image = _picture(path, "mask")
    if colours is not None and image.mode in ("RGB", "RGBA"):
        return _by_colour(image, str(path), colours)
    label = _label(image, str(path))
    if colours is not None and image.mode == "P":
        _check_palette(image, label, str(path), colours)
    return label


def palette_of(path: str | os.PathLike) -> list[Colour]:
    """The colours of a palette PNG by index; none of any other file, or of one that is missing."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            values = image.getpalette() if image.mode == "P" else None
    except Exception:  # whoever reads the mask says what is wrong with it
        return []
    return [*zip(*[iter(values or ())] * 3, strict=True)]


def class_colours(path: str | os.PathLike, values: Iterable[int]) -> dict[int, Colour]:
    """The colours that the palette of a mask gives the classes among its values, greys left out."""
    palette = palette_of(path)
    found = {value: palette[value] for value in values if 0 < value < min(255, len(palette))}
    return {value: colour for value, colour in found.items() if len(set(colour)) > 1}


def contradiction(masks: Iterable[tuple[str, Mapping[int, Colour]]]) -> str | None:
    """What is wrong with masks of which the palettes give one colour to several classes.

    Args:
        masks: name, and `class_colours` of it. Who gives one colour twice is not looked at.
    """
    known: dict[Colour, tuple[int, str]] = {}
    for name, own in masks:
        for value, colour in own.items() if len(set(own.values())) == len(own) else ():
            first, where = known.setdefault(colour, (value, name))
            if first != value:
                return (
                    f"contradict each other: the colour {colour} is {first} in {where} and {value} "
                    f"in {name}; save all with one palette"
                )
    return None


def decode_label(data: bytes, where: str) -> np.ndarray:
    """Take a label mask from the bytes of a palette or grey PNG; else like `read_label`.

    Raises:
        InputError: they are truncated, no image, or a colour image; `where` names them.
    """
    return _label(_decode(data, where, "mask"), where)


def _label(image: Image.Image, where: str) -> np.ndarray:
    if image.mode not in ("P", "L"):
        raise InputError(
            f"{where}: a mask must be a palette or an 8-bit grey PNG, not {image.mode}; "
            "store the class of each pixel"
        )
    if image.mode == "L" and image.info[BIT_DEPTH] != 8:  # Pillow spreads 2 and 4 bits over 0..255
        raise InputError(
            f"{where}: a grey PNG of {image.info[BIT_DEPTH]} bits; save the mask with 8"
        )
    return np.array(image)


def _check_palette(
    image: Image.Image, label: np.ndarray, path: str, colours: Mapping[Colour, int]
) -> None:
    palette = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
    used = np.flatnonzero(np.bincount(label.ravel(), minlength=len(palette))[: len(palette)])
    if (palette[used] == used[:, None]).all():
        return  # a grey ramp says nothing
    for value in used.tolist():
        colour = tuple(palette[value].tolist())
        if colours.get(colour, value) != value:
            raise InputError(
                f"{path}: its palette gives {value} the colour {colour}, which is that of "
                f"{colours[colour]} in the vocabulary; correct the palette or the values, or save "
                "the mask as a grey PNG"
            )
    shown = {tuple(colour) for colour in palette[used].tolist()}
    greys = {colour[0] for colour in shown}
    if (
        all(colour == (colour[0],) * 3 for colour in shown)
        and not shown <= set(colours)
        and greys <= set(colours.values())
        and greys - {0, 255}  # black and white may well be 0 and 1
    ):
        raise InputError(
            f"{path}: its palette holds the greys {', '.join(map(str, sorted(greys)))}, values of "
            f"the vocabulary, at {', '.join(map(str, used))}, as optimisers store a grey mask; "
            "save it as a grey PNG"
        )


def _by_colour(image: Image.Image, path: str, colours: Mapping[Colour, int]) -> np.ndarray:
    pixels = np.asarray(image).astype(np.uint32)
    if pixels.shape[2] == 4 and (pixels[..., 3] != 255).any():
        raise InputError(f"{path}: a mask with transparency; store the class of each pixel")
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    found, place = np.unique(packed, return_inverse=True)
    values = []
    for number in found.tolist():
        colour = (number >> 16, number >> 8 & 255, number & 255)
        if colour not in colours:
            raise InputError(
                f"{path}: holds the colour {colour}, which no class of the vocabulary has; correct "
                "the mask, or list the colours in the vocabulary under `colours`"
            )
        values.append(colours[colour])
    return np.array(values, dtype=np.uint8)[place].reshape(packed.shape)


def read_fraction(path: str | os.PathLike) -> np.ndarray:
    """Read a grey PNG of 8 or 16 bits as shares of white: (H, W) float32 in [0, 1].

    Raises:
        InputError: it is missing, truncated, no PNG, or of another kind.
    """
    image = _picture(path, "confidence map")
    if image.mode not in WHITE:
        raise InputError(
            f"{path}: a confidence map must be a grey PNG of 8 or 16 bits, not {image.mode}; "
            "store a confidence of 1 as white"
        )
    return (np.asarray(image) / np.float64(WHITE[image.mode])).astype(np.float32)


@contextmanager
def open_numbers(path: str | os.PathLike, missing: str) -> Iterator[Image.Image]:
    """Open a PNG of numbers: palette indices, or grey of 8 or 16 bits; only its header is read.

    Args:
        path: a PNG.
        missing: what the error says after the path if nothing is there.

    Raises:
        InputError: it is missing, truncated, no PNG or animated, has an EXIF orientation, or other
            pixels.
    """
    check_file(path, missing)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format != "PNG":
                raise InputError(f"{path}: a {image.format}; it must be a PNG; save it as one")
            _check_picture(image, str(path), stored=False)
            raw = image.tile[0].args
            if image.mode not in ("P", *WHITE) or raw in ("L;2", "L;4"):
                raise InputError(
                    f"{path}: must be a palette PNG, or grey with 8 or 16 bits; got "
                    f"{raw if raw in ('L;2', 'L;4') else image.mode}; store a number a pixel"
                )
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow raises whatever its parsers stumble over
        raise InputError(f"{path}: not a whole PNG ({_reason(error)}); replace the file") from None


def _picture(path: str | os.PathLike, what: str) -> Image.Image:
    """A mask or a confidence map: a PNG of one picture, whose pixels lie as they are shown."""
    image = _decode(read_bytes(path, f"no such {what}; add it"), str(path), what)
    if image.format != "PNG":
        raise InputError(
            f"{path}: a {image.format}; a {what} must be a PNG, since others lose values or mix "
            "them; save it as a palette or 8-bit grey PNG"
        )
    _check_picture(image, str(path), stored=False)
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _decode(data: bytes, where: str, what: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        bits = getattr(image.tile[0], "args", None) if image.tile else None
        image.load()
    except Exception as error:  # Pillow raises whatever its parsers stumble over
        raise InputError(
            f"{where}: not a whole {what} ({_reason(error)}); replace the file"
        ) from None
    raw = bits if isinstance(bits, str) else ""
    image.info[BIT_DEPTH] = int(raw[2:]) if raw in ("L;2", "L;4") else 8
    return image
