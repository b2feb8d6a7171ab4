"""Kernels compiled by Numba, imported only where they are used."""
