"""`python -m ndbatch.cli`: the same as `ndbatch`, where the script is not on the path."""

from ndbatch.cli.app import main

if __name__ == "__main__":
    main()
