"""Somebody's stages against a fixture, and the reports of it."""
