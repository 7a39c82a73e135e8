"""Tools of the maintainers: benchmark, coverage, learning, generated data, published counts. Never installed."""
