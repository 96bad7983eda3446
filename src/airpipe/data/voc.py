"""Objects of PASCAL VOC cut out along their boxes: one small labelled image each.

Source: layout and annotations as in the development kits of 2007 and 2012 (Everingham et al., IJCV 2010).
Corners of boxes count from 1 and belong to the box.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.pixels import Rgb8
from airpipe.progress import track
from airpipe.settings.datasets import MadeCrops

LARGEST_ANNOTATION = 1_000_000
"""Largest annotation file in bytes; those of VOC have some thousand."""
CLASS_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,60}")
IMAGE_NAME = re.compile(r"[\w-]{1,100}")


@dataclass(frozen=True)
class Box:
    """One annotated object."""

    name: str
    left: float
    """Left edge in pixels from 0; right and bottom are the first pixels outside."""
    top: float
    right: float
    bottom: float
    difficult: bool
    """Whether annotators found it hard to recognise."""
    truncated: bool
    """Whether the box holds a part of the object only."""


def read_boxes(path: Path) -> list[Box]:
    """Read the boxes of an annotation file, in its order.

    Raises:
        AirpipeError: the file is unreadable, larger than `LARGEST_ANNOTATION`, not UTF-8 or not XML, declares a
            document type or entities (which may expand without end), or has objects without name or box.
    """
    try:
        if path.stat().st_size > LARGEST_ANNOTATION:
            raise AirpipeError(f"{path}: more than {LARGEST_ANNOTATION:,} bytes; expected an annotation of VOC")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AirpipeError(f"{path}: cannot be read ({error}). Expected an annotation of VOC in UTF-8") from None
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise AirpipeError(f"{path}: declares a document type or entities; expected a plain annotation. Remove them")
    try:
        found = ElementTree.fromstring(text)
        return [_box(item) for item in found.findall("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise AirpipeError(f"{path}: not an annotation of VOC ({error}). Unpack the archive again") from None


def _box(item: ElementTree.Element) -> Box:
    name = (item.findtext("name") or "").strip()
    if not CLASS_NAME.fullmatch(name):
        raise ValueError(f"an object is called {name!r}; expected letters, digits, _ and -")
    corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        raise ValueError(f"object {name} has no box with xmin, ymin, xmax, ymax")
    left, top, right, bottom = (float(corner or "") for corner in corners)
    if not (left <= right and top <= bottom):
        raise ValueError(f"the box of object {name} runs backwards")
    flags = [(item.findtext(key) or "0").strip() != "0" for key in ("difficult", "truncated")]
    # corners of VOC count from 1 and belong to the box
    return Box(name, left - 1, top - 1, right, bottom, *flags)


def wanted(box: Box, made: MadeCrops) -> bool:
    """Tell whether an object is large and clear enough for the settings to be cut out."""
    large = min(box.right - box.left, box.bottom - box.top) >= made.smallest
    return large and (made.difficult or not box.difficult) and (made.truncated or not box.truncated)


def cut_out(image: Rgb8, box: Box, margin: float) -> Rgb8:
    """Cut out the part of an image (H, W, 3) that a box and its margin (a part of the box's sides) cover."""
    across, down = margin * (box.right - box.left), margin * (box.bottom - box.top)
    top, bottom = max(0, round(box.top - down)), min(image.shape[0], round(box.bottom + down))
    left, right = max(0, round(box.left - across)), min(image.shape[1], round(box.right + across))
    return image[top:bottom, left:right]


def kit_folder(root: Path, year: int) -> Path:
    """Find VOC<year> in a folder that is VOCdevkit, holds it, or is VOC<year> itself.

    Raises:
        AirpipeError: there is no such folder.
    """
    name = f"VOC{year}"
    for folder in (root / name, root / "VOCdevkit" / name, root):
        if (folder / "Annotations").is_dir() and (folder != root or root.name == name):
            return folder
    raise AirpipeError(
        f"{root}: holds no {name}/Annotations, nor VOCdevkit/{name}/Annotations. "
        "Set root of its data set to the folder VOCdevkit of the unpacked archive"
    )


def make_crops(made: MadeCrops, root: Path, folder: Path) -> dict[str, int]:
    """Write all splits as `<split>/<class>/<image>_<n>.png` into an empty folder; n counts an image's objects from 0.

    Returns:
        Number of crops by split.

    Raises:
        AirpipeError: a list, annotation or image is missing or damaged, or nothing is left of a split.
    """
    kit = kit_folder(root, made.year)
    counts = {}
    for split, name in made.lists.items():
        images = _listed(kit / "ImageSets" / "Main" / f"{name}.txt")
        counts[split] = 0
        for image in track(images, len(images), f"cutting {split}"):
            for number, kind, crop in _crops(kit, image, made):
                path = folder / split / kind / f"{image}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not cv2.imwrite(str(path), crop[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3]):
                    raise AirpipeError(f"{path}: cannot be written. Free disk space, then run the same command again")
                counts[split] += 1
        if not counts[split]:
            raise AirpipeError(
                f"{kit}, list {name}: {len(images)} images have no object that is wanted (smallest {made.smallest} "
                f"pixels, difficult {made.difficult}, truncated {made.truncated}). Change these settings"
            )
    return counts


def _listed(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise AirpipeError(f"{path}: cannot be read ({error}). Name a file of ImageSets/Main in `lists`") from None
    odd = [name for name in names if not IMAGE_NAME.fullmatch(name)]
    if odd or not names:
        found = f"lists {odd[0]!r}" if odd else "lists nothing"
        raise AirpipeError(f"{path}: {found}; expected one image name without suffix a line")
    return list(dict.fromkeys(names))


def _crops(kit: Path, image: str, made: MadeCrops) -> Iterator[tuple[int, str, Rgb8]]:
    boxes = [(n, box) for n, box in enumerate(read_boxes(kit / "Annotations" / f"{image}.xml")) if wanted(box, made)]
    if not boxes:
        return
    pixels = read_rgb8(kit / "JPEGImages" / f"{image}.jpg")
    for number, box in boxes:
        crop = cut_out(pixels, box, made.margin)
        if min(crop.shape[:2]) < 1:
            raise AirpipeError(f"{kit}/Annotations/{image}.xml: object {number} lies outside the image")
        yield number, box.name, crop
