import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from natural_images.classification.images import BadImage, decode, open_images
from natural_images.classification.loader_speed import photographs, write_jpegs
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError


@pytest.fixture(scope="module")
def cat():
    return Image.fromarray(dict(photographs())["chelsea"])


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(image: Image.Image, expected: Image.Image) -> float:
    assert image.mode == "RGB"
    assert image.size == expected.size
    return np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean()


def test_jpeg_is_what_convert_gives(cat):
    data = encoded(cat, "JPEG", quality=90)
    assert difference(decode(data), Image.open(io.BytesIO(data)).convert("RGB")) == 0


@pytest.mark.parametrize("mode", ["L", "LA", "1", "RGBA", "P"])
def test_png_modes_become_rgb(cat, mode):
    image = cat.convert(mode)
    assert difference(decode(encoded(image, "PNG")), image.convert("RGB")) == 0


def test_cmyk_jpeg_is_not_inverted(cat):
    # Lossy, and through four inks: close is enough to tell it from its negative.
    assert difference(decode(encoded(cat.convert("CMYK"), "JPEG", quality=95)), cat) < 6


def test_palette_with_transparency_keeps_the_colours_below(cat, recwarn):
    image = cat.quantize(64)
    data = encoded(image, "PNG", transparency=bytes(range(64)))
    assert difference(decode(data), image.convert("RGB")) == 0
    assert not recwarn.list


def test_alpha_is_dropped_and_not_blended(cat):
    image = cat.copy()
    image.putalpha(0)
    assert difference(decode(encoded(image, "PNG")), cat) == 0


@pytest.mark.parametrize("scale", [257, 256])
def test_sixteen_bit_grey_keeps_its_upper_eight_bits(cat, scale):
    grey = np.asarray(cat.convert("L"))
    image = Image.fromarray(grey.astype(np.uint16) * scale)
    assert image.mode.startswith("I;16")
    assert difference(decode(encoded(image, "PNG")), Image.fromarray(grey).convert("RGB")) == 0
    assert difference(decode(encoded(image, "TIFF")), Image.fromarray(grey).convert("RGB")) == 0


def test_exif_orientation_is_not_applied(cat):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(cat, "JPEG", exif=exif.tobytes())).size == cat.size


def test_profile_is_not_applied(cat):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain = decode(encoded(cat, "JPEG"))
    assert difference(decode(encoded(cat, "JPEG", icc_profile=profile)), plain) == 0


def test_bad_images_say_why(cat):
    jpeg, png = encoded(cat, "JPEG"), encoded(cat, "PNG")
    for data, reason in [
        (b"", "empty"),
        (bytes(1000), "zeros"),
        (b"<html>Not found</html>", "not an image"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (png[: len(png) // 2], "truncated"),
        (jpeg[:100], "."),
    ]:
        with pytest.raises(BadImage, match=reason) as caught:
            decode(data)
        assert "0x" not in caught.value.reason
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    with pytest.raises(BadImage):
        decode(bytes(flipped))


def test_bad_image_crosses_processes():
    import pickle

    assert pickle.loads(pickle.dumps(BadImage("truncated"))).reason == "truncated"


def test_wrong_number_of_classes_names_path_expected_and_got(tmp_path):
    write_jpegs(tmp_path / "train", copies=1, side_px=40)
    with pytest.raises(NaturalImagesDataError, match=r"expected 1000 classes.*got 5") as caught:
        open_images(tmp_path, classes=1000)
    assert str(tmp_path) in str(caught.value)
    assert len(open_images(tmp_path, classes=5).classes) == 5


def test_nothing_there_says_what_is_known(tmp_path):
    with pytest.raises(NaturalImagesDataError, match=r"got nothing.*WebDataset"):
        open_images(tmp_path / "absent")
    with pytest.raises(NaturalImagesDataError, match="an empty folder"):
        open_images(tmp_path)
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(NaturalImagesDataError, match=r"got \['notes.txt'\]"):
        open_images(tmp_path)
    with pytest.raises(NaturalImagesDataError, match="got a file"):
        open_images(tmp_path / "notes.txt")


def test_unknown_split(tmp_path):
    with pytest.raises(NaturalImagesValueError, match="'train' or 'val'"):
        open_images(tmp_path, split="test")
