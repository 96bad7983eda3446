"""Real benchmark images for tests: the folder that AIRPIPE_SAMPLE_ROOT names, as config/overlays/samples.yaml expects it."""

import os
from pathlib import Path

import pytest

SAMPLES = Path(os.environ.get("AIRPIPE_SAMPLE_ROOT", "nowhere"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="AIRPIPE_SAMPLE_ROOT names no folder of images")
