"""`python -m ndbatch` is the command `ndbatch`."""

from ndbatch.cli.app import main

if __name__ == "__main__":
    main()
