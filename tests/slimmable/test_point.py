"""Operating points and their names."""

import pytest

from mutualnet_det.slimmable import OperatingPoint


def test_is_a_named_tuple():
    width, resolution = OperatingPoint(0.5, 360)
    assert (width, resolution) == (0.5, 360)
    assert OperatingPoint(0.5, 360) == (0.5, 360)
    assert sorted([OperatingPoint(1.0, 64), OperatingPoint(0.5, 96)])[0].width == 0.5


@pytest.mark.parametrize(
    ("width", "name"),
    [(0.5, "0.50x360"), (1, "1.00x360"), (1.6, "1.60x360"), (0.125, "0.125x360")],
)
def test_name(width, name):
    assert str(OperatingPoint(width, 360)) == name


@pytest.mark.parametrize("width", [0.25, 1 / 3, 0.1 + 0.2, 1.0, 1.6, 0.8749])
def test_name_reads_back_to_the_same_point(width):
    parsed = OperatingPoint.parse(str(OperatingPoint(width, 224)))
    assert parsed == OperatingPoint(width, 224)
    assert isinstance(parsed.width, float)
    assert isinstance(parsed.resolution, int)


@pytest.mark.parametrize("text", ["0.5x360", "0.50x360", ".5x360", " 0.5x360\n"])
def test_parse_accepts(text):
    assert OperatingPoint.parse(text) == OperatingPoint(0.5, 360)


@pytest.mark.parametrize(
    "text", ["", "0.5", "x360", "0.5x", "0.5x36.5", "-0.5x360", "0.5*360", "0.5x360px", "nanx360"]
)
def test_parse_names_what_it_cannot_read(text):
    with pytest.raises(ValueError, match="WIDTHxRESOLUTION") as error:
        OperatingPoint.parse(text)
    assert repr(text) in str(error.value)
