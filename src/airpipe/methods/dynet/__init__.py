"""DyNet: one set of weights, several networks; pretrained and trained together (Dudhane et al., 2024)."""

from airpipe.registry import Method, Stage

METHOD = Method(
    title="DyNet",
    networks={"dynet": "airpipe.methods.dynet.network:DyNet"},
    stages={
        "pretrain": Stage(task="DynamicTask", settings="DynamicSettings"),
        "train": Stage(task="TrainTask", settings="TrainSettings"),
    },
    printed=("{title}-{variant}",),
)
