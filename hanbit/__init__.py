"""Hanbit: from raw text to a large language model trained over many devices, and one that speaks."""
