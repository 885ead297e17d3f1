"""Shelf: what is measured from predictions."""
