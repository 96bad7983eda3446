"""DegAE: images are shown with the degradation of others, then the encoder restores (Liu et al., CVPR 2023)."""

from airpipe.registry import Assembly, Method, Stage

METHOD = Method(
    title="DegAE",
    files={"imported/vgg19": "torchvision's ImageNet weights, vgg19-dcbb9e9d.pth"},
    networks={
        "degae": "airpipe.methods.degae.network:DegAE",
        "degae_finetune": "airpipe.methods.degae.network:DegAEFinetune",
        "degae_representor": "airpipe.methods.degae.representor:Representor",
        "degae_extractor": "airpipe.methods.degae.representor:Extractor",
        "degae_decoder": "airpipe.methods.degae.decoder:Decoder",
        "degae_head": "airpipe.methods.degae.decoder:Head",
        "degae_patchgan": "airpipe.methods.degae.discriminators:PatchGAN",
        "degae_vgg128": "airpipe.methods.degae.discriminators:VGG128",
    },
    stages={
        "representor": Stage(task="RepresentorTask", settings="RepresentorSettings", revision=2),
        "super_resolution": Stage(
            task="SuperResolutionTask",
            settings="SuperResolutionSettings",
            folder="sr{which}",
            title="extractor, sr{which}",
        ),
        "pretrain": Stage(task="PretrainTask", settings="PretrainSettings", takes_reference=True, revision=2),
        "finetune": Stage(task="FinetuneTask", settings="FinetuneSettings"),
    },
    assembly=Assembly(
        first="an encoder of DegAE",
        roles={
            "decoder": "beside an encoder of DegAE (*_PretrainEncoder, *_Encoder): its decoder, to import all as one",
            "representor": "likewise: the representor of its pretraining (*_DDG_Encoder)",
        },
        function="with_parts",
    ),
)
