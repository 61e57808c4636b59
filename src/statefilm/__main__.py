"""Runs the command line as `python -m statefilm`."""

from statefilm.cli.main import main

if __name__ == "__main__":
    main()
