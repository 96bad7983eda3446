"""Rebuild the generated parts of the documentation: settings schema and rule graph; --check compares."""

import argparse
import json
import re
import subprocess
from pathlib import Path

from airpipe.errors import AirpipeError, run_main
from airpipe.project import json_schema
from airpipe.provenance import write_text

SCHEMA = Path("workflow/schemas/config.schema.json")
ARCHITECTURE = Path("docs/architecture.md")
BLOCK = re.compile(r"(<!-- rule graph: begin -->\n).*?(<!-- rule graph: end -->)", re.DOTALL)


def rule_graph() -> str:
    """The default targets' rules as a mermaid chart, in an order that does not change."""
    command = ["snakemake", "--rulegraph", "mermaid-js", "--forceall", "--quiet", "all", "--", "all"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", "\n".join(lines), re.MULTILINE))
    edges = re.findall(r"^\s*(id\d+) --> (id\d+)", "\n".join(lines), re.MULTILINE)
    chart = sorted(f"    {names[first]} --> {names[second]}" for first, second in edges)
    return "\n".join(["flowchart TB", *chart])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when something is out of step")
    given = parser.parse_args()
    text = ARCHITECTURE.read_text(encoding="utf-8")
    made = {
        SCHEMA: json.dumps(json_schema(), indent=2) + "\n",
        ARCHITECTURE: BLOCK.sub(lambda m: f"{m[1]}```mermaid\n{rule_graph()}\n```\n{m[2]}", text),
    }
    stale = [path for path, content in made.items() if not path.exists() or path.read_text() != content]
    if given.check and stale:
        raise AirpipeError(f"{', '.join(map(str, stale))} out of step; run: make docs")
    for path in stale:
        write_text(path, made[path])
    print("documentation in step" if not stale else f"rewrote {', '.join(map(str, stale))}")


if __name__ == "__main__":
    run_main(main)
