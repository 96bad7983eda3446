"""Making of data sets that nobody has to download: whole or not at all."""

import shutil
from pathlib import Path

from airpipe.data.locks import only_process
from airpipe.data.shapes import make_shapes
from airpipe.data.voc import make_crops
from airpipe.provenance import write_failed
from airpipe.settings.datasets import MadeCrops, MadeShapes


def make_dataset(made: MadeShapes | MadeCrops, target: Path, source: str = "") -> dict[str, int]:
    """Make a data set in a folder of its own beside `target`, then put it in its place.

    Args:
        made: settings of the data set in the registry.
        target: results/generated/<id>; a folder that is there is replaced, once the new one is whole. A run that was
            killed between the two leaves it as .<id>.old: the next one puts it back first.
        source: folder of the data set that objects are cut from.

    Returns:
        Number of images by split.

    Raises:
        AirpipeError: the source does not fit, or the disk is full.
    """
    work, old = (target.with_name(f".{target.name}.{what}") for what in ("partial", "old"))
    with only_process(target.with_name(f".{target.name}.lock")):
        try:
            if old.exists() and not target.exists():
                old.rename(target)
            for rest in (work, old):
                shutil.rmtree(rest, ignore_errors=True)
            work.mkdir(parents=True)
            counts = make_shapes(made, work) if isinstance(made, MadeShapes) else make_crops(made, Path(source), work)
            if target.exists():
                target.rename(old)
            work.rename(target)
        except OSError as error:
            raise write_failed(target, error) from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return counts
