"""One paper, one folder."""
