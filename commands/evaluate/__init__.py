"""The parts of `dev.py eval`."""
