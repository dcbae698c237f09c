"""Decisions and data; no clock, no threads, no torch. Time is an argument.

The standard library and numpy; numba for the policy `joint`.
"""
