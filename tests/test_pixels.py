"""Pixels become floats and come back, with the same bits on every way."""

import numpy as np
import pytest
import torch

from airpipe.pixels import as_floats, channels_first, in_floats, quantised, to_tensor


def test_quantising_rounds_half_to_even_and_clips():
    values = np.array([-1, 0, 0.5 / 255, 1.5 / 255, 0.5, 1, 2], np.float32)
    assert quantised(values).tolist() == [0, 0, 0, 2, 128, 255, 255]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_all_ways_from_pixels_to_floats_give_the_same_bits(kind):
    top = np.iinfo(kind).max
    values = np.linspace(0, top, 3 * 256, dtype=np.float64).round().astype(kind).reshape(16, 16, 3)
    floats = as_floats(values)
    assert floats.dtype == np.float32
    assert (floats.min(), floats.max()) == (0, 1)
    np.testing.assert_array_equal(floats, (values / np.float64(top)).astype(np.float32))
    np.testing.assert_array_equal(to_tensor(values).permute(1, 2, 0).numpy(), floats)
    if kind is np.uint8:
        np.testing.assert_array_equal(in_floats(channels_first(values[None]))[0].permute(1, 2, 0).numpy(), floats)
        np.testing.assert_array_equal(quantised(floats), values)


def test_floats_stay_as_they_are_and_other_types_are_refused():
    floats = np.array([[-0.5, 1.5]], np.float32)
    assert as_floats(floats) is floats
    tensor = torch.tensor([3, 4])
    assert in_floats(tensor) is tensor
    with pytest.raises(ValueError, match="pixels are of type int64; expected uint8 or uint16"):
        as_floats(np.array([3, 4]))


def test_a_stack_becomes_a_tensor_where_it_lies_in_channels_last_also_in_floats():
    stack = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    tensor = channels_first(stack)
    assert tensor.shape == (2, 3, 5, 7) and tensor.data_ptr() == stack.ctypes.data
    np.testing.assert_array_equal(tensor.numpy(), stack.transpose(0, 3, 1, 2))
    for one in (tensor, in_floats(tensor), channels_first(stack[:, ::-1, :, :])):
        assert one.is_contiguous(memory_format=torch.channels_last)
