"""Tiny stages of DyNet for `test_stages.py` and DyNet's own tests; parents name other toys."""

SIZES = {
    "dim": 4, "num_refinement_blocks": 1, "heads": [1, 1, 2, 2],
    "prompt_dims": [4, 4, 4], "prompt_sizes": [8, 4, 2], "prompt_len": 2,
}  # fmt: skip
CELLS = {
    "operation": "corrupted_cells",
    "parameters": {  # sorted, as in a frozen file: they are drawn in this order
        "amplitude": {"uniform": [5, 50]}, "cell": 4, "degraded": 0.5, "fill": 1, "masked": 0.3,
        "quality": {"integers": [20, 90]}, "sigma": {"uniform": [5, 50]},
    },
}  # fmt: skip
DYNAMIC = {
    "network": {"name": "dynet", "arguments": SIZES},
    "variants": {"s": {"reuse_freq": [1, 1, 1, 1]}, "l": {"reuse_freq": [1, 2, 1, 2]}},
    "optimizers": {"net": {"learning_rate": 1e-3}},
}
TOYS: dict = {
    "pretrain": {
        **DYNAMIC,
        "task": "dynet.pretrain",
        "data": [{"pairs": "toy.train", "recipe": "made", "operations": [CELLS]}],
    },
    "pretrain_s": {**DYNAMIC, "task": "dynet.pretrain", "branch": "s"},
    "train": {**DYNAMIC, "task": "dynet.train", "parents": {"init": "pretrain"}, "clamp": True, "ema_decay": 0.9},
}
