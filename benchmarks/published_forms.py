"""The networks written the way published code is written: the yardstick of `benchmarks.training_step`.

Own code, after the descriptions of the architectures: plain eager operations on contiguous (B, C, H, W) maps.
`published_form` copies a network of this project and replaces the parts whose form matters for speed. State-dict
keys stay the same. What lies between the parts (convolutions, pixel shuffles, skips) is written alike in published
code and stays as it is, except for SwinIR, whose way through the maps is replaced, too.

- NAFNet: layer norm as a custom autograd function over dimension 1, adaptive pooling, dropout of rate 0.
- Restormer, PromptIR: maps become token lists for layer norm with `var`, and maps again; queries and keys are
  normalised before their product. Prompts are repeated, weighted, summed and always resized.
- SwinIR: windows are cut out and put back by copies, logits are formed explicitly, bias and mask added one after
  the other, the mask made anew in each shifted block (published code stores it for one image size only).
"""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airpipe.models import nafnet, promptir, restormer, swinir


class NormFunction(torch.autograd.Function):
    """Layer norm over the channels of (B, C, H, W) with its gradient written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Normalise, scale and shift."""
        centred = x - x.mean(1, keepdim=True)
        spread = (centred.pow(2).mean(1, keepdim=True) + eps).sqrt()
        normed = centred / spread
        ctx.save_for_backward(normed, spread, weight)
        return weight.view(1, -1, 1, 1) * normed + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of input, weight and bias."""
        normed, spread, weight = ctx.saved_tensors
        scaled = grads[0] * weight.view(1, -1, 1, 1)
        along = (scaled * normed).mean(1, keepdim=True)
        grad_x = (scaled - normed * along - scaled.mean(1, keepdim=True)) / spread
        return grad_x, (grads[0] * normed).sum(3).sum(2).sum(0), grads[0].sum(3).sum(2).sum(0), None


class Nafnet(nafnet.NAFBlock):
    """A block of NAFNet."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = self.conv2(self.conv1(self._norm(self.norm1, features)))
        first, second = x.chunk(2, dim=1)
        x = first * second
        x = x * self.sca[1](F.adaptive_avg_pool2d(x, 1))
        features = features + F.dropout(self.conv3(x), 0.0, self.training) * self.beta
        first, second = self.conv4(self._norm(self.norm2, features)).chunk(2, dim=1)
        x = F.dropout(self.conv5(first * second), 0.0, self.training)
        return features + x * self.gamma

    @staticmethod
    def _norm(norm: nafnet.ChannelNorm, x: Tensor) -> Tensor:
        normed: Tensor = NormFunction.apply(x, norm.weight, norm.bias, 1e-6)  # type: ignore[no-untyped-call]
        return normed


class TokenNorm(restormer.ChannelNorm):
    """Layer norm of Restormer over a list of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        variance = tokens.var(-1, keepdim=True, unbiased=False)
        if self.bias is None:
            normed = tokens / torch.sqrt(variance + self.eps) * self.weight
        else:
            mean = tokens.mean(-1, keepdim=True)
            normed = (tokens - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias
        return normed.transpose(1, 2).reshape(x.shape)


class Attention(restormer.ChannelAttention):
    """Channel attention of Restormer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        parts = self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        split = (batch, self.heads, channels // self.heads, height * width)
        query, key, value = (part.reshape(split) for part in parts)
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        scores = (query @ key.transpose(-2, -1)) * self.temperature
        weights = scores.softmax(-1) if self.activation == "softmax" else scores.relu()
        return cast(Tensor, self.project_out((weights @ value).reshape(x.shape)))


class FeedForward(restormer.GatedFeedForward):
    """Gated feed-forward part of Restormer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        first, second = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return cast(Tensor, self.project_out(F.gelu(first) * second))


class Block(restormer.TransformerBlock):
    """A block of Restormer: adds the two branches to its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.ffn(self.norm2(x)))


