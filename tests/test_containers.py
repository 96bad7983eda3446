"""Whatever lies around the weights of a published file: they are found, or the message says what works when typed."""

import argparse
import datetime
import os
import pathlib
import re
import shlex
import socket
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import load_golden

from airpipe import build_network
from airpipe.errors import AirpipeError
from airpipe.weights import foreign
from airpipe.weights.containers import DEEPEST, is_average, shared_prefixes
from airpipe.weights.foreign import Beside, read_weights
from airpipe.weights.importing import ImportOptions, describe, import_published
from airpipe.weights.published import read_published

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="module")
def state():
    return load_golden(GOLDENS / "nafnet_small.npz").reference_state()


@pytest.fixture(scope="module")
def half(state):
    return {name: value * 0.5 for name, value in state.items()}


def behind(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def saved(folder: Path, content, **options) -> Path:
    torch.save(content, folder / "file.pth", **options)
    return folder / "file.pth"


def keys_in(message: str) -> list[str]:
    """The words behind each --key, as a shell would pass them."""
    words = shlex.split(message.partition("Choose with ")[2])
    return [word for before, word in zip(words, words[1:], strict=False) if before == "--key"]


def weight(found) -> float:
    return float(found.network.state_dict()["intro.weight"].flatten()[0])


# Prefixes


@pytest.mark.parametrize("prefix", ["generator.", "netG.", "restorer.", "module.module.", "a.b.c.d."])
def test_any_beginning_that_all_names_share_is_tried(prefix, tmp_path, state):
    found = read_published(saved(tmp_path, {"state_dict": behind(prefix, state)}))
    assert (found.name, found.weights.prefix, len(found.report.matched)) == ("nafnet", prefix, 136)


def test_shared_beginnings_are_whole_words_and_leave_a_name():
    assert shared_prefixes({"net.a": 0, "net.b.c": 0}) == ["", "net."]
    assert shared_prefixes({"net.a": 0, "netG.b": 0}) == [""]
    assert shared_prefixes({"net.a": 0, "net": 0}) == [""]
    assert shared_prefixes({"a.b.c": 0}) == ["", "a.", "a.b."]
    assert shared_prefixes({}) == [""]
    assert len(shared_prefixes({"a." * 5000 + "x": 0, "a." * 5000 + "y": 0})) == DEEPEST + 1


# Averages and counters


AVERAGES = [
    ({"state_dict": ("net.", 1), "state_dict_ema": ("net.", 2)}, "state_dict_ema", ("state_dict",)),
    ({"params": ("", 1), "params_ema": ("", 2)}, "params_ema", ("params",)),
    ({"model": ("", 1), "model_ema": ("module.", 2), "step": 7}, "model_ema", ("model",)),
    ({"net": ("", 1), "ema": ("", 2)}, "ema", ("net",)),
]


@pytest.mark.parametrize(("shape", "container", "others"), AVERAGES)
def test_an_average_is_preferred_told_and_in_the_card(shape, container, others, tmp_path, state, half):
    content = {
        name: behind(value[0], state if value[1] == 1 else half) if isinstance(value, tuple) else value
        for name, value in shape.items()
    }
    found = import_published(saved(tmp_path, content), tmp_path / "model", ImportOptions())
    assert (found.weights.container, found.weights.others) == (container, others)
    assert weight(found) == float(half["intro.weight"].flatten()[0])
    assert '"weights": "ema"' in (tmp_path / "model" / "card.json").read_text()
    first = f"weights from {container}, an average over training (EMA); not taken: --key {others[0]}"
    assert first in describe(found)
    again = read_published(tmp_path / "file.pth", key=others[0])
    assert weight(again) == float(state["intro.weight"].flatten()[0])
    assert not again.weights.average


@pytest.mark.parametrize(("before", "average"), [("generator.", "generator_ema."), ("net.", "ema.")])
@pytest.mark.parametrize("outer", ["", "module."])
def test_of_two_networks_side_by_side_the_average_is_taken(before, average, outer, tmp_path, state, half):
    extra = {"step_counter": torch.zeros(1), "disc.weight": torch.ones(2, 2)} if not outer else {}
    content = behind(outer, behind(before, state) | behind(average, half)) | extra
    found = read_published(saved(tmp_path, {"state_dict": content}))
    assert found.weights.container == f"state_dict.{outer}{average}".rstrip(".")
    assert found.weights.average and weight(found) == float(half["intro.weight"].flatten()[0])
    assert found.weights.counters == ()  # beside the chosen names, not among them
    plain = read_published(tmp_path / "file.pth", key=found.weights.others[0])
    assert weight(plain) == float(state["intro.weight"].flatten()[0])


def test_an_average_of_other_shapes_is_not_preferred(tmp_path, state):
    file = saved(tmp_path, {"state_dict": state, "ema": {"decay": torch.ones(3)}})
    assert read_published(file).weights.container == "state_dict"
    assert is_average("a.net_ema") and not is_average("schema.cinema")


def test_counters_of_profilers_are_left_out_knowingly(tmp_path, state):
    counted = state | {"total_ops": torch.zeros(1), "total_params": torch.zeros(1), "n_averaged": torch.tensor(3)}
    counted |= {"intro.total_ops": torch.zeros(1), "intro.num_batches_tracked": torch.tensor(5)}
    found = read_published(saved(tmp_path, counted))
    assert found.weights.counters == ("total_ops", "total_params", "n_averaged", "intro.total_ops")
    assert found.report.dropped == ("intro.num_batches_tracked",)
    assert len(found.report.matched) == 136
    assert any("4 counters of profilers and averages left out: total_ops, total_params" in s for s in describe(found))
    wide = state | {"total_ops": torch.zeros(8)}  # no counter: more than a number
    with pytest.raises(AirpipeError, match=r"1 unexpected \(first total_ops\). Add --partial to take the 136 entries"):
        read_published(saved(tmp_path, wide))
    assert len(read_published(tmp_path / "file.pth", partial=True).report.matched) == 136


# Several sets: what is advised works


def several(state):
    other = {"a.weight": torch.ones(2)}
    return {
        "side by side": {"state_dict": behind("net_g.", state) | behind("net_dc.", other)},
        "wrapped": {"state_dict": behind("module.net_g.", state) | behind("module.loss.", other)},
        "containers": {"generator": state, "discriminator": other},
        "deeper": {"state_dict": {"generator": state, "discriminator": other, "step": 3}},
        "beside": {"params": other, **state},
        "both known": {"first": state, "second": behind("net.", state)},
        "odd names": {"a net": state, "b.net": state},
        "two averages": {"a_ema": state, "b_ema": state},
    }


@pytest.mark.parametrize("case", several({}))
def test_keys_that_are_advised_work_when_typed(case, tmp_path, state):
    file = saved(tmp_path, several(state)[case])
    with pytest.raises(AirpipeError, match="several (sets of weights|networks)") as caught:
        read_published(file)
    keys = keys_in(str(caught.value))
    assert len(keys) == (2 if case in ("both known", "odd names", "two averages") else 1)
    for key in keys:
        assert read_published(file, key=key).arguments["width"] == 8
    with pytest.raises(AirpipeError, match="nothing under 'nowhere'. It has: ") as caught:
        read_published(file, key="nowhere")
    for key in keys_in(str(caught.value)):
        assert read_weights(file, key).tensors


def test_a_wrong_key_below_a_container_is_answered_with_whole_keys(tmp_path, state):
    file = saved(tmp_path, {"state_dict": behind("net.", state) | {"loss.weight": torch.ones(2)}})
    with pytest.raises(AirpipeError, match=r"nothing under 'state_dict.nte'. It has: net, loss. Choose with") as caught:
        read_published(file, key="state_dict.nte")
    assert keys_in(str(caught.value)) == ["state_dict.net"]
    assert read_published(file, key="state_dict.net").name == "nafnet"


# Objects beside weights


def test_harmless_objects_beside_weights_are_passed_over_and_none_is_made(tmp_path, state):
    moment = datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.UTC)
    beside = {
        "args": argparse.Namespace(lr=1, out=pathlib.PosixPath("/a/b"), inner=types.SimpleNamespace(a=1)),
        "paths": [pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("b")],
        "when": [moment, moment.date(), moment.time(), datetime.timedelta(3)],
        "numbers": [np.float64(1.5), np.int32(3), np.ones((2, 3), np.float32), np.array(["a"]), np.dtype("f4")],
        "ordered": OrderedDict(a=1),
    }
    file = saved(tmp_path, {"epoch": 3, "state_dict": behind("net.", state), "hyper_parameters": beside})
    assert read_published(file).weights.container == "state_dict"
    content = foreign._content(file)["hyper_parameters"]
    made = [content["args"], *content["paths"], *content["when"], *content["numbers"]]
    assert {type(one) for one in made} == {Beside}
    assert all(vars(one) == {} for one in made)
    with pytest.raises(
        Exception, match="argparse.Namespace was not an allowed global"
    ):  # what others load is as before
        torch.load(file, weights_only=True)


