"""Real benchmark images for tests: AIRPIPE_SAMPLE_ROOT names their folder, as config/overlays/samples.yaml has it."""

import os
from pathlib import Path

import pytest

SAMPLES = Path(os.environ.get("AIRPIPE_SAMPLE_ROOT", "nowhere"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="AIRPIPE_SAMPLE_ROOT names no folder of images")
