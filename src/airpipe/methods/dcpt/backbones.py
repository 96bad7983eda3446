"""The forks of Restormer and SwinIR that DCPT trains.

Source: Zamir et al., "Restormer", CVPR 2022; Liang et al., "SwinIR", arXiv 2108.10257. Behaviour matched:
MILab-PKU/DCPT `basicsr/archs/restormer_arch.py` and its SwinIR (goldens `restormer_dcpt_*`, `swinir_dcpt_*`,
`dcpt_hook_*`). Parameters of the defaults: 26,111,668 and 11,455,563.

State-dict keys: those of Restormer with <stage>.body.<block>, hence no file of one loads into the other; SwinIR's here,
published as `encode_layers.<0-2>` and `decode_layers<0-2>`. Padding, which the published code leaves to its runner, and
all else as in `airpipe.models.restormer` and `swinir`.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from airpipe.models import restormer, swinir
from airpipe.models.contract import Shapes


class RestormerDCPT(restormer.Restormer):
    """The Restormer of DCPT: ReLU in place of the softmax, layer norm without bias and with eps 1e-6.

    Stages are keyed <stage>.body.<block>, convolutions inside blocks never have a bias, and
    convolutions start from a truncated normal of standard deviation 0.02. Features are those of `Restormer`.

    Args:
        inp_channels: channels of the image; must equal `out_channels`. All other arguments as in `Restormer`.
    """

    stages_in_body = True
    assumed: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: Literal["WithBias", "BiasFree"] = "BiasFree",
    ) -> None:
        sizes = (inp_channels, out_channels, dim, num_blocks, num_refinement_blocks, heads, ffn_expansion_factor)
        super().__init__(*sizes, bias, LayerNorm_type, attention="relu", norm_eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Constructor arguments that a state of DCPT's fork has, or None when it is another network.

        Args:
            shapes: shape of each tensor, by its published name.
        """
        if "latent.body.0.attn.temperature" not in shapes:
            return None
        inside = rf"^({'|'.join(restormer.STAGES)})\.body\."
        return restormer.sizes_from({re.sub(inside, r"\1.", key): shape for key, shape in shapes.items()})


class SwinIRDCPT(swinir.SwinIR):
    """The SwinIR of DCPT: no relative bias, no shift mask, the mean subtracted, six groups.

    Published names: `encode_layers.<0-2>` and `decode_layers<0-2>` for the groups. Arguments as
    for `SwinIR`.
    """

    UNPADDED_LAYOUTS: ClassVar[tuple[str, ...]] = ("published",)
    assumed: ClassVar[tuple[str, ...]] = ("num_heads", "window_size", "img_range")

    def __init__(
        self,
        embed_dim: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        mlp_ratio: float = 2.0,
        window_size: int = 8,
        upscale: int = 1,
        upsampler: str = "",
        in_chans: int = 3,
        img_range: float = 1.0,
        resi_connection: str = "1conv",
        drop_path_rate: float = 0.0,
        pad: Literal["reflect", "none"] = "reflect",
    ) -> None:
        if len(depths) != 6:
            raise ValueError(f"depths {list(depths)} has {len(depths)} groups; the DCPT fork has 6")
        super().__init__(
            upscale=upscale,
            upsampler=upsampler,
            in_chans=in_chans,
            img_range=img_range,
            window_size=window_size,
            depths=depths,
            embed_dim=embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            resi_connection=resi_connection,
            drop_path_rate=drop_path_rate,
            relative_bias=False,
            attn_mask=False,
            rgb_mean=True,
            pad=pad,
        )

    @staticmethod
    def _published_name(key: str) -> str:
        key = re.sub(r"^layers\.([0-2])\.", r"encode_layers.\1.", swinir.SwinIR._published_name(key))
        return re.sub(r"^layers\.(\d)\.", lambda found: f"decode_layers{int(found[1]) - 3}.", key)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Constructor arguments that a published state has, or None when it is another network.

        Without bias tables neither window nor heads show: 8, and 6 heads as published, or the
        largest smaller number that divides `embed_dim`.

        Args:
            shapes: shape of each tensor, by its published name or the one here.
        """
        found = swinir.sizes_from(shapes)
        if found is None or found.pop("tables") or len(found["depths"]) != 6:
            return None
        heads = next(heads for heads in range(6, 0, -1) if found["embed_dim"] % heads == 0)
        return {**found, "window_size": 8, "num_heads": [heads] * 6}
