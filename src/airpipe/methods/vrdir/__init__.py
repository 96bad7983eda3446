"""VRD-IR: restoration driven by recognition, in three stages (Yang et al., CVPR 2023)."""

from airpipe.registry import Method, Stage

METHOD = Method(
    title="VRD-IR",
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
        "sad": Stage(task="SadTask", settings="SadSettings", title="SAD, the decoder"),
        "dnc": Stage(
            task="DncTask", settings="DncSettings", folder="dnc_{degradation}", title="branch for {degradation}"
        ),
        "ise": Stage(task="IseTask", settings="IseSettings", title="ISE, the fusion"),
    },
)
