"""Model files and cards, whole, damaged and made up: each is imported and restores, or is refused in short lines."""

import io
import json
import os
import random
import resource
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from airpipe import build_network
from airpipe.cli.main import main as airpipe
from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file
from airpipe.weights.checkpoints import load_model, save_model

from . import Outcome
from .configurations import DEEP, change
from .images import flipped, header, zeroed

COUNT = 300
MEMORY = 1 << 20
"""KiB by which all files together may raise the peak of this process."""
LONGEST = 1500
"""Characters of the longest line."""
NETWORKS: dict[str, dict[str, Any]] = {
    "nafnet": {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]},
    "swinir": {"embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4, "mlp_ratio": 2.0},
    "restormer": {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 2]},
}
MANY = 20_000
"""Entries of a file of many names."""
State = dict[str, Any]


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Make and try `count` files: published ones by turns with folders of ours."""
    outcome, before = Outcome(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    photo = folder / "photo.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 20, 3), np.uint8)).save(photo)
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        place = folder / f"{number}"
        place.mkdir()
        tried, model, expected = (own if number % 2 else published)(place, generator)
        begin = time.process_time()  # neighbours count less
        how, fault = judge(model, place, photo)
        if not fault and expected not in ("", how):
            fault = f"{how}, expected {expected}"
        outcome.add(f"try {number}, {tried}", how, fault, time.process_time() - begin)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > MEMORY:
        outcome.faults.append(f"the peak of memory grew by {grown / 2**20:.1f} GiB")
    return outcome


def judge(model: Path, place: Path, photo: Path) -> tuple[str, str]:
    """How a model ends in all ways in, and the fault where that is one."""
    file, taken = model / "model.safetensors" if (model / "card.json").exists() else model, []
    ways: dict[str, Callable[[], object]] = {
        "load_model": lambda: load_model(model),
        "restore": lambda: airpipe(
            ["restore", str(photo), "-m", str(model), "-o", str(place / "restored" / "photo.png")]
        ),
        "import": lambda: airpipe(["import", str(file), "--name", "it", "--output", str(place / "imported")]),
        "models": lambda: airpipe(["models", "--results", str(place)]),
    }
    for way, call in ways.items():
        said = io.StringIO()
        try:
            with redirect_stderr(said), redirect_stdout(io.StringIO()):
                status = call()
        except AirpipeError as error:
            status = 2
            said.write(f"airpipe: error: {error}")
        except Exception as error:  # what a user would see as a traceback: counted, that is the campaign
            return "", f"{way}: {type(error).__name__}: {str(error)[:300]!r}"
        lines = said.getvalue().splitlines()
        longest = max(map(len, lines), default=0)
        told = lines and lines[-1].startswith("airpipe: error: ")  # a message of several lines ends otherwise
        if status == 2 and (not told or longest > LONGEST or any("Warning" in line for line in lines)):
            return "", f"{way}: {len(lines)} lines of up to {longest}: {said.getvalue()[:200]!r}"
        taken += [way] if status != 2 else []
    left = sorted(path.name for path in place.iterdir() if path.name.startswith("."))
    if left or ("import" not in taken and (place / "imported").exists()):
        return "", f"something half-written stays: {left or 'imported'}"
    if "restore" in taken and "load_model" not in taken:
        return "", "restores and cannot be loaded"
    if "load_model" not in taken:
        return "refused", ""
    lacking = {"restore", *(["import"] if file == model else [])} - set(taken)
    return (f"loaded, but no {' and no '.join(sorted(lacking))}" if lacking else "taken"), ""


def network_state(generator: random.Random) -> tuple[str, torch.nn.Module, State]:
    """Name, network and published entries of one of `NETWORKS`, with the weights that it begins with."""
    name = generator.choice(sorted(NETWORKS))
    torch.manual_seed(generator.getrandbits(32))
    network = build_network(name, **NETWORKS[name])
    return name, network, {key: value.clone() for key, value in network.published_state().items()}


# Published files


def published(folder: Path, generator: random.Random) -> tuple[str, Path, str]:
    """A published file: what it is in words, its path, and how it has to end ("": either way)."""
    name, _, state = network_state(generator)
    how = generator.choice(sorted(["whole", *STATES, *DAMAGES, *CONTENTS, *SPECIAL]))
    suffix = generator.choice((".pth", ".bin", ".safetensors"))
    path, expected = folder / f"file{suffix}", {"whole": "taken"}.get(how, "")
    if how in SPECIAL:
        SPECIAL[how](path)
        return how, path, "refused"
    if how in CONTENTS:
        path.write_bytes(CONTENTS[how](generator))
        return how, path, "refused"
    content: Any = state
    if how in STATES:
        changed, expected = STATES[how]
        content = changed(state, generator)
    data = encoded(content, suffix, generator)
    if how in DAMAGES:
        data = DAMAGES[how](data, generator)
    path.write_bytes(data)
    return f"{name}{suffix} {how}", path, expected


def encoded(content: Any, suffix: str, generator: random.Random) -> bytes:
    """A file's bytes; what safetensors cannot hold is a torch file."""
    plain = isinstance(content, dict) and all(
        isinstance(key, str) and type(value) is torch.Tensor and value.layout == torch.strided and value.is_contiguous()
        for key, value in content.items()
    )
    if suffix == ".safetensors" and plain:
        return save({name: value.clone() for name, value in content.items()})
    stream = io.BytesIO()
    wrapped = {"params": content} if generator.random() < 0.3 else content
    torch.save(wrapped, stream, _use_new_zipfile_serialization=suffix != ".bin")
    return stream.getvalue()


