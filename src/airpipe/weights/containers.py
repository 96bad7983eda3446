"""Which tensors of a file are the weights: containers, networks side by side, averages, wrappers' prefixes.

A file is a mapping of names that holds tensors, or mappings that hold them. A set of weights in it has a key, the
names on the way to it with dots between them ("state_dict.net"), be the last one a mapping or a prefix of names.
"""

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from airpipe.errors import AirpipeError
from airpipe.settings.base import shown

CONTAINERS = ("params_ema", "state_dict_ema", "params", "state_dict", "model")
"""Keys under which published files keep the weights, in order of preference."""
TRAINING_STATE = {
    *("optimizer", "optimizers", "optimizer_states", "optimizer_state_dict", "optim", "param_groups"),
    *("scheduler", "schedulers", "lr_scheduler", "lr_schedulers", "callbacks", "loops", "scaler", "hyper_parameters"),
}
"""Keys of a checkpoint that hold the state of a training, no weights."""
COUNTERS = {"total_ops", "total_params", "step_counter", "n_averaged"}
"""Last words of entries that profilers and averages leave between weights: a number each, which no network has."""
TOP = "."
"""Key that means the outermost level of a file."""
DEEPEST = 16
"""Largest number of containers in one another."""
LONGEST = 300
"""Largest number of characters of a name; those of published files have up to 100."""
MANY = 20
"""Largest number of sets that are looked into for a message."""

C = TypeVar("C", bound="Contained")
Known = Callable[[Mapping[str, Tensor]], bool]
"""A function that tells whether tensors are those of a known network."""


@dataclass(frozen=True)
class Contained:
    """Tensors of a set of weights, container and prefixes removed."""

    tensors: dict[str, Tensor]
    """Tensors on the CPU, by their names without prefixes."""
    container: str
    """Key of the set; "." where it is the outermost level."""
    others: tuple[str, ...] = ()
    """Keys of other sets in the file."""
    prefix: str = ""
    """Words that were removed from the beginning of all names, joined."""
    left_out: tuple[str, ...] = ()
    """Entries of the container that are no tensors, such as `epoch`."""
    counters: tuple[str, ...] = ()
    """Entries that profilers and averages left, see `COUNTERS`."""

    @property
    def average(self) -> bool:
        """Whether the names on the way to the weights say that they are an average over training (EMA)."""
        return is_average(f"{self.container}.{self.prefix}")


def is_average(name: str) -> bool:
    """Tell whether a name has the word "ema".

    >>> is_average("generator_ema"), is_average("schema")
    (True, False)
    """
    return "ema" in re.split(r"[._\-]", name.lower())


def find_weights(
    content: Any, what: str, key: str | None = None, option: str = "--key {}", known: Known | None = None
) -> Contained:
    """Find the weights in what was read; see `foreign.read_weights`.

    Args:
        content: what the file holds.
        what: the file, for messages.
        key: key of the set; None: the only one, or the first of `CONTAINERS`, or an average beside it.
        option: how a user gives a key, for messages.
        known: where several sets are there, those for which it is true are offered, if there are any.

    Raises:
        AirpipeError: no set, no one that can be preferred, none of this key, or a name that is none.
    """
    if not isinstance(content, Mapping):
        raise AirpipeError(f"{what}: holds a {type(content).__name__}. Expected a state dict: names and tensors")
    check_names(content, what)
    path, others = key or TOP, list[str]()
    chosen = _descend(content, path)
    if chosen is None:
        raise _nothing(content, path, what, option, known)
    if key is None or not _tensors(chosen):
        path, others = _choose(content, path, what, option, known)
        chosen = _descend(content, path) or {}
    tensors = _tensors(chosen)
    counters = tuple(name for name, value in tensors.items() if _counts(name, value))
    if len(counters) == len(tensors):
        raise _no_tensors(content, path, what)
    left_out = tuple(str(name) for name, value in chosen.items() if not isinstance(value, Tensor))
    kept = {name: value for name, value in tensors.items() if name not in counters}
    return Contained(kept, path, tuple(others), "", left_out, counters)


def check_names(content: Mapping[Any, Any], what: str) -> None:
    """Refuse names of tensors and containers that no network has and no message could show, at any level.

    Raises:
        AirpipeError: a name with control characters, or of more than `LONGEST` characters.
    """
    waiting, known = [content], {id(content)}
    while waiting:
        for name, value in waiting.pop().items():
            inner = isinstance(value, Mapping)
            named = isinstance(name, str) and (inner or isinstance(value, Tensor))
            if named and (len(name) > LONGEST or not name.isprintable()):
                raise AirpipeError(
                    f"{what}: {shown(name)} names an entry. Expected names of up to {LONGEST} printable characters"
                )
            if inner and id(value) not in known:
                known.add(id(value))
                waiting.append(value)