class Prompts(promptir.PromptGenerator):
    """Prompt generation of PromptIR."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to a prompt (B, P, H, W)."""
        shares = F.softmax(self.linear_layer(features.mean((-2, -1))), dim=1)
        repeated = self.prompt_param.unsqueeze(0).repeat(len(features), 1, 1, 1, 1, 1).squeeze(1)
        prompt = (shares[:, :, None, None, None] * repeated).sum(1)
        return cast(Tensor, self.conv3x3(F.interpolate(prompt, features.shape[-2:], mode="bilinear")))


class Windows(swinir.WindowAttention):
    """Window attention of SwinIR."""

    def forward(self, tokens: Tensor, index: Tensor | None, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `index` is given with relative bias, `mask` is not used."""
        batch, height, width, channels = tokens.shape
        side, shift = self.window, self.shift
        if shift:
            tokens = tokens.roll((-shift, -shift), (1, 2))
        cut = tokens.view(batch, height // side, side, width // side, side, channels)
        windows = cut.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side**2, channels)  # (B M, N, C)
        split = self.qkv(windows).reshape(len(windows), side**2, 3, self.heads, channels // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (B M, h, N, d)
        logits = (query * self.scale) @ key.transpose(-2, -1)
        if index is not None:
            bias = self.relative_position_bias_table[index.view(-1)].view(side**2, side**2, -1)
            logits = logits + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if shift and mask is not None:
            mask = swinir.shift_mask(height, width, side).to(tokens.device)
            logits = logits.view(batch, -1, self.heads, side**2, side**2) + mask[:, None]
            logits = logits.view(-1, self.heads, side**2, side**2)
        mixed = self.proj((logits.softmax(-1) @ value).transpose(1, 2).reshape(windows.shape))
        mixed = mixed.view(batch, height // side, width // side, side, side, channels)
        mixed = mixed.permute(0, 1, 3, 2, 4, 5).contiguous().view(batch, height, width, channels)
        return cast(Tensor, mixed.roll((shift, shift), (1, 2)) if shift else mixed)


class SwinBlock(swinir.SwinBlock):
    """A block of SwinIR: adds the two branches to its input."""

    def forward(self, tokens: Tensor, index: Tensor | None, mask: Tensor | None, kept: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to the same shape; no branch is dropped."""
        tokens = tokens + self.attn(self.norm1(tokens), index, mask)
        return cast(Tensor, tokens + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(tokens)))))


class Swinir(swinir.SwinIR):
    """SwinIR without mean, for images whose sides are multiples of the window."""

    def forward(self, image: Tensor, features: bool = False) -> Tensor:
        """Restore (B, 3, H, W)."""
        shallow = self.conv_first(image)
        size = shallow.shape
        tokens = self.embed_norm(shallow.flatten(2).transpose(1, 2)).view(-1, *size[2:], size[1])
        index = swinir.relative_index(self.window_size, image.device) if self.relative_bias else None
        mask = torch.empty(0) if self.attn_mask else None
        for layer in self.layers:
            mixed = tokens
            for block in cast(swinir.SwinGroup, layer).blocks:
                mixed = block(mixed, index, mask, None)
            mixed = cast(swinir.SwinGroup, layer).conv(mixed.flatten(1, 2).transpose(1, 2).view(size))
            tokens = mixed.flatten(2).transpose(1, 2).view(tokens.shape) + tokens
        body = self.norm(tokens).flatten(1, 2).transpose(1, 2).view(size)
        return cast(Tensor, image + self.conv_last(self.conv_after_body(body) + shallow))


FORMS: dict[type[nn.Module], type[nn.Module]] = {
    nafnet.NAFBlock: Nafnet,
    restormer.ChannelNorm: TokenNorm,
    restormer.ChannelAttention: Attention,
    restormer.GatedFeedForward: FeedForward,
    restormer.TransformerBlock: Block,
    promptir.PromptGenerator: Prompts,
    swinir.WindowAttention: Windows,
    swinir.SwinBlock: SwinBlock,
    swinir.SwinIR: Swinir,
}


def published_form(network: nn.Module) -> nn.Module:
    """A copy of a network, with the same weights, that computes the same the slow way.

    Args:
        network: NAFNet, Restormer, PromptIR, or a SwinIR that adds the image and subtracts no mean.
    """
    copied = copy.deepcopy(network)
    for module in copied.modules():
        module.__class__ = FORMS.get(type(module), type(module))
    return copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]
