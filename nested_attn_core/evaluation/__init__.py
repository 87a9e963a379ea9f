"""Measures: identity, prompt alignment, and the frontier between them."""
