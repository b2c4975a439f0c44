"""`python -m potstill`, and with it `accelerate launch -m potstill distill recipe.toml`."""

from potstill.cli import main

if __name__ == "__main__":
    main()
