import os
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageCms
from torch import nn

import airpipe
from airpipe.errors import AirpipeError
from airpipe.evaluation.restore import choose_device, restore, restore_file
from airpipe.images import Picture, read_picture, write_picture
from airpipe.pixels import to_pixels, to_tensor
from airpipe.weights.checkpoints import LoadedModel, load_model, save_model

SIZES = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}


class Identity(nn.Module):
    def forward(self, image):
        return image.clone()


class Tint(nn.Module):
    """Adds another constant to each channel: what grey makes of it is their mean."""

    def forward(self, image):
        return image + torch.tensor([0.0, 0.1, 0.2]).reshape(1, 3, 1, 1)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    torch.manual_seed(0)
    network = airpipe.build_network("nafnet", **SIZES)
    for name, parameter in network.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.constant_(parameter, 0.2)  # fresh blocks would be the identity
    save_model(folder, network, {"schema_version": 1, "network": {"name": "nafnet", "arguments": SIZES}})
    return folder


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(skimage.data.coffee()[100:171, 200:293])


def deepened(pixels):
    return (pixels.astype(np.uint16) << 8) + 93


def test_the_public_name_is_the_function():
    assert airpipe.restore is restore


@pytest.mark.parametrize("channels", [None, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_arrays_come_back_as_they_were(photo, channels, bits):
    array = np.dstack([photo, photo[..., 0]])[..., 0 if channels is None else slice(channels)]
    array = array if bits == 8 else deepened(array)
    restored = restore(array, Identity())
    assert (restored.dtype, restored.shape) == (array.dtype, array.shape)
    assert np.array_equal(restored, array)


def test_grey_is_the_mean_of_the_three_outputs():
    restored = restore(np.full((5, 6), 51, np.uint8), Tint())
    assert restored.tolist() == [[76] * 6] * 5  # 0.2 + 0.1, times 255, is 76.5: half to even


def test_alpha_is_untouched(photo):
    rgba = np.dstack([photo, np.arange(photo[..., 0].size, dtype=np.uint8).reshape(photo.shape[:2])])
    restored = restore(rgba, Tint())
    assert np.array_equal(restored[..., 3], rgba[..., 3])
    assert not np.array_equal(restored[..., :3], photo)


@pytest.mark.parametrize("shape", [(3, 9, 7), (2, 3, 9, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_come_back_as_they_were(shape, dtype):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    restored = restore(image, Identity())
    assert (restored.dtype, restored.shape) == (dtype, image.shape)
    assert (restored - image).abs().max() < 1e-6


def test_a_tensor_is_clipped_and_takes_part_in_no_gradient():
    image = torch.full((3, 4, 4), 0.95, requires_grad=True)
    restored = restore(image, Tint())
    assert restored[:, 0, 0].tolist() == pytest.approx([0.95, 1, 1])
    assert not restored.requires_grad
    (restored * torch.ones((), requires_grad=True)).sum().backward()  # no inference tensor leaks out


def test_all_kinds_of_image_and_model_give_the_same(tmp_path, stage, photo):
    write_picture(tmp_path / "a.png", Picture(photo))
    expected = restore(photo, load_model(stage))
    assert not np.array_equal(expected, photo)
    for model in (stage, str(stage), stage / "model.safetensors", load_model(stage).network):
        assert np.array_equal(restore(tmp_path / "a.png", model), expected)
    assert np.array_equal(restore(str(tmp_path / "a.png"), stage), expected)
    assert np.array_equal(to_pixels(restore(to_tensor(photo), stage)), expected)


def test_a_path_gives_upright_rgb_of_the_files_depth(tmp_path, photo):
    write_picture(tmp_path / "a.png", Picture(deepened(photo), deepened(photo[..., 0])))
    assert np.array_equal(restore(tmp_path / "a.png", Identity()), deepened(photo))


def test_a_network_gets_its_modes_back(photo):
    network = nn.Sequential(nn.Identity(), nn.Dropout(0.9)).train()
    network[0].eval()
    assert np.array_equal(restore(photo, network), photo)
    assert [module.training for module in network] == [False, True]


@pytest.mark.parametrize(
    ("image", "found", "expected"),
    [
        (np.zeros((4, 5, 2), np.uint8), "(4, 5, 2)", "(H, W, 3)"),
        (np.zeros((0, 5, 3), np.uint8), "(0, 5, 3)", "none of them 0"),
        (np.full((4, 5, 3), 255, np.float32), "from 255 to 255", "[0, 1]"),
        (np.full((4, 5), np.nan), "nan", "[0, 1]"),
        (np.zeros((4, 5, 2), np.float32), "(4, 5, 2)", "(H, W, 3)"),
        (np.zeros((4, 5), bool), "bool", "uint8 or uint16, or floats in [0, 1]"),
        (Image.new("F", (4, 5)), "'F'", "grey, RGB, palette or CMYK"),
        (Image.new("RGB", (0, 5)), "0x5", "1 or more"),
        (np.zeros((4, 5), np.int64), "int64", "uint8 or uint16"),
        (torch.zeros(4, 5, 3), "(4, 5, 3)", "(3, H, W)"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), "uint8", "divide 8-bit values by 255"),
        (torch.full((3, 4, 5), 255.0), "from 255 to 255", "[0, 1]"),
        (torch.tensor([0.0, float("nan"), 1.0]).reshape(3, 1, 1), "nan", "[0, 1]"),
        ([[1, 2]], "list", "a path, an array or a tensor, or a Pillow image"),
        (Path("missing.png"), "missing.png", "Check the path"),
    ],
)
def test_unsuitable_images_are_refused(image, found, expected):
    with pytest.raises(AirpipeError) as caught:
        restore(image, Identity())
    assert found in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, ">f4"])
@pytest.mark.parametrize("channels", [None, 3, 4])
def test_float_arrays_come_back_as_they_were_and_are_not_rounded(photo, kind, channels):
    array = (np.dstack([photo, photo[..., 0]]) / 255.3).astype(kind)
    array = array[..., 0 if channels is None else slice(channels)]
    given = array.copy()
    restored = restore(array, Identity())
    assert (restored.dtype, restored.shape) == (array.dtype, array.shape)
    assert np.abs(restored.astype(float) - given.astype(float)).max() < 1e-6
    assert np.array_equal(array, given)
    tinted = restore(array, Tint()).astype(float)
    expected = array.astype(float) + (0.1 if channels is None else np.array([0, 0.1, 0.2, 0])[:channels])
    assert np.abs(tinted - expected.clip(0, 1)).max() < 1e-3
    if channels == 4:
        assert np.array_equal(restored[..., 3], given[..., 3])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16", "1"])
def test_pillow_images_come_back_as_they_stand(photo, mode):
    image = Image.fromarray(deepened(photo)[..., 0]) if mode == "I;16" else Image.fromarray(photo).convert(mode)
    image.info["dpi"] = (300, 300)
    image.getexif()[0x0112] = 6  # not turned: an array of it would not be, either
    before = np.asarray(image).copy()
    restored = restore(image, Identity())
    assert isinstance(restored, Image.Image)
    assert (restored.size, restored.info["dpi"]) == (image.size, (300, 300))
    assert restored.mode == {"P": "RGB", "CMYK": "RGB", "1": "L"}.get(mode, mode)
    same = image.convert(restored.mode) if mode != restored.mode else image
    assert np.array_equal(np.asarray(restored), np.asarray(same))
    assert np.array_equal(np.asarray(image), before)


def test_a_grey_path_and_a_grey_array_give_the_same(tmp_path, stage, photo):
    grey = photo[..., 0]
    for pixels in (grey, deepened(grey)):
        write_picture(tmp_path / "a.png", Picture(pixels[..., None].repeat(3, 2), grey=True))
        expected = restore(pixels, stage)
        found = restore(tmp_path / "a.png", stage)
        assert found.shape == grey.shape and np.array_equal(found, expected)
        assert np.array_equal(np.asarray(restore(Image.fromarray(pixels), stage)), expected)


WRONG = [
    ({"tile": "512"}, "restore: tile is '512': input should be a valid integer"),
    ({"tile": -1}, "restore: tile is -1: .* greater than or equal to 0"),
    ({"tile": 5.5}, "restore: tile is 5.5"),
    ({"overlap": -1}, "restore: overlap is -1"),
    ({"overlap": None}, "restore: overlap is None"),
    ({"batch": True}, "restore: batch is True"),
    ({"memory": "1GB"}, "restore: memory is '1GB'"),
    ({"memory": 0}, "restore: memory is 0: .* greater than 0"),
    ({"memory": float("nan")}, "restore: memory is nan"),
    ({"self_ensemble": "yes"}, "restore: self_ensemble is 'yes': .* valid boolean"),
    ({"luma": 1}, "restore: luma is 1"),
    ({"tiles": 3}, "unknown option of restore 'tiles'; did you mean 'tile'"),
    ({"device": None}, "unknown device None"),
    ({"device": 0}, "unknown device 0"),
    ({"device": torch.device("meta")}, "unknown device 'meta'"),
    ({"device": "cuda:" + "9" * 50}, "unknown device 'cuda:999"),
    ({"budget": 3}, "3 is no budget|a budget chooses among"),
    ({"reference": 3}, "cannot restore a int|this model takes no reference|no reference"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_option_is_one_error_from_both_doors(options, message, tmp_path, photo):
    write_picture(tmp_path / "a.png", Picture(photo))
    with pytest.raises(AirpipeError, match=message):
        restore(photo, Identity(), **options)
    if "budget" not in options:
        with pytest.raises(AirpipeError, match=message):
            restore_file(tmp_path / "a.png", None, Identity(), **options)


def test_a_pipe_for_a_photo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(AirpipeError, match="a.png: is a pipe, a socket or a device, no file"):
        restore(tmp_path / "a.png", Identity())


def test_a_device_of_torch_is_taken(photo):
    assert np.array_equal(restore(photo, Identity(), device=torch.device("cpu")), photo)


@pytest.mark.parametrize("wrong", [None, 3, [], {"network": 1}, b"x"])
def test_a_thing_that_is_no_model_is_refused(photo, wrong):
    with pytest.raises(AirpipeError, match=f"a {type(wrong).__name__} is no model"):
        restore(photo, wrong)
    with pytest.raises(AirpipeError, match="load_model was given .* Expected a path"):
        airpipe.load_model(wrong)
    with pytest.raises(AirpipeError, match="load_published was given a .* Expected a network to fill"):
        airpipe.load_published(wrong, {})


@pytest.mark.parametrize("wrong", [None, 3, ["nafnet"], "nafnett", "x" * 10_000])
def test_a_name_that_is_no_network_is_refused(wrong):
    with pytest.raises(AirpipeError, match="unknown network") as caught:
        airpipe.build_network(wrong)
    assert len(str(caught.value)) < 1500


def test_what_is_public_is_listed_and_there():
    public = {"AirpipeError", "LoadedModel", "build_network", "load_model", "load_published", "restore", "__version__"}
    assert set(dir(airpipe)) == set(airpipe.__all__) == public
    assert all(getattr(airpipe, name) for name in public)
    assert airpipe.AirpipeError is AirpipeError
    with pytest.raises(AttributeError, match="no attribute 'restor'; public names: AirpipeError"):
        _ = airpipe.restor


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "meta", "", "cuda:99"])
def test_devices_that_are_not_there_are_refused(name, photo):
    with pytest.raises(AirpipeError, match="device"):
        restore(photo, Identity(), device=name)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(AirpipeError, match="no GPU that this torch can use. Use --device auto or cpu"):
        choose_device("cuda")


def test_tiled_is_close_to_whole(stage):
    photo = skimage.data.astronaut()[:200, :300]
    whole = restore(photo, stage, tile=0).astype(int)
    tiled = restore(photo, stage, tile=160, overlap=32)
    assert np.abs(whole - tiled).mean() < 1.5  # the channel attention pools over what it sees


@pytest.mark.parametrize(
    ("name", "depth", "alpha", "expected"),
    [
        ("a.png", 8, False, "a_restored.png"),
        ("a.v2.jpg", 8, False, "a.v2_restored.jpg"),
        ("a.tif", 16, True, "a_restored.tif"),
        ("a.jpg", 16, False, "a_restored.png"),
        ("a.bmp", 8, True, "a_restored.png"),
        ("noname", 8, False, "noname_restored.png"),
    ],
)
def test_files_keep_depth_alpha_and_where_possible_the_suffix(tmp_path, photo, name, depth, alpha, expected):
    pixels = photo if depth == 8 else deepened(photo)
    written = tmp_path / ("x.tif" if name.endswith("tif") else "x.png")
    write_picture(written, Picture(pixels, pixels[..., 0] if alpha else None))
    written.rename(tmp_path / name)
    done = restore_file(tmp_path / name, None, Identity())
    assert done.target == tmp_path / expected
    assert (done.height, done.width, done.tiles) == (71, 93, 1)
    result = read_picture(done.target)
    assert result.pixels.dtype == pixels.dtype
    assert (result.alpha is not None) == alpha
    if done.target.suffix != ".jpg":
        assert np.array_equal(result.pixels, pixels)


def test_grey_files_stay_grey(tmp_path, photo):
    write_picture(tmp_path / "a.png", Picture(photo[..., :1].repeat(3, 2), grey=True))
    done = restore_file(tmp_path / "a.png", None, Tint())
    assert read_picture(done.target).grey


def test_the_target_may_be_a_file_or_a_folder(tmp_path, photo):
    write_picture(tmp_path / "a.png", Picture(photo))
    (tmp_path / "v1.2").mkdir()
    for target, expected in (
        ("b.tif", "b.tif"),
        ("new/deep", "new/deep/a_restored.png"),
        ("v1.2", "v1.2/a_restored.png"),
    ):
        assert restore_file(tmp_path / "a.png", tmp_path / target, Identity()).target == tmp_path / expected


def test_nothing_is_replaced_unasked_and_the_photo_never(tmp_path, photo):
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    write_picture(source, Picture(photo))
    target.write_text("precious")
    with pytest.raises(AirpipeError, match="Add --overwrite"):
        restore_file(source, target, Identity())
    with pytest.raises(AirpipeError, match="of the same name"):
        restore_file(source, target, Identity(), overwrite=True, keep={target.resolve()})
    assert target.read_text() == "precious"
    with pytest.raises(AirpipeError, match="the photo itself"):
        restore_file(source, source, Identity(), overwrite=True, skip_done=True)
    restore_file(source, target, Identity(), overwrite=True)
    assert np.array_equal(read_picture(target).pixels, photo)


def test_a_target_that_cannot_hold_the_result_is_refused_before_the_work(tmp_path, photo):
    class Never(nn.Module):
        def forward(self, image):
            raise AssertionError("worked in vain")

    write_picture(tmp_path / "a.png", Picture(deepened(photo)))
    for name, word in (("b.jpg", "16 bit"), ("b.xyz", "cannot write .xyz")):
        with pytest.raises(AirpipeError, match=word):
            restore_file(tmp_path / "a.png", tmp_path / name, Never())


def test_a_failing_network_leaves_no_file(tmp_path, photo):
    class Broken(nn.Module):
        def forward(self, image):
            return image / 0

    write_picture(tmp_path / "a.png", Picture(photo))
    with pytest.raises(AirpipeError, match="not finite"):
        restore_file(tmp_path / "a.png", tmp_path / "out" / "b.png", Broken())
    assert [path.name for path in tmp_path.rglob("*")] == ["a.png"]


def test_a_loaded_model_is_loaded_once_for_many(tmp_path, photo):
    loaded = LoadedModel(Identity(), {}, tmp_path)
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, Picture(photo))
        assert restore_file(tmp_path / name, None, loaded).target.is_file()


def test_a_finished_file_is_skipped_when_asked(tmp_path, photo):
    write_picture(tmp_path / "a.png", Picture(photo))
    write_picture(tmp_path / "deep.png", Picture(deepened(photo)))
    (tmp_path / "deep.png").rename(tmp_path / "deep.jpg")  # its result is a .png
    for name in ("a.png", "deep.jpg"):
        first = restore_file(tmp_path / name, None, Identity(), skip_done=True)
        assert (first.skipped, first.tiles) == (False, 1)
        stamp = first.target.stat().st_mtime_ns
        again = restore_file(tmp_path / name, None, Identity(), skip_done=True)
        assert (again.skipped, again.target, again.tiles) == (True, first.target, 0)
        assert first.target.stat().st_mtime_ns == stamp
    assert not restore_file(tmp_path / "a.png", None, Identity(), skip_done=True, overwrite=True).skipped
    with pytest.raises(AirpipeError, match="of the same name"):
        restore_file(tmp_path / "a.png", None, Identity(), skip_done=True, keep={tmp_path / "a_restored.png"})


def test_a_missing_photo_is_not_skipped(tmp_path, photo):
    write_picture(tmp_path / "a_restored.png", Picture(photo))
    with pytest.raises(AirpipeError, match="no such image"):
        restore_file(tmp_path / "a.png", None, Identity(), skip_done=True)


def test_the_self_ensemble_undoes_what_depends_on_the_direction(photo):
    class Brighten(nn.Module):
        def forward(self, image):
            return image + torch.linspace(-0.1, 0.1, image.shape[-1])

    flat = np.full((40, 40, 3), 128, np.uint8)
    assert np.ptp(restore(flat, Brighten(), tile=0)) > 40
    assert np.ptp(restore(flat, Brighten(), tile=0, self_ensemble=True)) == 0
    assert np.array_equal(restore(photo, Identity(), self_ensemble=True, tile=40, overlap=8), photo)


def test_memory_chooses_the_tile_and_batches_change_nothing(tmp_path, stage):
    source = tmp_path / "a.png"
    write_picture(source, Picture(np.ascontiguousarray(skimage.data.coffee()[:200, :300])))
    whole = restore_file(source, tmp_path / "whole.png", stage, memory=1e9)
    assert whole.tiles == 1
    tiled = restore_file(source, tmp_path / "tiled.png", stage, memory=5e6, overlap=16)
    assert tiled.tiles > 1
    size = max(tiled.tile_height, tiled.tile_width)
    batched = restore_file(source, tmp_path / "batched.png", stage, tile=size, overlap=16, batch=3)
    assert (batched.tiles, batched.tile_height) == (tiled.tiles, tiled.tile_height)
    results = [read_picture(tmp_path / f"{name}.png").pixels.astype(int) for name in ("tiled", "batched")]
    assert np.abs(results[0] - results[1]).max() <= 1
    for options, message in (({"memory": 1e3}, "do not hold 1 tile"), ({"batch": 0}, "Expected 1 or more")):
        with pytest.raises(AirpipeError, match=message):
            restore_file(source, tmp_path / "none.png", stage, **options)


def test_exif_and_profile_are_carried_over_upright(tmp_path, photo):
    tags = Image.Exif()
    tags[0x0112], tags[0x0110] = 6, "Model X"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo).save(tmp_path / "a.jpg", quality=95, exif=tags, icc_profile=icc)
    done = restore_file(tmp_path / "a.jpg", None, Identity())
    assert (done.height, done.width) == (93, 71)
    with Image.open(done.target) as image:
        assert image.size == (71, 93)
        assert (image.getexif()[0x0112], image.getexif()[0x0110]) == (1, "Model X")
        assert image.info["icc_profile"] == icc


