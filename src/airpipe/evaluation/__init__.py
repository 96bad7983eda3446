"""Restoration of whole images, and what is measured on it: protocols, metrics, features, recognition, memory."""
