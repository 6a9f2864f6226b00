"""python -m rsd_edge: the same as the command rsd-edge."""

from rsd_edge.cli import main

if __name__ == "__main__":
    main()
