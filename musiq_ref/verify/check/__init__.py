"""Checking a single op or gradient."""