@pytest.mark.parametrize("code", ["os.system", "builtins.eval", "posix.system", "numpy.load", "pathlib.Path.unlink"])
def test_names_of_functions_stay_refused(code, tmp_path):
    module, _, name = code.rpartition(".")
    pickled = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(X\x01\x00\x00\x00atR." + b" " * 64
    (tmp_path / "file.pth").write_bytes(pickled)
    with pytest.raises(AirpipeError, match="(cannot be loaded safely|cut off or damaged)"):
        read_weights(tmp_path / "file.pth")
    assert code not in foreign.BESIDE


# Files that are damaged, hostile or no files


def flipped(file: Path, tensor: torch.Tensor) -> None:
    """Change one bit of one number of a tensor in a file."""
    data = bytearray(file.read_bytes())
    data[data.index(tensor.numpy().tobytes()[:16]) + 3] ^= 0x40
    file.write_bytes(data)


def test_a_flipped_bit_in_a_torch_file_is_found_by_the_archives_checksum(tmp_path, state):
    file = saved(tmp_path, {"params": state})
    flipped(file, state["intro.weight"])
    assert torch.load(file, weights_only=True)["params"]["intro.weight"].abs().max() > 1e37  # torch does not look
    with pytest.raises(AirpipeError, match=r"damaged: the checksum of 'file/data/0' is wrong.*download it again"):
        read_published(file)


def test_a_file_without_checksums_is_read(tmp_path, state):
    torch.serialization.set_crc32_options(False)
    try:
        file = saved(tmp_path, {"params": state})
    finally:
        torch.serialization.set_crc32_options(True)
    assert len(read_published(file).report.matched) == 136


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.pth"))
        found = {"pipe.pth": "a named pipe", "folder.pth": "a folder", "s.pth": "a socket"}
        for name, kind in found.items():
            with pytest.raises(AirpipeError, match=f"{name}: is {kind}, no file. Expected a weights file"):
                read_weights(tmp_path / name)
    with pytest.raises(AirpipeError, match="is a device, no file"):
        read_weights(Path("/dev/zero"))


def nested(depth: int):
    content = {"a.weight": torch.ones(2)}
    for _ in range(depth):
        content = {"state_dict": content}
    return content


def test_a_pickle_of_many_levels_is_one_error(tmp_path):
    file = tmp_path / "file.pth"
    file.write_bytes(b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 100_000 + b"N" + b"s" * 100_000 + b".")  # a: {a: {a: …}}
    with pytest.raises(AirpipeError, match=r"(cut off or damaged|holds no tensors \(it has a\))"):
        read_published(file)


@pytest.mark.parametrize("name", ["intro\n.weight", "\x00", "x" * 301])
@pytest.mark.parametrize("inside", [lambda odd: odd, lambda odd: {"params": odd}, lambda odd: {"a": {"b": {"c": odd}}}])
def test_names_that_no_message_can_show_are_refused_in_one_line(name, inside, tmp_path, state):
    file = saved(tmp_path, inside({**state, name: torch.zeros(2)}))
    with pytest.raises(AirpipeError, match="names an entry. Expected names of up to 300 printable characters") as told:
        read_published(file)
    assert len(str(told.value).splitlines()) == 1 and len(str(told.value)) < 200 + len(str(file))


def test_blocks_without_end_are_refused_before_a_network_is_made_of_them(tmp_path):
    network = build_network("swinir", embed_dim=4, depths=[1], num_heads=[1], window_size=2, mlp_ratio=1.0)
    state = network.published_state()
    block = {name: value for name, value in state.items() if ".blocks.0." in name}
    for number in range(1, 1 + 2500 // len(block)):
        state |= {name.replace(".blocks.0.", f".blocks.{number}."): value for name, value in block.items()}
    assert len(state) > 2500
    with pytest.raises(AirpipeError, match=rf"{len(state):,} entries of a swinir: too many. Expected at most 2,500"):
        read_published(saved(tmp_path, state))


def test_containers_that_hold_themselves_or_many_others_are_one_error(tmp_path):
    alone: dict[str, object] = {}
    alone["state_dict"] = alone
    wide: dict[str, object] = {"w": torch.ones(2)}
    for _ in range(60):  # 2^60 ways through 60 mappings
        wide = {"a": wide, "b": wide}
    in_turn: dict[str, object] = {"x": {"y": torch.ones(2)}}
    in_turn["state_dict"] = in_turn
    for content, message in (
        (alone, r"holds no tensors \(it has state_dict\)"),
        (in_turn, "more than 16 containers in one another, or one that holds itself"),
        (nested(40), "holds no tensors"),
        (wide, "(holds several sets of weights|holds no tensors)"),
    ):
        with pytest.raises(AirpipeError, match=message) as caught:
            read_published(saved(tmp_path, content))
        assert len(str(caught.value).splitlines()) == 1
    assert read_weights(saved(tmp_path, nested(9))).container == ".".join(["state_dict"] * 9)


@pytest.mark.parametrize("kind", [torch.bool, torch.complex64, torch.int16])
def test_weights_that_are_no_floating_point_numbers_are_refused(kind, tmp_path, state):
    file = saved(tmp_path, state | {"intro.bias": torch.ones(8).to(kind)})
    with pytest.raises(AirpipeError, match=f"intro.bias is of type {str(kind)[6:]}; weights have to be floating"):
        read_published(file)


# What a file is that is none of ours


def swinir(**changes) -> dict[str, torch.Tensor]:
    state = load_golden(GOLDENS / "swinir_small.npz").reference_state()
    return {name: value for name, value in (state | changes).items() if value is not None}


SR = torch.ones(64, 16, 3, 3)


def near_misses() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    state = swinir()
    naf = load_golden(GOLDENS / "nafnet_small.npz").reference_state()
    prompted = load_golden(GOLDENS / "promptir_small.npz").reference_state()
    in_chans = state["conv_first.weight"].shape[1]
    bias = {name: None for name in state if name.endswith("qkv.bias")}
    head = {"conv_before_upsample.0.weight": torch.ones(16, 4, 3, 3)}
    stereo = {"intro.weight": torch.ones(8, 3, 3, 3), "up.0.weight": torch.ones(48, 8, 3, 3)}
    stereo |= {"body.0.module.blk.beta": torch.ones(1, 8, 1, 1), "body.0.module.fusion.beta": torch.ones(1, 8, 1, 1)}
    return {
        "x2": (swinir(**head, **{"upsample.0.weight": SR}), "SwinIR with a x2 super-resolution head .classical"),
        "x4": (
            swinir(**head, **{"upsample.0.weight": SR, "upsample.2.weight": SR}),
            "SwinIR with a x4 super-resolution head .classical, pixelshuffle.: airpipe restores at scale 1",
        ),
        "x3": (swinir(**head, **{"upsample.0.weight": torch.ones(144, 16, 3, 3)}), "a x3 super-resolution head"),
        "lightweight": (
            swinir(**{"upsample.0.weight": torch.ones(in_chans * 4, 4, 3, 3), "conv_last.weight": None}),
            "a x2 super-resolution head .lightweight, pixelshuffledirect",
        ),
        "real": (swinir(**head, **{"conv_up1.weight": SR, "conv_up2.weight": SR}), "a x4 .* head .real-world"),
        "ape": (swinir(absolute_pos_embed=torch.ones(1, 64, 4)), "SwinIR with absolute position embedding .ape."),
        "no bias": (swinir(**bias), "no bias of queries, keys and values .qkv_bias=False."),
        "no norm": (
            swinir(**{"patch_embed.norm.weight": None, "patch_embed.norm.bias": None}),
            "no norm after its first convolution .patch_norm=False.",
        ),
        "stereo": (stereo, "a NAFSSR, which enlarges pairs of stereo pictures x4"),
        "no prompts": (
            {name: value for name, value in prompted.items() if not name.startswith("prompt")},
            "a PromptIR without prompts .decoder=False.",
        ),
        "no end": (
            {name: value for name, value in naf.items() if name != "ending.weight"},
            "nearest is nafnet: 135 of 135 entries have names of it; it lacks ending.weight. Add --partial",
        ),
        "other names": (
            {name.replace("sca.1", "attention"): value for name, value in naf.items()},
            r"does not fit NAFNet: 14 missing \(first encoders.0.0.sca.1.weight, encoders.0.0.sca.1.bias, enc\S+\); "
            r"14 unexpected \(first encoders.0.0.attention.\S+ \S+, \S+\). Add --partial to take the 122 entries",
        ),
        "gaps": (naf | {"encoders.0.7.beta": torch.ones(2)}, "nearest is nafnet: 137 of 137 .* but numbers with gaps"),
    }


@pytest.mark.parametrize("case", near_misses())
@pytest.mark.parametrize("prefix", ["", "module.net."])
def test_a_relative_of_a_known_network_is_called_by_its_name(case, prefix, tmp_path):
    state, message = near_misses()[case]
    file = saved(tmp_path, {"params": behind(prefix, state)})
    with pytest.raises(AirpipeError, match=message) as caught:
        read_published(file)
    assert len(str(caught.value).splitlines()) == 1
    partial = re.search("Add --partial", str(caught.value))
    assert bool(partial) == (case in ("no end", "other names"))
    if partial:
        found = read_published(file, partial=True)
        assert found.name == "nafnet" and len(found.report.missing) > 0 and len(found.report.matched) > 100


def test_arguments_that_contradict_the_file_are_named_with_what_to_leave_out(tmp_path, state):
    file = saved(tmp_path, state)
    with pytest.raises(AirpipeError, match=r"16x3x3x3 in the network\). Leave out --argument width, or give other"):
        read_published(file, arguments={"width": 16})
    assert read_published(file, arguments={}).arguments["width"] == 8
