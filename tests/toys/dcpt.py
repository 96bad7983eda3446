"""Tiny stages of DCPT for `test_stages.py` and DCPT's own tests; parents name other toys."""

NAFNET = {"img_channel": 3, "width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
RATE = {"learning_rate": 2e-3, "betas": [0.9, 0.9]}
HEAD = {
    "network": {"name": "nafnet", "arguments": NAFNET},
    "head": {"num_classes": 3},
    "optimizers": {"net": RATE, "head": {**RATE, "weight_decay": 1e-4}},
}
ONE = {"network": HEAD["network"], "optimizers": {"net": RATE}, "ema_decay": 0.9}

TOYS = {
    "pretrain": {**HEAD, "task": "dcpt.pretrain"},
    "direct": {**HEAD, "task": "dcpt.direct"},
    "class_only": {**HEAD, "task": "dcpt.pretrain", "generation_input": "none"},
    "masked_pretrain": {**HEAD, "task": "dcpt.masked_pretrain", "mask_patch": 4},
    "probe": {**HEAD, "task": "dcpt.probe", "optimizers": {"head": RATE}, "parents": {"init": "pretrain"}},
    "finetune": {**ONE, "task": "dcpt.finetune", "parents": {"init": "pretrain"}},
    "transfer": {**ONE, "task": "dcpt.transfer", "parents": {"init": "finetune", "guide": "pretrain"}},
}
