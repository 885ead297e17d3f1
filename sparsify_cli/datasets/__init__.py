"""Shelf: where samples come from."""
