"""`python -m hyperinverter COMMAND ...`, also under torchrun: `torchrun -m hyperinverter train phase2 ...`."""

from hyperinverter.config.commands import main

if __name__ == "__main__":
    main()
