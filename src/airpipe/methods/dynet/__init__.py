"""DyNet: one set of weights, several networks; pretrained and trained together (Dudhane et al., 2024)."""

from airpipe.registry import Method

METHOD = Method(title="DyNet", networks={"dynet": "airpipe.methods.dynet.network:DyNet"})
