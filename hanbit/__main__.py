"""`python -m hanbit`, which is how torchrun starts every process."""

from hanbit.cli.main import main

if __name__ == "__main__":
    main()
