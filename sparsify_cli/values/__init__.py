"""Frozen values: what each noun owns."""
