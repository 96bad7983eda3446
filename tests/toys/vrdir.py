"""Tiny stages of VRD-IR for `test_stages.py` and VRD-IR's own tests; parents name other toys."""

RATE = {"learning_rate": 2e-3}
ENHANCER = {"name": "vrdir", "arguments": {"in_channels": 8, "front_channels": 4, "hidden": 6, "normalise": "half"}}
SHARED = {"network": ENHANCER, "optimizers": {"net": RATE}, "ema_decay": None, "clip_norm": None}
A = {
    "task": "vrdir.recogniser",
    "network": {"name": "recogniser_vgg", "arguments": {"num_classes": 2, "widths": [4, 8], "body": [8, 8]}},
    "rebuild": True,
    "decoder_hidden": 6,
    "loss_weights": {"class": 1, "rebuild": 5},
    "optimizers": {"net": RATE, "decoder": RATE},
}
B = {
    "task": "vrdir.recogniser",
    "network": {"name": "recogniser_residual", "arguments": {"num_classes": 2, "stem": 4, "widths": [4, 8]}},
}
SAD = {
    "task": "vrdir.sad",
    "parents": {"encoder": "recogniser_a"},
    "loss_weights": {"degraded": 0.1, "similarity": 0.1},
}
DNC = {"task": "vrdir.dnc", "parents": {"sad": "sad"}}
ISE = {
    "task": "vrdir.ise",
    "branches": ["noise", "rain"],
    "parents": {"sad": "sad", "dnc_noise": "dnc_noise", "dnc_rain": "dnc_rain"},
}

TOYS = {
    "recogniser_a": SHARED | A,
    "recogniser_b": SHARED | B,
    "sad": SHARED | SAD,
    "dnc_noise": SHARED | DNC,
    "dnc_rain": SHARED | DNC,
    "ise": SHARED | ISE,
}
