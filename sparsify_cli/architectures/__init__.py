"""Shelf: built-in networks."""
