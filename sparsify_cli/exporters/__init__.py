"""Shelf: formats, each with its verification."""
