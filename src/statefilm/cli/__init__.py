"""The `statefilm` command: parsing, checking, running and reporting; imports torch late."""
