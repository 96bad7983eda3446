"""Restore photos with a trained model: the same as `airpipe restore`.

Example: python scripts/restore.py photo.jpg -m <method>/<setting>/seed0/<stage>
"""

import sys

from airpipe.cli.main import main
from airpipe.errors import run_main

if __name__ == "__main__":
    run_main(lambda: main(["restore", *sys.argv[1:]]))
