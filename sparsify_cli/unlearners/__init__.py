"""Shelf: how samples are forgotten."""
