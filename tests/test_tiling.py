import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from airpipe.errors import AirpipeError
from airpipe.evaluation.ensemble import SelfEnsemble
from airpipe.evaluation.grid import blend_weights, fitting_tile, lay_tiles, plan_tiles
from airpipe.evaluation.memory import COPIES, activation_bytes
from airpipe.evaluation.tiling import restore_pixels, restore_tiled
from airpipe.models.nafnet import NAFNet
from airpipe.models.padding import pad_to_multiple

SIDES = st.integers(1, 700)
TILES = st.integers(0, 200)
OVERLAPS = st.integers(0, 60)
MULTIPLES = st.sampled_from([1, 2, 8, 16])


class Spy(nn.Module):
    """Returns its input, remembers the shapes, refuses sizes that a network would refuse."""

    def __init__(self, multiple=1):
        super().__init__()
        self.size_multiple = multiple
        self.shapes = []

    def forward(self, image):
        assert image.shape[2] % self.size_multiple == 0
        assert image.shape[3] % self.size_multiple == 0
        self.shapes.append(tuple(image.shape))
        return image.clone()


def small_nafnet():
    torch.manual_seed(0)
    network = NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.constant_(parameter, 0.2)  # fresh blocks would be the identity
    return network


def feasible(tile, overlap, multiple):
    return tile == 0 or -(-tile // multiple) > -(-overlap // multiple)


@given(SIDES, SIDES, TILES, OVERLAPS, MULTIPLES)
@settings(max_examples=150, deadline=None)
def test_equal_tiles_cover_every_pixel(height, width, tile, overlap, multiple):
    assume(feasible(tile, overlap, multiple) and (tile == 0 or tile - overlap > 5))
    tiles = plan_tiles(height, width, tile, overlap, multiple)
    assert len({(t.height, t.width) for t in tiles}) == 1
    assert tiles[0].height % multiple == tiles[0].width % multiple == 0
    assert tile == 0 or max(tiles[0].height, tiles[0].width) <= -(-tile // multiple) * multiple
    covered = torch.zeros(height, width, dtype=torch.bool)
    for t in tiles:
        assert t.top >= 0 and t.left >= 0  # noqa: PT018
        covered[t.top : t.top + t.height, t.left : t.left + t.width] = True
    assert covered.all()


def on_axis(starts, size, length):
    """Weights of all tiles on the whole axis, (tiles, length)."""
    weights = torch.zeros(len(starts), length)
    for row, start, weight in zip(weights, starts, blend_weights(starts, size, length), strict=True):
        row[start : start + size] = weight
    return weights


@pytest.mark.parametrize("length", [2_000, 2_000_000])
def test_weights_take_memory_by_the_pixels_of_the_tiles_and_not_by_tiles_times_length(length):
    tiles = plan_tiles(1, length, 512, 32, 8)
    weights = blend_weights([tile.left for tile in tiles], tiles[0].width, length)
    assert length <= sum(weight.numel() for weight in weights) <= 1.2 * length
    assert all(weight.untyped_storage().nbytes() == 4 * weight.numel() for weight in weights)


@given(SIDES, TILES, OVERLAPS, MULTIPLES)
@settings(max_examples=150, deadline=None)
def test_neighbours_share_the_overlap_evenly_and_weights_sum_to_one(length, tile, overlap, multiple):
    assume(feasible(tile, overlap, multiple) and (tile == 0 or tile - overlap > 5))
    tiles = plan_tiles(length, 1, tile, overlap, multiple)
    starts, size = [t.top for t in tiles], tiles[0].height
    shared = [first + size - second for first, second in zip(starts, starts[1:], strict=False)]
    assert all(pixels >= overlap for pixels in shared)
    assert not shared or max(shared) - min(shared) <= multiple
    assert all(start % multiple == 0 for start in starts)
    assert len(tiles) == 1 or 0 <= starts[-1] + size - length < multiple  # as much is padded as for the whole image
    weights = on_axis(starts, size, length)
    assert weights.min() >= 0
    assert (weights.sum(0) - 1).abs().max() < 1e-6


@given(st.integers(1, 150), st.integers(1, 150), st.integers(49, 90), st.integers(0, 32), MULTIPLES)
@settings(max_examples=60, deadline=None)
def test_identity_network_returns_the_image(height, width, tile, overlap, multiple):
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))
    restored = restore_tiled(Spy(multiple), image, tile=tile, overlap=overlap, batch_size=2)
    assert restored.dtype == torch.float32
    assert (restored - image).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("height", "width", "tile", "count", "share"),
    [(1080, 1920, 720, 6, 1.08), (1080, 1920, 512, 12, 1.12), (1356, 2040, 512, 18, 1.15)],
)
def test_few_pixels_are_computed_twice(height, width, tile, count, share):
    tiles = plan_tiles(height, width, tile, 32, 8)
    assert len(tiles) <= count
    assert len(tiles) * tiles[0].height * tiles[0].width <= share * height * width


def test_more_tiles_are_used_where_rounding_makes_them_cheaper():
    tiles = plan_tiles(1000, 64, 448, 0, 64)  # three of 384 would be 1152 rows
    assert (len(tiles), tiles[0].height) == (4, 256)


