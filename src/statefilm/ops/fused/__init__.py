"""Neighbouring elementwise steps as one pass over memory, in Triton: import the files by name."""
