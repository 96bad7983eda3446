"""The arguments of scripts that run one model on pair lists."""

import argparse
from pathlib import Path


def job_parser(description: str | None, pairs: str, or_none: bool = False) -> argparse.ArgumentParser:
    """Make a parser that knows the model, the pair lists, and the machine; the script adds its own arguments.

    Args:
        description: what the script does.
        pairs: which pair lists it is given, for the help.
        or_none: whether it also takes `none`, which has no file.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("id", help="model id, or none" if or_none else "model id")
    if or_none:
        parser.add_argument("--model", type=Path, nargs="?", help="model.safetensors; nothing for none")
    else:
        parser.add_argument("--model", type=Path, required=True, help="model.safetensors")
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, help=pairs)
    parser.add_argument("--root", action="append", default=[], help="dataset=folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser
