"""Supervised all-in-one training from scratch: the control of every pretraining claim."""
