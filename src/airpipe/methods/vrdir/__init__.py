"""VRD-IR: restoration driven by recognition, in three stages (Yang et al., CVPR 2023)."""

from airpipe.registry import Assembly, Method, Stage

METHOD = Method(
    title="VRD-IR",
    files={"imported/vgg16": "torchvision's ImageNet weights, vgg16-397923af.pth"},
    networks={
        "vrdir_sad": "airpipe.methods.vrdir.network:SAD",
        "vrdir_dnc": "airpipe.methods.vrdir.network:DNC",
        "vrdir_fgm": "airpipe.methods.vrdir.network:FGM",
        "vrdir_ise": "airpipe.methods.vrdir.network:ISE",
        "vrdir": "airpipe.methods.vrdir.network:VRDIR",
    },
    stages={
        "recogniser": Stage(
            task="RecogniserTask",
            settings="RecogniserSettings",
            folder="recogniser_{which}",
            title="recogniser {which}",
            recognises=True,
        ),
        "sad": Stage(task="SadTask", settings="SadSettings", title="SAD, the decoder", part="decoder"),
        "dnc": Stage(
            task="DncTask",
            settings="DncSettings",
            folder="dnc_{degradation}",
            title="branch for {degradation}",
            part="branch",
        ),
        "ise": Stage(task="IseTask", settings="IseSettings", title="ISE, the fusion"),
    },
    assembly=Assembly(
        first="ISE's file of VRD-IR",
        roles={
            "sad": "beside a file of VRD-IR's ISE: its decoder, to import all as one",
            "encoder": "likewise: VGG16 as torchvision has it (vgg16-397923af.pth)",
        },
        function="with_parts",
    ),
)