def renamed(state: State, generator: random.Random) -> State:
    """One entry under another name."""
    key = generator.choice(list(state))
    return {f"{name}x" if name == key else name: value for name, value in state.items()}


def missing(state: State, generator: random.Random) -> State:
    """One entry less."""
    key = generator.choice(list(state))
    return {name: value for name, value in state.items() if name != key}


def reshaped(state: State, generator: random.Random) -> State:
    """One entry of another shape."""
    key = generator.choice(list(state))
    value = state[key]
    return state | {key: generator.choice((value[None], value.flatten(), torch.cat([value, value]), value[:0]))}


def typed(*kinds: torch.dtype) -> Callable[[State, random.Random], State]:
    """One entry, or all, of another type."""

    def change_types(state: State, generator: random.Random) -> State:
        chosen = generator.choice((list(state), [generator.choice(list(state))]))
        return state | {key: state[key].to(generator.choice(kinds)) for key in chosen}

    return change_types


def contained(state: State, generator: random.Random) -> State:
    """Containers in containers, other things beside them."""
    content: Any = state
    for _ in range(generator.choice((1, 2, 5, 15, 40, 300))):
        word = generator.choice(("params", "state_dict", "model", "net", "a.b", "ema", "optimizer"))
        content = {word: content, **generator.choice(({}, {"epoch": 3}, {"net_ema": state}, {"x": {}}))}
    return content


def looped(state: State, generator: random.Random) -> State:
    """A container that holds itself, directly or through others."""
    top: State = dict(generator.choice(({}, {"params": state})))
    top["more"] = generator.choice((top, {"again": top}, [top], {"a": {"b": {"c": top}}}))
    return top


