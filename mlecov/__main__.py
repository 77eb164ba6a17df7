"""`python -m mlecov`: the command line."""

from mlecov.cli import main

if __name__ == "__main__":
    main()
