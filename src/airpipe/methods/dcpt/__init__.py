"""DCPT: degradation-classification pretraining, and what is trained from it."""
