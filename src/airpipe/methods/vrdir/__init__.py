"""VRD-IR: features of degraded images are brought back to those of clean ones, in three stages."""