def many(state: State, generator: random.Random) -> State:
    """Many names: those of blocks without end, or any."""
    value = torch.zeros(1)
    words = generator.choice(("numbers", "words", "blocks", "groups"))
    if words in ("numbers", "words"):
        return state | {f"{k}.weight" if words == "numbers" else f"w{k}.x.y": value for k in range(MANY)}
    group = {key: tensor for key, tensor in state.items() if any(part.isdecimal() for part in key.split("."))}
    found = dict(state)
    for number in range(MANY // max(len(group), 1)):
        for key, tensor in group.items():
            parts = key.split(".")
            places = [at for at, part in enumerate(parts) if part.isdecimal()]
            parts[places[0 if words == "groups" else -1]] = str(number)
            found[".".join(parts)] = tensor
    return found


def odd_names(state: State, generator: random.Random) -> dict[Any, Any]:
    """Names of other types, very long ones, or ones with huge numbers."""
    odd = (3, ("a", "b"), b"bytes", None, "a." * 5000, "x" * 100_000, "layers." + "9" * 5000 + ".weight", "\x00\n|", "")
    return {**state, generator.choice(odd): torch.zeros(2)}


def odd_values(state: State, generator: random.Random) -> State:
    """Values that are no plain arrays, or claim sizes that they do not have."""
    odd = (
        *(None, "text", [1, 2], {"a": 3}, Fraction(1, 2), Namespace(a=1), np.zeros(3), 10**30),
        *(torch.zeros(1).expand(2**40), torch.zeros(3, 3).to_sparse(), torch.empty(2**40, device="meta")),
        torch.nn.Parameter(torch.zeros(2)),
    )
    return state | {generator.choice(list(state)): generator.choice(odd)}


def not_finite(state: State, generator: random.Random) -> State:
    """One number that is none."""
    key = generator.choice(list(state))
    changed = state[key].clone()
    changed.flatten()[0] = generator.choice((float("nan"), float("inf"), -float("inf")))
    return state | {key: changed}


def other_objects(state: State, generator: random.Random) -> Any:
    """What is no state at all."""
    return generator.choice(([], {}, [state], torch.zeros(3), 3, "text", {"state_dict": 3}, {"params": [state]}, None))


STATES: dict[str, tuple[Callable[[State, random.Random], Any], str]] = {
    "renamed": (renamed, "refused"),
    "missing": (missing, "refused"),
    "extra": (lambda state, generator: state | {"stray.weight": torch.zeros(3)}, "refused"),
    "reshaped": (reshaped, ""),
    "prefixed": (lambda state, _: {f"module.net.{key}": value for key, value in state.items()}, "taken"),
    "deep prefix": (lambda state, _: {f"{'m.' * 400}{key}": value for key, value in state.items()}, ""),
    "halves": (typed(torch.float16, torch.bfloat16, torch.float64), "taken"),
    "no floats": (typed(torch.bool, torch.complex64, torch.int8, torch.int64), "refused"),
    "containers": (contained, ""),
    "holds itself": (looped, ""),
    "many": (many, "refused"),
    "odd names": (odd_names, ""),
    "odd values": (odd_values, "refused"),
    "not finite": (not_finite, "refused"),
    "no state": (other_objects, "refused"),
}
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": lambda data, generator: data[: generator.randrange(1, len(data))],
    "flipped": flipped,
    "header": header,
    "zeroed": zeroed,
    "twice": lambda data, generator: data + data,
}


def claimed(text: str | bytes, length: int | None = None) -> bytes:
    """A safetensors file of this header, and 64 bytes of data; `length`: what the file says of the header."""
    head = text if isinstance(text, bytes) else text.encode()
    return (len(head) if length is None else length).to_bytes(8, "little") + head + bytes(64)


def tensor_header(**values: Any) -> bytes:
    """A safetensors file of one tensor that says something odd of itself."""
    return claimed(json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **values}}))


CONTENTS: dict[str, Callable[[random.Random], bytes]] = {
    "empty": lambda _: b"",
    "a web page": lambda _: b"<!DOCTYPE html><html>quota</html>",
    "a pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "noise": lambda generator: generator.randbytes(generator.choice((5, 70, 5000))),
    "a pickle of levels": lambda _: b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "a pickle of code": lambda _: b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R" + bytes(64) + b".",
    "a pickle of a huge length": lambda _: b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + bytes(80) + b".",
    "a header of a huge length": lambda _: claimed("{}", 2**60),
    "a header of levels": lambda _: claimed('{"a":' + "[" * DEEP + "]" * DEEP + "}"),
    "a header of other types": lambda generator: tensor_header(
        **{generator.choice(("dtype", "shape", "data_offsets")): generator.choice((None, 3, "F99", [-1], {}, [1e400]))}
    ),
    "a shape of no memory": lambda _: tensor_header(shape=[2**40, 2**40]),
    "offsets of no file": lambda _: tensor_header(shape=[2**38], data_offsets=[0, 2**40]),
    "a name twice": lambda _: claimed('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "a": {}}'),
    "a header that is no text": lambda generator: claimed(b'{"' + generator.randbytes(50)),
}
SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "broken link": lambda path: path.symlink_to("gone"),
    "link in a circle": lambda path: path.symlink_to(path.name),
    "no file": lambda path: None,
}


