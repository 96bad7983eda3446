"""Adversarial losses of a discriminator's scores (logits of any shape), by their usual names.

Each kind is a pair of functions of two score tensors, `real` and `fake`: what the generator minimises, and the two
parts that the discriminator minimises. Sources: GAN, Goodfellow et al. 2014; LSGAN, Mao et al., ICCV 2017; relativistic
average GAN, Jolicoeur-Martineau, ICLR 2019, halved as in BasicSR and DegAE's code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(kind: str, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """Return what the generator minimises.

    Args:
        kind: "lsgan", "gan" or "ragan".
        fake: scores of generated images.
        real: scores of real images, without gradient; only "ragan" looks at them.

    Raises:
        ValueError: an unknown kind, or ragan without real scores.
    """
    if kind == "ragan":
        if real is None:
            raise ValueError("ragan compares with the scores of real images, found none")
        return (_distance(kind, real - fake.mean(), 0) + _distance(kind, fake - real.mean(), 1)) / 2
    return _distance(kind, fake, 1)


def discriminator_losses(kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the discriminator minimises: of real images, and of generated ones.

    Args:
        kind: "lsgan", "gan" or "ragan".
        real: scores of real images.
        fake: scores of generated images.
    """
    if kind == "ragan":
        of_real, of_fake = real - fake.mean(), fake - real.mean()
        return _distance(kind, of_real, 1) / 2, _distance(kind, of_fake, 0) / 2
    return _distance(kind, real, 1), _distance(kind, fake, 0)


def _distance(kind: str, scores: Tensor, wanted: float) -> Tensor:
    """Mean distance of scores to the wanted answer, 1 for real and 0 for generated."""
    answer = torch.full_like(scores, wanted)
    if kind == "lsgan":
        return F.mse_loss(scores, answer)
    if kind in ("gan", "ragan"):
        return F.binary_cross_entropy_with_logits(scores, answer)
    raise ValueError(f"adversarial loss is {kind!r}; expected lsgan, gan or ragan")
