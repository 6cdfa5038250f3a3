"""The work of one task: a panel, from its bytes to its partial sum, without Dask."""
