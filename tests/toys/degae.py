"""Tiny stages of DegAE for `test_stages.py` and DegAE's own tests; parents name other toys."""

RATE = {"learning_rate": 1e-3, "betas": [0.9, 0.99]}
PHI = {"nf": 4, "nb": 4}
ENCODER = {
    "out_channels": 6, "dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 2],
}  # fmt: skip
BLUR = {"operation": "defocus_blur", "parameters": {"diameter": {"uniform": [1, 4]}}, "chance": 0.5}
NOISE = {"operation": "gaussian_noise", "parameters": {"sigma": {"integers": [5, 30]}}, "chance": 0.7}
SYNTHESIS = {"operations": [BLUR, NOISE], "shuffle": 0.5, "nothing": 0.2}
PAIR = {"pairs": "toy.train", "recipe": "made", "operations": SYNTHESIS, "companion": True}
TRANSFER = [{**PAIR, "target_recipe": "made", "target_operations": SYNTHESIS}]
SHORT = [{"steps": 6, "patch_size": 24, "batch_size": 3}]
DEGAE: dict = {
    "name": "degae",
    "arguments": {
        "backbone": "restormer",
        "encoder": ENCODER,
        "decoder": {"in_c": 6, "nf": 8, "degradation_embed_dim": 32},
        "representor": PHI,
    },
}
FINETUNED = {"name": "degae_finetune", "arguments": {"backbone": "restormer", "encoder": ENCODER, "head": {"in_c": 6}}}
CRITIC = {"net": RATE, "discriminator": {**RATE, "kind": "adam"}}
PRETRAIN = {
    "task": "degae.pretrain",
    "network": DEGAE,
    "data": TRANSFER,
    "phases": SHORT,
    "optimizers": CRITIC,
    "perceptual": "none",
    "gan": "lsgan",
    "gan_from": 3,
    "discriminator": {"name": "degae_patchgan", "arguments": {"ndf": 8}},
    "loss_weights": {"embedding": 0.1, "adversarial": 0.01},
}
PHI_NETWORK = {"name": "degae_representor", "arguments": PHI}
SR_NETWORK = {"name": "degae_extractor", "arguments": PHI}

BATCH_NORM = {"srgan", "pretrain"}
"""Toys with a discriminator, which normalises with the statistics of a process's own samples."""
TOYS = {
    "representor": {
        "task": "degae.representor",
        "network": PHI_NETWORK,
        "data": [PAIR],
        "phases": SHORT,
        "optimizers": {"net": RATE},
    },
    "srresnet": {
        "task": "degae.super_resolution",
        "network": SR_NETWORK,
        "phases": SHORT,
        "optimizers": {"net": RATE},
    },
    "srgan": {
        "task": "degae.super_resolution",
        "network": SR_NETWORK,
        "phases": SHORT,
        "optimizers": CRITIC,
        "gan": "ragan",
        "discriminator": PRETRAIN["discriminator"],
        "parents": {"init": "srresnet"},
    },
    "pretrain": {**PRETRAIN, "parents": {"representor": "representor"}},
    "pretrain_alone": {**PRETRAIN, "gan": "none", "gan_from": 0, "optimizers": {"net": RATE}, "loss_weights": {}},
    "finetune": {
        "task": "degae.finetune",
        "network": FINETUNED,
        "optimizers": {"net": RATE},
        "parents": {"init": "pretrain"},
    },
    "probe": {
        "task": "degae.finetune",
        "network": FINETUNED,
        "optimizers": {"net": RATE},
        "parents": {"init": "pretrain"},
        "fix_encoder": True,
    },
}
