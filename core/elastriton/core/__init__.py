"""Decisions and data: the standard library and numpy; no clock, no threads, no torch. Time is an argument."""
