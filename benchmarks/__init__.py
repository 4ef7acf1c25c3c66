"""Speed of mpt, measured as ratios: ``make bench``."""
