"""The only place in the pack that knows the host's modules."""
