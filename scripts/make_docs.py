"""Rebuild the generated parts of the documentation (schema, rule graph, data sets); --check compares."""

import argparse
import json
import re
import subprocess
from pathlib import Path

from airpipe.cli.data import load_registry, ways
from airpipe.errors import AirpipeError, run_main
from airpipe.provenance import write_text
from airpipe.settings.project import json_schema

SCHEMA = Path("workflow/schemas/config.schema.json")
ARCHITECTURE = Path("docs/architecture.md")
DATASETS = Path("docs/datasets.md")


def rule_graph() -> str:
    """The default targets' rules as a mermaid chart, in an order that does not change."""
    command = ["snakemake", "--rulegraph", "mermaid-js", "--forceall", "--quiet", "all", "--", "all"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", "\n".join(lines), re.MULTILINE))
    edges = re.findall(r"^\s*(id\d+) --> (id\d+)", "\n".join(lines), re.MULTILINE)
    chart = sorted(f"    {names[first]} --> {names[second]}" for first, second in edges)
    return "\n".join(["flowchart TB", *chart])


def registry_table() -> str:
    """One line per data set of the registry."""
    lines = ["| id | data set | splits (pairs or images) | how to get it | used by |", "|---|---|---|---|---|"]
    for name, entry in load_registry().items():
        counts = {split: settings.expected for split, settings in entry.splits.items()}
        embedded = [file.split for file in entry.packages]
        counts |= {split: embedded.count(split) for split in embedded}
        splits = ", ".join(f"{split} ({count:,})" if count else split for split, count in counts.items())
        lines.append(
            f"| `{name}` | [{entry.title}]({entry.home}) | {splits} | {ways(entry)} | {'; '.join(entry.used_by)} |"
        )
    return "\n".join(lines)


def with_block(path: Path, name: str, content: str) -> str:
    """The text of a page with the part between its markers replaced."""
    block = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    text, count = block.subn(lambda match: f"{match[1]}{content}\n{match[2]}", path.read_text(encoding="utf-8"))
    if count != 1:
        raise AirpipeError(f"{path}: expected one pair of markers <!-- {name}: begin --> and end, found {count}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when something is out of step")
    given = parser.parse_args()
    made = {
        SCHEMA: json.dumps(json_schema(), indent=2) + "\n",
        ARCHITECTURE: with_block(ARCHITECTURE, "rule graph", f"```mermaid\n{rule_graph()}\n```"),
        DATASETS: with_block(DATASETS, "registry table", registry_table()),
    }
    stale = [path for path, content in made.items() if not path.exists() or path.read_text() != content]
    if given.check and stale:
        raise AirpipeError(f"{', '.join(map(str, stale))} out of step; run: make docs")
    for path in stale:
        write_text(path, made[path])
    print("documentation in step" if not stale else f"rewrote {', '.join(map(str, stale))}")


if __name__ == "__main__":
    run_main(main)
