"""Run scripts/train.py several times in one process, for tests that start torchrun once for all.

Arguments: a file with one JSON list a line, each the words after `python`.
"""

import json
import runpy
import sys
from pathlib import Path

from toys.loop import registered

if __name__ == "__main__":
    main = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "train.py"))["main"]
    lines = Path(sys.argv[1]).read_text().splitlines()
    with registered():
        for line in lines:
            sys.argv = json.loads(line)
            main()
