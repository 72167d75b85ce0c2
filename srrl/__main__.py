"""``python -m srrl`` is the console script."""

from srrl.cli import main

if __name__ == "__main__":
    main()