def shared_prefixes(names: Mapping[str, Any]) -> list[str]:
    """Return the beginnings in whole words that all names have and that leave something, the empty one first.

    >>> shared_prefixes({"module.net.a.weight": 0, "module.net.b": 0})
    ['', 'module.', 'module.net.']
    """
    listed = iter(names)
    shared = next(listed, "").split(".")[:-1][:DEEPEST]
    for name in listed:
        words = name.split(".", len(shared))[:-1]
        count = next((at for at, word in enumerate(shared) if at >= len(words) or words[at] != word), len(shared))
        shared = shared[:count]
    return ["".join(f"{word}." for word in shared[:count]) for count in range(len(shared) + 1)]


def without_prefix(found: C, prefix: str) -> C:
    """Remove a beginning that all names have."""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in found.tensors.items()}
    return replace(found, tensors=tensors, prefix=found.prefix + prefix)


def parts(names: Mapping[str, Any]) -> dict[str, int]:
    """Count entries by the first word of their names, the largest count first."""
    return dict(Counter(name.split(".", 1)[0] for name in names).most_common())


def joined(path: str, name: str) -> str:
    """Return the key of what lies under a name in the set with the key `path`."""
    return name if path == TOP else f"{path}.{name}"


def choices(keys: list[str], option: str) -> str:
    """Say how a user gives one of some keys, such as "--key params or --key state_dict.net"; what is printed works."""
    return " or ".join(option.format(shlex.quote(key) if "--" in option else repr(key)) for key in keys[:MANY])


# Which set


def _choose(top: Mapping[Any, Any], path: str, what: str, option: str, known: Known | None) -> tuple[str, list[str]]:
    """Key of the weights at or below a key, and those of the sets beside it."""
    content, others = _descend(top, path) or {}, list[str]()
    holding: dict[int, bool] = {}
    for _ in range(DEEPEST):
        inner = {str(name): value for name, value in content.items() if _is_container(name, value, holding)}
        own = [str(name) for name, value in content.items() if _is_array(value) and not _counts(str(name), value)]
        if not inner:
            average, plain = _twins(content)
            others += [joined(path, word) for word in plain]
            return (joined(path, average) if average else path), others
        best = _preferred(inner)
        if own or best is None:
            keys = [joined(path, name) for name in inner] + ([path] if own else [])
            also = f", and {len(own)} tensors beside them (first: {own[0]})" if own else ""
            offer = _offer(top, keys, option, known)
            raise AirpipeError(f"{what}: holds several sets of weights: {', '.join(inner)}{also}. {offer}")
        others += [joined(path, name) for name in inner if name != best]
        path, content = joined(path, best), inner[best]
    raise AirpipeError(
        f"{what}: has more than {DEEPEST} containers in one another, or one that holds itself (at {path[:60]}). "
        "Expected a state dict: names and tensors; save it with torch.save(model.state_dict(), ...)"
    )


def _offer(content: Mapping[Any, Any], keys: list[str], option: str, known: Known | None) -> str:
    """Say which of some keys a user can choose: those of known networks, or all where no network is known."""
    sets = {key: _descend(content, key) for key in keys[:MANY]} if known else {}
    usable = [key for key, found in sets.items() if known and known(_tensors(found or {}))]
    return f"Choose with {choices(usable or keys, option)}"


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _counts(name: str, value: Tensor) -> bool:
    return name.rpartition(".")[2] in COUNTERS and value.numel() == 1


def _is_container(name: Any, value: Any, holding: dict[int, bool], depth: int = 0) -> bool:
    """Whether an entry is a mapping of names with a tensor somewhere in it, and no training state.

    `holding` remembers mappings by identity: files can hold one in many places, or in itself.
    """
    if not isinstance(name, str) or not isinstance(value, Mapping) or name in TRAINING_STATE or "param_groups" in value:
        return False
    if id(value) not in holding:
        holding[id(value)] = False  # while it is looked into: what holds itself and no tensor is none
        holding[id(value)] = any(
            (isinstance(inner, Tensor) and isinstance(key, str))
            or (depth < DEEPEST and _is_container(key, inner, holding, depth + 1))
            for key, inner in value.items()
        )
    return holding[id(value)]


