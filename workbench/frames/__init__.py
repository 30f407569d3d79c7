"""Frames: schemas, recordings, symbols and exporters. What a table means and how it lives on disk.

Add a frame by declaring its schema in `schema.py`; add a file format in `export/`. Nothing here needs privilege,
BPF or a running target: every line of this room must work for a reviewer who only has the recording.
"""
