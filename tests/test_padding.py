import pytest
import torch

from airpipe.models.padding import pad_to_multiple

IMAGE = torch.arange(1.0, 7.0).reshape(1, 1, 2, 3)
PADDED = {
    "reflect": [[1, 2, 3, 2], [4, 5, 6, 5], [4, 5, 6, 5], [4, 5, 6, 5]],  # two rows cannot reflect two more
    "zero": [[1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
}


@pytest.mark.parametrize("pad", PADDED)
def test_images_are_filled_up_at_right_and_bottom(pad):
    assert pad_to_multiple(IMAGE, 4, pad)[0, 0].tolist() == PADDED[pad]


@pytest.mark.parametrize("pad", ["reflect", "zero", "none"])
def test_an_image_that_fits_is_not_copied(pad):
    image = torch.zeros(2, 3, 8, 4)
    assert pad_to_multiple(image, 4, pad) is image


def test_without_padding_other_sizes_are_an_error_that_names_both():
    with pytest.raises(ValueError, match="image is 3x2; both must be multiples of 2: pad it first"):
        pad_to_multiple(IMAGE, 2, "none")