def _preferred(inner: Mapping[str, Mapping[Any, Any]]) -> str | None:
    """Name of the container to take: the only one, the first of `CONTAINERS`, or an average of equal shapes."""
    if len(inner) == 1:
        return next(iter(inner))
    known = [name for name in CONTAINERS if name in inner]
    plain = known or [name for name in inner if not is_average(name)]
    if known and is_average(known[0]):
        return known[0]
    if not known and len(plain) != 1:
        return None
    shapes = _shapes(inner[plain[0]])
    averages = [name for name in inner if is_average(name) and _shapes(inner[name]) == shapes]
    if len(averages) == 1:
        return averages[0]
    return plain[0] if known else None


def _shapes(content: Mapping[Any, Any]) -> Counter[tuple[int, ...]]:
    """Count the shapes of the arrays in a container, or of those in the only container in it."""
    for _ in range(DEEPEST):
        found = Counter(tuple(value.shape) for value in content.values() if _is_array(value))
        inner = [value for value in content.values() if isinstance(value, Mapping)]
        if found or len(inner) != 1:
            return found
        content = inner[0]
    return Counter()


def _twins(content: Mapping[Any, Any]) -> tuple[str, list[str]]:
    """Find an average beside what it averages (`net_ema.…`, `net.…`): how its names begin, and how all others do."""
    named = {name: tuple(value.shape) for name, value in _tensors(content).items() if not _counts(name, value)}
    prefix = shared_prefixes(named)[-1]
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in named.items():
        word, _, rest = name.removeprefix(prefix).partition(".")
        groups.setdefault(word, {})[rest] = shape
    equal = Counter(frozenset(entries.items()) for entries in groups.values())
    for word, entries in groups.items():
        if is_average(word) and len(entries) > 1 and equal[frozenset(entries.items())] > 1:
            return prefix + word, [prefix + other for other in groups if other != word]
    return "", []


def _descend(content: Mapping[Any, Any], key: str) -> Mapping[Any, Any] | None:
    """The entries under a key: mappings as far as they go, then names with a prefix, which is removed; None: none."""
    here, _, rest = _walk(content, key)
    if not rest:
        return here
    prefix = f"{rest}."
    found = {name: v for name, v in here.items() if isinstance(name, str) and name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in found.items()} or None


def _walk(content: Mapping[Any, Any], key: str) -> tuple[Mapping[Any, Any], str, str]:
    """The innermost mapping on the way to a key, the key of that mapping, and the rest of the way."""
    here, walked, rest = content, TOP, "" if key == TOP else key
    while rest:
        fitting = [
            name
            for name, value in here.items()
            if isinstance(name, str) and isinstance(value, Mapping) and name and f"{rest}.".startswith(f"{name}.")
        ]
        if not fitting:
            break
        name = max(fitting, key=len)  # a name may have dots itself
        here, walked, rest = here[name], joined(walked, name), rest[len(name) + 1 :]
    return here, walked, rest


def _nothing(content: Mapping[Any, Any], key: str, what: str, option: str, known: Known | None) -> AirpipeError:
    """The error for a key that leads nowhere: what is there, and which keys work."""
    here, walked, _ = _walk(content, key)
    words = list(parts({name: value for name, value in here.items() if isinstance(name, str)}))[:12]
    usable = list(itertools.islice(_sets(here, walked), MANY))
    offer = f". {_offer(content, usable, option, known)}" if usable else ""
    return AirpipeError(f"{what}: nothing under {key[:80]!r}. It has: {', '.join(words) or 'nothing'}{offer}")


def _sets(content: Mapping[Any, Any], path: str) -> Iterator[str]:
    """Keys of all sets of tensors at and below a key: containers, and beginnings of names."""
    holding: dict[int, bool] = {}
    for name, value in content.items():
        if _is_container(name, value, holding) and path.count(".") < DEEPEST:
            yield from [joined(path, name)] if _tensors(value) else _sets(value, joined(path, name))
    beginnings = dict.fromkeys(name.partition(".")[0] for name in _tensors(content) if "." in name)
    yield from (joined(path, word) for word in beginnings)


def _no_tensors(content: Mapping[Any, Any], path: str, what: str) -> AirpipeError:
    names = ", ".join(str(name)[:80] for name in list(content)[:8])
    if TRAINING_STATE & set(map(str, content)):
        return AirpipeError(
            f"{what}: is the state of a training run ({names}) without weights. "
            "Give the model file that was saved beside it (net_g_*.pth or the like)"
        )
    where = "" if path == TOP else f" under {path}"
    return AirpipeError(
        f"{what}: holds no tensors{where} (it has {names or 'no entry'}). "
        f"Expected a state dict, or one under {', '.join(CONTAINERS)}"
    )
