"""Annotated images of every usual layout, checked, as boxes, masks and classes."""
