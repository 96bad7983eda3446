"""Tiny stages of DSRIR for `test_stages.py` and DSRIR's own tests; parents name other toys."""

NETWORK = {
    "name": "dsrir",
    "arguments": {
        "sn_feats": [4, 4, 4], "steps": [2, 2], "reduction": 2, "sn1_blocks": [1, 1, 1], "sn2_blocks": [1, 1],
        "sn3_blocks": 2, "sn1_grids": [4, 2, 1], "sn2_grids": [2, 1], "sn3_grids": [2, 1],
    },
}  # fmt: skip
RATE = {"learning_rate": 2e-3}
TRAIN = {"task": "dsrir.train", "network": NETWORK, "optimizers": {"net": RATE}, "contrast": "none"}
GROWING = {
    "rows": 4,
    "stretches": [
        {"iterations": 2, "patch_size": 12, "batch_size": 4},
        {"iterations": 3, "patch_size": 16, "batch_size": 3},
        {"iterations": 2, "patch_size": 24, "batch_size": 2},
    ],
}
"""Three phases of two steps each, in which 2, 2 and 1 epochs pass."""

BATCH_NORM = {"contrast"}
"""Toys with a loss of all samples of a process at once."""
TOYS = {
    "train": TRAIN,
    "contrast": {
        **TRAIN,
        "contrast": "encoder",
        "parents": {"encoder": "baseline/train"},
        "loss_weights": {"contrast": 0.2},
    },
    "progressive": {
        **TRAIN,
        "progression": GROWING,
        "phases": None,
        "optimizers": {"net": {**RATE, "per": "epoch", "warmup_steps": 2}},
    },
}