def test_weights_ramp_linearly_over_the_middle_half_of_what_two_tiles_share():
    first, second = on_axis([0, 12], 20, 32)
    assert first.tolist() == pytest.approx([1] * 14 + [0.875, 0.625, 0.375, 0.125] + [0] * 14)
    assert second.tolist() == pytest.approx(first.tolist()[::-1])


@pytest.mark.parametrize("arguments", [(0, 5, 8, 2, 1), (5, 5, -1, 2, 1), (5, 5, 8, -1, 1)])
def test_senseless_sizes_are_refused(arguments):
    with pytest.raises(AirpipeError, match="cannot tile"):
        plan_tiles(*arguments)


def test_a_tile_that_the_overlap_fills_is_refused_with_a_size_that_works():
    with pytest.raises(AirpipeError, match="tile 32 is not larger than the overlap of 32.*Use a tile of 72"):
        plan_tiles(300, 300, 32, 32, 8)
    assert plan_tiles(300, 300, 72, 32, 8)
    assert len(plan_tiles(32, 30, 32, 32, 8)) == 1  # nothing overlaps, nothing to refuse


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (2, 3), (3, 2), (5, 129), (40, 64)])
@pytest.mark.parametrize("tile", [0, 64])
def test_any_size_passes_a_real_network(size, tile):
    image = torch.rand(3, *size)
    restored = restore_tiled(small_nafnet(), image, tile=tile, overlap=16)
    assert restored.shape == image.shape
    assert torch.isfinite(restored).all()


def test_padding_reflects_on_the_right_and_below():
    spied = []
    network = Spy(4)
    network.register_forward_hook(lambda module, inputs, output: spied.append(inputs[0]))
    image = torch.arange(9.0).reshape(1, 3, 3).repeat(3, 1, 1) / 9
    restore_tiled(network, image, tile=0)
    assert (spied[0][0, 0] * 9).round().tolist() == [[0, 1, 2, 1], [3, 4, 5, 4], [6, 7, 8, 7], [3, 4, 5, 4]]


@pytest.mark.parametrize("pad", ["reflect", "zero"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 6), (37, 41)])
def test_a_network_that_pads_itself_gets_a_whole_image_as_it_is(pad, size):
    network, image = small_nafnet(), torch.rand(3, *size)
    network.pad = pad
    with torch.no_grad():
        assert torch.equal(restore_tiled(network, image, tile=64), network(image[None])[0])
        ensemble = SelfEnsemble(network)
        assert torch.equal(restore_tiled(ensemble, image, tile=64), ensemble(image[None])[0])


@pytest.mark.parametrize("says", [True, False])
def test_a_network_from_anywhere_says_itself_whether_it_pads(says):
    class Wrapper(Spy):
        pads_itself = says

    for network in (Wrapper(4), SelfEnsemble(Wrapper(4))):
        [tile] = lay_tiles(network, 5, 9, 0, 0)
        assert (tile.height, tile.width) == ((5, 9) if says else (8, 12))


@pytest.mark.parametrize("size", [(1, 3), (3, 2), (4, 5), (9, 6)])
def test_tiles_are_padded_as_the_networks_pad(size):
    spied = []
    network = Spy(8)
    network.register_forward_hook(lambda module, inputs, output: spied.append(inputs[0]))
    image = torch.rand(3, *size)
    restore_tiled(network, image, tile=0)
    assert torch.equal(spied[0], pad_to_multiple(image[None], 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tiles_get_the_dtype_of_the_network(dtype):
    image = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0))
    expected = restore_tiled(small_nafnet(), image, tile=0)
    restored = restore_tiled(small_nafnet().to(dtype), image, tile=0)
    assert restored.dtype == torch.float32
    assert (restored - expected).abs().max() < (1e-5 if dtype == torch.float64 else 0.1)
    pixels = restore_pixels(small_nafnet().to(dtype), np.zeros((20, 24, 3), np.uint8), tile=0)
    assert pixels.dtype == np.uint8


def test_an_image_that_fits_goes_through_in_one_pass():
    network, image = small_nafnet(), torch.rand(3, 48, 64)
    expected = network(image[None])[0].detach()
    assert torch.equal(restore_tiled(network, image, tile=64), expected)


