"""Protocols, metrics, tiled restoration, complexity."""
