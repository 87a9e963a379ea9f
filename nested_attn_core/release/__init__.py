"""Encoders in the layout of their authors' training code, recognised by structure."""
