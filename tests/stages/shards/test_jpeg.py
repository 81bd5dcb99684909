"""JPEGs' own headers, held against Pillow on files of several encoders' settings."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from stages.shards import jpeg


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"comment": "c" * 1000}, {"exif": b"Exif\0\0" + bytes(600)}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_shape_is_read_from_the_header(photographs, mode, options):
    stream = BytesIO()
    Image.fromarray(photographs[0]).convert(mode).save(stream, "JPEG", icc_profile=bytes(3000), **options)
    data = stream.getvalue()
    assert jpeg.shape(data) == jpeg.shape(memoryview(data)) == (128, 160)
    frame = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    assert jpeg.shape(data[:frame] + b"\xff\xff" + data[frame:]) == (128, 160)
    for end in (0, 1, 2, frame, frame + 9):
        assert jpeg.shape(data[:end]) == (0, 0)


def test_what_ffcv_cannot_decode_to_rgb_has_no_shape(photographs):
    stream = BytesIO()
    Image.fromarray(photographs[0]).convert("CMYK").save(stream, "JPEG")
    assert jpeg.shape(stream.getvalue()) == (0, 0)
    whole = bytearray(jpeg.encode(photographs[0], 90))
    frame = whole.index(b"\xff\xc0")
    for at, value in ((frame + 1, 0xC3), (frame + 4, 12), (frame + 9, 4), (frame + 5, 0), (frame + 1, 0xDA), (1, 0xD9)):
        damaged = bytearray(whole)
        damaged[at] = value
        if at == frame + 5:
            damaged[frame + 6] = 0
        assert jpeg.shape(damaged) == (0, 0)


def test_segments_of_no_length_end(photographs):
    assert jpeg.shape(b"\xff\xd8" + b"\xff\xe0\0\0" * 1000) == (0, 0)


def test_better_quality_is_larger_and_closer(photographs):
    encoded = {quality: jpeg.encode(photographs[0], quality) for quality in (1, 50, 90, 100)}
    sizes = [len(data) for data in encoded.values()]
    far = [np.abs(np.asarray(Image.open(BytesIO(data)), int) - photographs[0]).mean() for data in encoded.values()]
    assert sizes == sorted(sizes) and far == sorted(far, reverse=True) and far[-1] < 2
    with Image.open(BytesIO(encoded[90])) as image:
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]
    for quality in (0, 101):
        with pytest.raises(ValueError, match=f"from 1 to 100, found {quality}"):
            jpeg.encode(photographs[0], quality)
