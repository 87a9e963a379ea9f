"""Training: data, objective, loop. Drives the host's models through a protocol; imports no host."""
