"""DSRIR: three networks in series, each with an image and a map of its uncertainty (Wang et al., IP&M 2025)."""

from airpipe.registry import Method, Stage

METHOD = Method(
    title="DSRIR",
    files={"imported/vgg19": "torchvision's ImageNet weights, vgg19-dcbb9e9d.pth"},
    networks={"dsrir": "airpipe.methods.dsrir.network:DSRIR"},
    stages={"train": Stage(task="DsrirTask", settings="DsrirSettings")},
)
