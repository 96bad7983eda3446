"""DCPT: a backbone learns to tell degradations apart, then to remove them (Hu et al., ICLR 2025)."""

from airpipe.registry import Assembly, Method, Stage

METHOD = Method(
    title="DCPT",
    networks={
        "restormer_dcpt": "airpipe.methods.dcpt.backbones:RestormerDCPT",
        "swinir_dcpt": "airpipe.methods.dcpt.backbones:SwinIRDCPT",
        "dcpt_head": "airpipe.methods.dcpt.network:DegradationHead",
        "dcpt": "airpipe.methods.dcpt.network:DCPT",
    },
    stages={
        "pretrain": Stage(task="PretrainTask", settings="PretrainSettings"),
        "direct": Stage(task="PretrainTask", settings="DirectSettings", runs_as="pretrain"),
        "masked_pretrain": Stage(task="MaskedPretrainTask", settings="MaskedPretrainSettings", runs_as="pretrain"),
        "probe": Stage(task="ProbeTask", settings="ProbeSettings"),
        "finetune": Stage(task="FinetuneTask", settings="FinetuneSettings"),
        "transfer": Stage(task="TransferTask", settings="TransferSettings"),
    },
    assembly=Assembly(
        first="the backbone of a DCPT pretraining",
        roles={"head": "second file of a DCPT pretraining (net_dc), to import both as one"},
        function="with_head",
    ),
    forks={"restormer": "restormer_dcpt", "swinir": "swinir_dcpt"},
)
