"""A checkout and an environment below a folder called `a b`, on a data set that is assembled of links: one table.

    python tests/spaces.py [--profile slurm] [FOLDER]

Run by CI after `make setup`, on this machine and through Slurm; a minute each. The environment has its own interpreter
and the libraries of the one that runs this.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import toy_images

from workflow import OWN, TOY, copy_project, environment, write_overlay

TABLES = {"allinone": {"tests": ["mine_low_light"]}}
MODELS = {"models": ["baseline/nafnet_5d"]}
TARGETS = ("results/tables/allinone.csv", "results/figures/allinone/bars.png")


def main() -> int:
    """Make the table and a figure; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="of Snakemake; left out: the project's own, which runs jobs here")
    parser.add_argument("folder", type=Path, nargs="?", help="in which `a b` is made; left out: a temporary one")
    given = parser.parse_args()
    options = ["--profile", given.profile] if given.profile else []
    if given.folder:
        return below(given.folder / "a b", options)
    with tempfile.TemporaryDirectory() as folder:
        return below(Path(folder) / "a b", options)


def below(folder: Path, options: list[str]) -> int:
    project = copy_project(folder / "airpipe")
    write_overlay(project, TOY, OWN, MODELS, {"tables": TABLES})
    link_images(toy_images(folder / "photos of mine", count=2), project / "pictures")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    [own] = project.glob(".venv/lib/*/site-packages")
    (own / "libraries.pth").write_text("\n".join(libraries))
    variables = environment(project)
    variables["PATH"] = f"{project / '.venv/bin'}:{variables['PATH']}"
    start = [project / ".venv/bin/python", "-m", "snakemake", *options]
    command = [*start, "--configfile", "overlay.yaml", "--", *TARGETS]
    status = subprocess.run(command, cwd=project, env=variables).returncode
    made = [target for target in TARGETS if (project / target).is_file()]
    print(f"below {folder}: status {status}, made {', '.join(made) or 'nothing'}; expected {', '.join(TARGETS)}")
    return status or len(made) != len(TARGETS)


def link_images(images: list[Path], root: Path) -> None:
    """Assemble a data set of links, one by an absolute path, the others relative to it."""
    root.mkdir()
    for number, image in enumerate(images):
        place = root / f"photo {number}{image.suffix}"
        place.symlink_to(image.resolve() if number == 0 else Path("..", "..", image.parent.name, image.name))


if __name__ == "__main__":
    sys.exit(main())
