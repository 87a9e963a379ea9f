"""Tests in a browser; a package, so that its browser and server end with its last test."""