def samples(*parts):
    return sorted(Path(os.environ["AIRPIPE_SAMPLE_ROOT"]).joinpath(*parts[:-1]).glob(parts[-1]))


@pytest.mark.skipif("AIRPIPE_SAMPLE_ROOT" not in os.environ, reason="AIRPIPE_SAMPLE_ROOT names no sample images")
def test_real_pictures_come_back_as_they_were(tmp_path):
    sources = [samples("DIV2K", "DIV2K_valid_HR", "*.png")[0], samples("REVIDE", "test", "hazy", "*")[0]]
    made = tmp_path / "made"
    made.mkdir()
    pixels = read_picture(sources[0]).pixels[:600, :800]
    write_picture(made / "deep.png", Picture(deepened(pixels)))
    write_picture(made / "deep.tif", Picture(deepened(pixels)))
    write_picture(made / "grey.png", Picture(pixels[..., :1].repeat(3, 2), grey=True))
    write_picture(made / "alpha.png", Picture(pixels, pixels[..., 0]))
    tags = Image.Exif()
    tags[0x0112] = 8
    Image.fromarray(pixels).save(made / "turned.jpg", quality=95, exif=tags)
    for source in [*sources, *sorted(made.iterdir())]:
        picture = read_picture(source)
        done = restore_file(source, tmp_path / "out", Identity(), tile=512)
        result = read_picture(done.target)
        assert result.pixels.shape == picture.pixels.shape
        assert result.pixels.dtype == picture.pixels.dtype
        assert (result.grey, result.alpha is None) == (picture.grey, picture.alpha is None)
        off = np.abs(result.pixels.astype(int) - picture.pixels).mean()
        assert off < 2 if done.target.suffix.lower() == ".jpg" else off == 0
        assert done.tiles > 1
    assert read_picture(tmp_path / "out" / "turned_restored.jpg").pixels.shape == (800, 600, 3)
