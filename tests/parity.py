"""Check that an architecture computes the same function as its published reference.

A golden file (``*.npz``) records what the published implementation of a model
computes when its parameters are filled by :func:`fill_parameters`: the state-dict
keys and shapes, the parameter count, and the output for the input made by
:func:`make_input`.  Nothing of the reference's code or trained weights is in it.

Use from a test::

    golden = load_golden("nafnet_w16.npz")
    model = NAFNet(**golden.config)              # your implementation
    state = convert(golden.reference_state())    # your key map: published -> yours
    model.load_state_dict(state, strict=True)
    out = model.eval()(golden.input())
    torch.testing.assert_close(out, golden.outputs["out"], rtol=1e-4, atol=1e-4)
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


def fill_tensor(key: str, shape: tuple[int, ...], kind: str) -> torch.Tensor:
    """Deterministic values for one published state-dict entry.

    ``kind`` is ``"weight"`` (>= 2-D parameter), ``"vector"`` (0-D or 1-D
    parameter), ``"running_mean"`` or ``"running_var"``.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    noise = torch.randn(shape, generator=generator)
    if kind == "weight":
        return noise / math.sqrt(max(1, math.prod(shape[1:])))
    if kind == "vector":
        # gains stay near 1, biases near 0, whatever they are called
        gain = key.rsplit(".", 1)[-1] in {"weight", "temperature"}
        return (1.0 if gain else 0.0) + 0.1 * noise
    if kind == "running_mean":
        return 0.1 * noise
    if kind == "running_var":
        return 1.0 + 0.1 * noise.abs()
    raise ValueError(f"unknown kind {kind!r} for {key!r}")


def kind_of(key: str, shape: tuple[int, ...]) -> str:
    leaf = key.rsplit(".", 1)[-1]
    if leaf in {"running_mean", "running_var"}:
        return leaf
    return "weight" if len(shape) >= 2 else "vector"


def make_input(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Uniform [0, 1) float32 input, fixed by ``seed``."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def fill_parameters(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Fill every parameter and batch-norm statistic of ``model`` in place.

    Other buffers (index tables, masks) are left as the model built them.
    Returns the filled keys with their shapes.
    """
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    filled = {}
    state = model.state_dict()
    with torch.no_grad():
        for key, tensor in state.items():
            if not tensor.is_floating_point():
                continue
            if key in names or key.rsplit(".", 1)[-1] in {"running_mean", "running_var"}:
                shape = tuple(tensor.shape)
                tensor.copy_(fill_tensor(key, shape, kind_of(key, shape)))
                filled[key] = shape
    return filled


@dataclass(frozen=True)
class Golden:
    name: str
    config: dict
    keys: dict[str, tuple[int, ...]]  # filled published keys -> shapes
    other_keys: list[str]  # published buffers that are not filled
    n_params: int
    input_shapes: list[tuple[int, ...]]
    input_seeds: list[int]
    outputs: dict[str, torch.Tensor]
    notes: str

    def reference_state(self) -> dict[str, torch.Tensor]:
        """The published state dict (filled entries only) under published names."""
        return {k: fill_tensor(k, s, kind_of(k, s)) for k, s in self.keys.items()}

    def input(self, index: int = 0) -> torch.Tensor:
        return make_input(self.input_shapes[index], self.input_seeds[index])


def save_golden(path, *, name, config, model, inputs, outputs, notes="", n_params=None):
    """Write a golden: ``inputs`` is a list of (shape, seed), ``outputs`` a dict of tensors."""
    filled = {
        k: tuple(v.shape)
        for k, v in model.state_dict().items()
        if v.is_floating_point()
        and (
            k in {n for n, _ in model.named_parameters(remove_duplicate=False)}
            or k.rsplit(".", 1)[-1] in {"running_mean", "running_var"}
        )
    }
    meta = dict(
        name=name,
        config=config,
        keys=[[k, list(s)] for k, s in filled.items()],
        other_keys=[k for k in model.state_dict() if k not in filled],
        n_params=n_params if n_params is not None else sum(p.numel() for p in model.parameters()),
        input_shapes=[list(s) for s, _ in inputs],
        input_seeds=[seed for _, seed in inputs],
        notes=notes,
        torch=torch.__version__,
    )
    arrays = {f"out_{k}": v.detach().cpu().numpy().astype(np.float32) for k, v in outputs.items()}
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **arrays)


def load_golden(path) -> Golden:
    path = Path(path)
    if not path.exists():
        path = Path(__file__).parent / path
    with np.load(path, allow_pickle=False) as z:
        meta = json.loads(str(z["meta"]))
        outputs = {k[4:]: torch.from_numpy(z[k]) for k in z.files if k.startswith("out_")}
    return Golden(
        name=meta["name"],
        config=meta["config"],
        keys={k: tuple(s) for k, s in meta["keys"]},
        other_keys=meta["other_keys"],
        n_params=meta["n_params"],
        input_shapes=[tuple(s) for s in meta["input_shapes"]],
        input_seeds=meta["input_seeds"],
        outputs=outputs,
        notes=meta["notes"],
    )