# Folders of ours


def own(folder: Path, generator: random.Random) -> tuple[str, Path, str]:
    """A folder of ours: what it is in words, its path, and how it has to end ("": either way)."""
    name, network, _ = network_state(generator)
    model, arguments = folder / "model", dict(NETWORKS[name])
    card = {"schema_version": 1, "model": "m", "network": {"name": name, "arguments": arguments}, "variants": {"s": {}}}
    save_model(model, network, {**card, "weights": "ema", "step": 3, "parents": [], "notes": ["a"], "wall_s": 1.5})
    card, how = json.loads((model / "card.json").read_text()), generator.choice(("whole", *OWN))
    expected = OWN[how](model, card, generator) if how != "whole" else "taken"
    return f"our {name}, {how}", model, expected


def changed_card(model: Path, card: dict, generator: random.Random) -> str:
    """Some values replaced, wrapped, renamed or taken away."""
    for _ in range(generator.choice((1, 1, 2))):
        change(card, generator)
    try:
        text = json.dumps(card, default=repr)
    except RecursionError:
        text = f'{{"network": {"[" * DEEP}{"]" * DEEP}}}'
    (model / "card.json").write_text(text)
    return ""


def sized_card(model: Path, card: dict, generator: random.Random) -> str:
    """An argument of other size or number than the file has, or another network."""
    arguments = card["network"]["arguments"]
    key = generator.choice(sorted(arguments))
    sizes = (0, -1, 3, 77, 10**6, 2**31 - 1, 2**70, 1e300, [], [1] * 1000, [10**5], [[1]], True, "8", None)
    if generator.random() < 0.2:
        card["network"]["name"] = generator.choice(("vrdir", "promptir", "dynet", "swinir", "NAFNet", "../x", ""))
    else:
        arguments[key] = generator.choice(sizes)
    (model / "card.json").write_text(json.dumps(card))
    return ""


def other_card(model: Path, card: dict, generator: random.Random) -> str:
    """A card that is none."""
    path = model / "card.json"
    path.unlink()
    texts = (
        "",
        "{",
        "[]",
        "null",
        "{}",
        "\x00" * 50,
        "[" * 100_000,
        '{"network": {"name": "nafnet"}',
        '"\ud800"',
        "1e999",
    )
    text = generator.choice(("pipe", "folder", *texts))
    if text in ("pipe", "folder"):
        (os.mkfifo if text == "pipe" else os.mkdir)(path)
    else:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return "" if text == "pipe" or text == "folder" else "refused"


def damaged_weights(model: Path, card: dict, generator: random.Random) -> str:
    """Weights with other bytes than the card's checksum says."""
    file = model / "model.safetensors"
    before = file.read_bytes()
    file.write_bytes(DAMAGES[generator.choice(sorted(DAMAGES))](before, generator))
    return "taken" if file.read_bytes() == before else "refused"


def agreeing_weights(model: Path, card: dict, generator: random.Random) -> str:
    """Damaged or other weights, of which the card has the checksum."""
    file = model / "model.safetensors"
    if generator.random() < 0.5:
        damaged_weights(model, card, generator)
    else:
        state, how = (
            build_network(**{"name": "nafnet", **NETWORKS["nafnet"]}).state_dict(),
            generator.choice(sorted(STATES)),
        )
        content = STATES[how][0](dict(state), generator)
        file.write_bytes(encoded(content, ".safetensors", random.Random(0)))
    card["sha256"] = sha256_file(file)
    (model / "card.json").write_text(json.dumps(card))
    return ""


OWN: dict[str, Callable[[Path, dict, random.Random], str]] = {
    "changed card": changed_card,
    "sized card": sized_card,
    "other card": other_card,
    "damaged weights": damaged_weights,
    "agreeing weights": agreeing_weights,
}
