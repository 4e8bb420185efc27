"""What every room needs to know of the process it runs in: forks, interrupts, paths, errors that are kept."""
