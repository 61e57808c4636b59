"""Data: the synthetic world whose scenes can be read back from their pixels."""
