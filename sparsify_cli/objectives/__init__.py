"""Shelf: what is minimised."""
