"""Kernels compiled by Numba. They are imported only where they are used."""