class Local(nn.Module):
    """Halves and doubles the resolution, so that it matters where a tile begins; sees at most 7 pixels far."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 3, 2, 2)
        self.middle = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
        self.size_multiple = 2

    def forward(self, image):
        return self.up(self.middle(self.down(image)).tanh())


@pytest.mark.parametrize(("height", "width"), [(90, 130), (97, 131)])
def test_a_network_that_sees_no_further_than_a_quarter_of_the_overlap_leaves_no_seam(height, width):
    network = Local()
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    whole = restore_tiled(network, image, tile=0)
    tiled = restore_tiled(network, image, tile=64, overlap=28)
    assert len(plan_tiles(height, width, 64, 28, 2)) >= 6
    assert (tiled - whole).abs().max() < 1e-5
    narrow = restore_tiled(network, image, tile=64, overlap=4)
    assert (narrow - whole).abs().max() > 1e-4  # the bound is tight: less overlap shows


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (32, 8), (32, 24)])
def test_streamed_pixels_are_those_of_the_float_image(kind, in_place, tile, overlap):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (97, 75, 3), endpoint=True).astype(kind)
    network = small_nafnet()
    image = torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1) / np.iinfo(kind).max)
    expected = restore_tiled(network, image, tile=tile, overlap=overlap).clamp(0, 1) * np.iinfo(kind).max
    given = pixels.copy()
    result = restore_pixels(network, given, tile=tile, overlap=overlap, batch_size=2, in_place=in_place)
    assert result.dtype == kind
    assert np.abs(result.transpose(2, 0, 1) - expected.numpy()).max() <= 0.51
    assert np.array_equal(given, pixels) != in_place
    assert (result is given) == in_place


def test_grey_pixels_get_the_mean_of_the_three_outputs():
    class Tint(nn.Module):
        def forward(self, image):
            return image + torch.tensor([0.0, 0.1, 0.2]).reshape(1, 3, 1, 1)

    result = restore_pixels(Tint(), np.full((9, 9, 3), 51, np.uint8), tile=4, overlap=1, grey=True)
    assert np.array_equal(result, np.full((9, 9, 3), 76))


def test_no_float_copy_of_the_image_is_made(monkeypatch):
    made = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: made.append(tensor := zeros(*a, **k)) or tensor)
    restore_pixels(Spy(), np.zeros((900, 300, 3), np.uint8), tile=100, overlap=8)
    assert max(tensor.numel() for tensor in made) <= 3 * 100 * 300  # accumulators: one row of tiles


def test_the_ensemble_is_the_mean_of_eight_passes():
    network = SelfEnsemble(small_nafnet())
    image = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = network(image)
        for axes in ((2,), (3,), (2, 3)):
            assert (network(image.flip(axes)).flip(axes) - result).abs().max() < 1e-5
        turned = network(image.transpose(2, 3)).transpose(2, 3)
        assert (turned - result).abs().max() < 1e-5
        assert (network.network(image) - result).abs().max() > 1e-3
    assert (SelfEnsemble(nn.Identity())(image) - image).abs().max() < 1e-6
    assert network.size_multiple == 4


def test_a_memory_limit_chooses_the_tile():
    network = small_nafnet()
    per_pixel = COPIES * activation_bytes(network, 128, 128) / 128**2
    assert activation_bytes(network, 256, 128) / (256 * 128) == pytest.approx(per_pixel / COPIES, rel=0.01)

    def tile(memory, **options):
        return fitting_tile(network, 1000, 1500, memory=memory, overlap=32, **options)

    assert tile(per_pixel * 1000 * 1500 + 1) == 0
    side = tile(per_pixel * 1000 * 1500 - 1)
    assert 0 < side <= 1224
    assert side % 4 == 0
    assert tile(per_pixel * 400**2 + 1) == 400
    assert tile(per_pixel * 400**2 + 1, batch_size=4) == 200
    with pytest.raises(AirpipeError, match=r"do not hold 1 tile\(s\) of 36x36 pixels. Give at least"):
        tile(per_pixel * 35**2)


def test_the_weights_do_not_count_as_memory_of_a_pass():
    network = nn.Conv2d(3, 4, 1)
    assert activation_bytes(network, 10, 20) == 10 * 20 * 4 * 4
    wide = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1))
    assert activation_bytes(wide, 10, 20) == 10 * 20 * 4 * (4 + 8)  # two neighbours at a time


def test_batches_are_equal_in_size_and_change_nothing():
    image = torch.rand(3, 100, 140, generator=torch.Generator().manual_seed(0))
    one, three = Spy(8), Spy(8)
    first = restore_tiled(one, image, tile=64, overlap=8)
    second = restore_tiled(three, image, tile=64, overlap=8, batch_size=3)
    assert torch.equal(first, second)
    assert len(set(one.shapes)) == 1
    assert {shape[0] for shape in three.shapes[:-1]} == {3}


def test_equal_inputs_give_equal_bits():
    network, image = small_nafnet(), torch.rand(3, 100, 140)
    runs = [restore_tiled(network, image, tile=64, overlap=16) for _ in range(2)]
    assert torch.equal(*runs)


def test_progress_counts_the_tiles():
    seen = []
    restore_tiled(Spy(), torch.rand(3, 20, 50), tile=20, overlap=5, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_network_that_gives_nan_or_another_shape_is_an_error():
    class Broken(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.change = change

        def forward(self, image):
            return self.change(image)

    for change, word in ((lambda x: x / 0, "not finite"), (lambda x: x[..., 1:], "has shape")):
        with pytest.raises(AirpipeError, match=word):
            restore_tiled(Broken(change), torch.rand(3, 9, 9), tile=0)


def test_too_little_memory_is_one_message():
    class Hungry(nn.Module):
        def forward(self, image):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(AirpipeError, match=r"not enough memory on cpu for 1 tile\(s\) of 9x8 pixels"):
        restore_tiled(Hungry(), torch.rand(3, 8, 9), tile=0)
