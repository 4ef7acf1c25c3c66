"""Measure the speed of mpt as ratios: ``make bench``."""
