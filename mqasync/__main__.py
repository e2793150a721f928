"""`python -m mqasync` is the command `mqasync`; nothing else."""

from .cli import main

if __name__ == "__main__":
    main()
